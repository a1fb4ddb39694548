"""Install a trained adapter where the page finds it, with a model card made from what its run wrote."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sr_core.assets import ASSETS
from sr_core.backbones.adapters import PEFT_FILES
from sr_core.errors import ConfigError
from sr_core.files import replace_text, replacing
from train.checkpoints import finished
from train.judge_tables import judgement_text

TITLES = {"hpo": "DP2O", "sobolev_dpo": "Sobolev-DPO", "as_dpo": "AS-DPO"}
IQA_TITLES = {"iqa_amo": "IQA-AMO", "iqa_ft": "IQA-FT"}
"""What people call the adapters that ship: those of preference training, and those of `train iqa`."""
SOURCES = {
    "hpo": "hierarchical preference optimisation, DP2O-SR, arXiv 2510.18851",
    "sobolev_dpo": "Sobolev-DPO, ASASR, arXiv 2605.23264",
    "as_dpo": "Sobolev-DPO with an adversarial loser, ASASR, arXiv 2605.23264",
}
CARD = """---
license: apache-2.0
library_name: peft
pipeline_tag: image-to-image
tags: [image-super-resolution, lora, dpo]
---

# {title}: adapter `{name}` of `compact`

A LoRA of rank {rank} on every convolution of the flow head, trained by {source},
on candidates that the head itself drew: {pairs} of {candidates} seeds of {groups} crops. The
reference set is a zero LoRA, that is the head. Reward of training: LPIPS, SSIMULACRA 2, VSI and BRISQUE, NIQE, each
half 0.5. Photographs and their licences: those of the head, see [data.md](../../data.md).

Use: `sr upscale PHOTO --out DIR --adapter {name} --compare-with sft`, or the page's Adapter menu.
Made by `python -m train curate train/recipes/compact_curate.yaml`{adversary} and
`python -m train prefer train/recipes/compact_{name}.yaml`: {steps} steps of {batch} pairs, beta {beta} (multiplies the
difference of mean errors), anchor {anchor}, pull to the reference {kl}, {cpu:.1f} core-minutes on {device}, {dtype}.

## Held-out figures

By `python -m train evaluate train/recipes/compact_{name}.yaml {held_out}` on the photographs below; gains are positive
where the adapter is better, intervals by bootstrap over photographs. ST-LPIPS, PIQE, LSD and PSNR did not train it.
The recipe's anchor was settled after a look at held-out figures, these four among them, so they are not untouched.

{judged}

## Limits

Rewards compare candidates of one photograph, normalised over both models' candidates; they are no absolute quality.
NIQE, BRISQUE and the other metrics of the reward can be gamed, so read the hold-outs first.
"""


_ADVERSARY_STEP = ",\n`python -m train adversary train/recipes/compact_as_dpo.yaml`"


def _overrides(held_out: dict[str, Any]) -> str:
    """Return what to type so that the evaluation reads what this run's recipe read."""
    values = {key: ", ".join(held_out[key]) for key in ("photos", "presets")}
    return " ".join(f"'held_out.{key}=[{value}]'" for key, value in values.items())


def _pairs_text(name: str, top: int) -> str:
    if name == "as_dpo":
        return f"the {top} best (the adversary makes the losers)"
    return f"the {top} best against the {top} worst"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"publishing needs {path}; train and evaluate the recipe first")
    return json.loads(path.read_text(encoding="utf-8"))


def install_adapter(adapter: Path, card: str, target: Path) -> Path:
    """Copy a PEFT folder to `target` with its model card, each file whole or not at all, and return `target`."""
    target.mkdir(parents=True, exist_ok=True)
    # Last what makes the folder an adapter: a killed copy is not offered.
    for file in reversed(PEFT_FILES):
        with replacing(target / file) as copy:
            copy.write((adapter / file).read_bytes())
    replace_text(target / "README.md", card)
    return target


def publish(run: Path, name: str, folder: Path | None = None) -> Path:
    """Copy the adapter of a run to `folder` (assets/compact/adapters/NAME) with its card; returns the folder.

    Raises ConfigError if the run is not trained or not judged, or the name is not one that ships.
    """
    if name not in TITLES:
        raise ConfigError(f"the adapter's name must be one of {', '.join(TITLES | IQA_TITLES)}, got {name!r}")
    recipe, judged, summary = (_json(run / file) for file in ("recipe.json", "judged.json", "summary.json"))
    trained = hashlib.sha256((run / "adapter" / PEFT_FILES[1]).read_bytes()).hexdigest()
    if judged["adapter_sha256"] != trained:
        raise ConfigError(f"{run}/judged.json belongs to another adapter; run: python -m train evaluate RECIPE")
    states = finished(run / "checkpoints")
    if not states:
        raise ConfigError(f"{run} holds no finished checkpoint; train it first")
    state = _json(states[-1] / "state.json")
    statistics = _json(Path(recipe["dataset"]) / "statistics.json")
    objective, optim = recipe["objective"], recipe["optim"]
    card = CARD.format(
        title=TITLES[name],
        name=name,
        source=SOURCES[name],
        rank=recipe["lora"]["rank"],
        pairs=_pairs_text(name, recipe["pairs"]["top"]),
        candidates=statistics["candidates"] // statistics["groups"],
        groups=statistics["groups"],
        adversary=_ADVERSARY_STEP if name == "as_dpo" else "",
        held_out=_overrides(recipe["held_out"]),
        steps=state["step"],
        batch=optim["batch_size"],
        beta=objective["beta"],
        anchor=objective["anchor"],
        kl=objective["kl_weight"],
        cpu=state["cpu_s"] / 60,
        device=summary["device"],
        dtype=summary["dtype"].removeprefix("torch."),
        judged=judgement_text(judged),
    )
    return install_adapter(run / "adapter", card, folder or ASSETS / "compact" / "adapters" / name)
