"""Judging and installing what IQA-guided training made, with a model card that says what was not tested."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sr_core.assets import ASSETS
from sr_core.backbones.adapters import PEFT_FILES
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from train.ablations import table
from train.checkpoints import finished
from train.compact_trainee import head_file
from train.iqa_config import IqaRecipe
from train.iqa_guided import iqa_adapter
from train.judge import judge_adapters
from train.judge_tables import SFT, compare, judgement_text
from train.publish import IQA_TITLES, install_adapter

JUDGED = "judged.json"
CARD = """---
license: apache-2.0
library_name: peft
pipeline_tag: image-to-image
tags: [image-super-resolution, lora]
---

# {title}: adapter `{name}` of `compact`

A LoRA of rank {rank} on the convolutions of the flow head, trained as in "Augmenting Perceptual Super-Resolution via
Image Quality Predictors" (arXiv 2504.18524):
{method}.
Photographs and their licences: those of the head, see [data.md](../../data.md).

Use: `sr upscale PHOTO --out DIR --adapter {name} --compare-with sft`, or the page's Adapter menu.
Made by `python -m train iqa train/recipes/compact_{name}.yaml`: {steps} steps of {batch} patches of {patch} px,
{groups} crops of {sources}, {cpu:.1f} core-minutes on {device}, {dtype}. That is a small run: it shows the method at
work and is no claim of the paper's quality.

## Targets

Strategy `{strategy}`, scored by {metric}. The paper's HGGT data (people's choice among four enhanced originals) is not
here. The enhanced versions are {enhanced}
(filters, and the model itself on the halved original). No person has called any of them better.

## Held-out figures

By `python -m train evaluate train/recipes/compact_{name}.yaml` on the photographs below; gains are positive where the
adapter is better, intervals by bootstrap over photographs. BRISQUE {role};
NIQE did not train it, nor did ST-LPIPS, PIQE, LSD and PSNR. Rewards hold BRISQUE, so read the hold-outs first.

{judged}

## Limits

- The strategies with human labels (`upos`, `smp`) were tested on synthetic labels only.
- A score of scene statistics can be gamed: `python -m train iqa-attack train/recipes/compact_iqa_ft.yaml` shows how,
  and how far a LoRA holds it back.
"""
_IN_THE_LOSS = (
    "chose the targets and is in the loss, and the number of steps was settled after a look at held-out figures"
)
_METHODS = {
    "amo": "AMO, which shows the model, of the same random patch of every target, the one with the best score",
    "ft": "direct optimisation of the score, L1 + LPIPS - lambda_Q Q on what the head draws, with AMO's targets",
}


def _hash(adapter: Path) -> str:
    return hashlib.sha256((adapter / PEFT_FILES[1]).read_bytes()).hexdigest()


def judge_iqa(recipe: IqaRecipe) -> dict[str, Any]:
    """Judge a recipe's adapter against the head itself on its held-out photographs.

    Writes `judged.json` into the recipe's output and returns its content, with a table under "text". Raises ConfigError
    if the recipe names no held-out photographs or nothing was trained.
    """
    if recipe.held_out is None:
        raise ConfigError("judging needs the section held_out: photos that never train")
    adapter, out = iqa_adapter(recipe), Path(recipe.output)
    models = {SFT: None, out.name: adapter}
    values = judge_adapters(
        models, recipe.held_out, recipe.draw, out.parent / "judged", head=head_file(recipe.backbone)
    )
    content = compare(values, out.name, SFT)
    content["adapter_sha256"] = _hash(adapter)
    content["text"] = judgement_text(content)
    replace_text(out / JUDGED, json.dumps(content, indent=1) + "\n")
    return content


def iqa_rows(runs: list[Path]) -> str:
    """Return judged runs as rows of the README's table."""
    return table({run.name: json.loads((run / JUDGED).read_text(encoding="utf-8")) for run in runs})


def publish_iqa(run: Path, name: str, folder: Path | None = None) -> Path:
    """Copy the adapter of a run to `folder` (assets/compact/adapters/NAME) with its card; returns the folder.

    Raises ConfigError if the run is not trained or not judged, its targets or its score are not those that the card
    speaks of, or the name is not one that ships.
    """
    if name not in IQA_TITLES:
        raise ConfigError(f"the adapter's name must be one of {', '.join(IQA_TITLES)}, got {name!r}")
    contents = {}
    for file in ("recipe.json", JUDGED, "summary.json"):
        if not (run / file).is_file():
            raise ConfigError(f"publishing needs {run / file}; train and evaluate the recipe first")
        contents[file] = json.loads((run / file).read_text(encoding="utf-8"))
    recipe, judged, summary = contents.values()
    if judged["adapter_sha256"] != _hash(run / "adapter"):
        raise ConfigError(f"{run}/{JUDGED} belongs to another adapter; run: python -m train evaluate RECIPE")
    states = finished(run / "checkpoints")
    if not states:
        raise ConfigError(f"{run} holds no finished checkpoint; train it first")
    state = json.loads((states[-1] / "state.json").read_text(encoding="utf-8"))
    made = json.loads((Path(recipe["dataset"]) / "recipe.json").read_text(encoding="utf-8"))
    optimised = recipe["quality"]["quality"] > 0
    spoken = recipe["targets"]["strategy"], recipe["targets"]["metric"], recipe["quality"]["metric"]
    if spoken[:2] != ("amo", "brisque") or (optimised and spoken[2] != "brisque"):
        raise ConfigError(f"the card speaks of strategy amo and of brisque alone, this run has {', '.join(spoken)}")
    card = CARD.format(
        title=IQA_TITLES[name],
        name=name,
        rank=recipe["lora"]["rank"],
        method=_METHODS["ft" if optimised else "amo"],
        steps=state["step"],
        batch=recipe["optim"]["batch_size"],
        patch=4 * recipe["window_px"],
        groups=summary["groups"],
        sources=f"{made['crop_px']} px",
        cpu=state["cpu_s"] / 60,
        device=summary["device"],
        dtype=summary["dtype"].removeprefix("torch."),
        strategy=recipe["targets"]["strategy"],
        metric=recipe["targets"]["metric"].upper(),
        enhanced=", ".join(made["sources"]),
        role=_IN_THE_LOSS if optimised else "chose the targets",
        judged=judgement_text(judged),
    )
    return install_adapter(run / "adapter", card, folder or ASSETS / "compact" / "adapters" / name)
