"""One change at a time: short preference runs that differ from a recipe in one setting, judged alike."""

import json
from pathlib import Path
from typing import Any

from sr_core.errors import ConfigError
from sr_core.files import replace_text
from train.checkpoints import finished
from train.compact_trainee import head_file
from train.config import load_recipe
from train.judge import judge_adapters
from train.judge_tables import HOLD_OUTS, SFT, compare
from train.prefer import train_prefer
from train.preference_config import PreferRecipe
from train.trainees import ADAPTER

PLAIN = ("objective.name=dpo",)
HPO = ("objective.name=hpo",)
SOBOLEV = ("objective.name=sobolev_dpo",)
NO_PREFERENCE = "objective.beta=0.000001"
ABLATIONS: dict[str, tuple[str, ...]] = {
    "best-vs-worst DPO (N/M 1/16)": (*PLAIN, "pairs.top=1"),
    "multi-pair DPO": PLAIN,
    "+ intra": (
        *HPO,
        "pairs.inter=false",
    ),
    "+ inter": (
        *HPO,
        "pairs.intra=false",
    ),
    "HPO": HPO,
    "no preference (anchor and pull alone)": (*HPO, NO_PREFERENCE),
    "HPO without the anchor": (*HPO, "objective.anchor=0.0"),
    "reward: full-reference only": (
        *HPO,
        "pairs.fidelity_weight=1.0",
    ),
    "reward: no-reference only": (
        *HPO,
        "pairs.fidelity_weight=0.0",
    ),
    "HPO, N/M 1/2": (
        *HPO,
        "pairs.top=8",
    ),
    "HPO, N/M 1/8": (
        *HPO,
        "pairs.top=2",
    ),
    "HPO, N/M 1/16": (
        *HPO,
        "pairs.top=1",
    ),
    "HPO, M = 4, N/M 1/2": (*HPO, "pairs.num_candidates=4", "pairs.top=2"),
    "HPO, M = 4, N/M 1/4": (*HPO, "pairs.num_candidates=4", "pairs.top=1"),
    "multi-pair DPO, beta 50": (*PLAIN, "objective.beta=50"),
    "multi-pair DPO, beta 800": (*PLAIN, "objective.beta=800"),
    "HPO, anchor 4": (*HPO, "objective.anchor=4.0"),
    "Sobolev-DPO, s = 0": (*SOBOLEV, "objective.exponent=0.0"),
    "Sobolev-DPO, s = 0.5": (*SOBOLEV, "objective.exponent=0.5"),
    "Sobolev-DPO, s = 1": (*SOBOLEV, "objective.exponent=1.0"),
    "Sobolev-DPO, s = 1.5": (*SOBOLEV, "objective.exponent=1.5"),
    "Sobolev-DPO, s = 2": (*SOBOLEV, "objective.exponent=2.0"),
    "Sobolev-DPO, beta 50": (*SOBOLEV, "objective.beta=50"),
    "Sobolev-DPO, beta 800": (*SOBOLEV, "objective.beta=800"),
    "DPO on supervised pairs": (*PLAIN, "pairs.source=supervised"),
    "AS-DPO": ("objective.name=as_dpo",),
    "AS-DPO, Euclidean guidance": ("objective.name=as_dpo", "objective.guidance=euclidean"),
    "AS-DPO on supervised pairs": ("objective.name=as_dpo", "pairs.source=supervised"),
}
"""Overrides of each row of a recipe with an adversary (compact_as_dpo); everything else is the recipe's."""
TABLE_VALUES, TABLE = "ablations.json", "ablations.md"


def slug(name: str) -> str:
    """Return a row's name as a folder's."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower()).strip("_")


def run_ablations(path: Path, overrides: tuple[str, ...], out: Path, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train every row, or those asked for, and judge it on the recipe's held-out photographs.

    `only` holds parts of names, or whole ones after "=", and its order is the order of the rows. Finished rows are not
    trained again and a killed one goes on.
    Writes `ablations.json` and `ablations.md` into `out`.
    """
    chosen = {name: ABLATIONS[name] for name in chosen_rows(only)}
    recipes = {
        name: load_recipe(PreferRecipe, path, (*overrides, *changes, f"output={out / slug(name)}"))
        for name, changes in chosen.items()
    }
    rows: dict[str, Any] = {}
    for name, recipe in recipes.items():
        if recipe.held_out is None:
            raise ConfigError("ablations need the section held_out: photos that never train")
        folder, changes = out / slug(name), chosen[name]
        adapter = folder / ADAPTER
        if not (adapter / "adapter_model.safetensors").is_file():
            train_prefer(recipe, resume=bool(finished(folder / "checkpoints")))
        start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
        models = {SFT: start, "row": adapter}
        judged = judge_adapters(models, recipe.held_out, recipe.draw, out, head=head_file(recipe.backbone))
        rows[name] = compare(judged, "row", SFT) | {"overrides": list(changes), "log": _last_line(folder)}
        replace_text(out / TABLE_VALUES, json.dumps(rows, indent=1) + "\n")
        replace_text(out / TABLE, table(rows) + "\n")
    return rows


def chosen_rows(only: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that `only` asks for, in its order, or all; raises ConfigError where a part asks for none."""
    found: dict[str, None] = {}
    for part in only:
        names = [name for name in ABLATIONS if part in (f"={name}", name) or (part[:1] != "=" and part in name)]
        if not names:
            raise ConfigError(f"--only must hold parts of row names, or =NAME; {part!r} fits none of {list(ABLATIONS)}")
        found |= dict.fromkeys(names)
    return tuple(found or ABLATIONS)


def _last_line(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def table(rows: dict[str, Any]) -> str:
    """Return the rows as Markdown; gains are against SFT, and those whose 95 % interval holds 0 are in brackets."""
    columns = ("lpips", "ssimulacra2", "vsi", "brisque", "niqe", *HOLD_OUTS, "ssim")
    names = ("mean", "worst", "best")
    header = ["| row | " + " | ".join([*(f"reward, {n}" for n in names), "std ratio", "diversity", *columns]) + " |"]
    header.append("|---" * (1 + len(names) + 2 + len(columns)) + "|")
    lines = []
    for name, row in rows.items():
        cells = [_cell(row["reward"][n]["change"], 3) for n in names]
        cells.append(f"{row['reward']['std']['ours'] / row['reward']['std']['theirs']:.2f}")
        cells.append(f"{row['diversity']['ratio']:.2f}")
        cells += [_cell(row["metrics"][metric]["gain"], 4) for metric in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*header, *lines])


def _cell(gain: dict[str, float], digits: int) -> str:
    text = f"{gain['mean']:+.{digits}f}"
    return f"({text})" if gain["low"] <= 0 <= gain["high"] else text
