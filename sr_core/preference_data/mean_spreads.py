"""Mean spreads of a curated dataset's groups, shipped as what a single photo's group is compared with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sr_core.assets import ASSETS
from sr_core.backbones import SFT
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.preference_data.dataset import open_dataset
from sr_core.preference_data.folder import stored_recipe
from sr_core.preference_data.pairing import CIRCUMSTANCES, FAITHFUL_HALF, MeanSpread, PairSettings
from sr_core.preferences import mean_group_spread, select_pairs
from sr_core.runs import Run

SHIPPED = ASSETS / "compact" / "curation_statistics.json"


def mean_spreads(folder: Path) -> dict[str, Any]:
    """Return mu_sigma of a curated dataset for every N and M that its groups allow, with its recipe; ready for JSON.

    For M below the number drawn, each group's first M candidates are normalised anew among themselves. Raises
    ConfigError if the folder is no dataset of curation, or adds runs to it, whose spreads are of anything.
    """
    dataset, recipe = open_dataset(folder), stored_recipe(folder)
    if "draw" not in recipe:
        raise ConfigError(f"{folder} must hold the recipe.json of curation; run: python -m train curate RECIPE")
    if recipe["runs"]:
        raise ConfigError(
            f"{folder} must be curated from crops alone for its mean spreads, got the runs {recipe['runs']}"
        )
    backbone = recipe["backbone"]
    weight, ddof, indices = recipe["fidelity_weight"], recipe["ddof"], range(len(dataset))
    least = min(len(next(iter(dataset.raw(i).values()))) for i in indices)
    rows = []
    for num_candidates in range(2, least + 1):
        rewards = [dataset.rewards(i, num_candidates, weight) for i in indices]
        spreads = [float(r.std(ddof=ddof)) for r in rewards]
        for top in range(1, num_candidates // 2 + 1):
            counts = [len(select_pairs(r, top)) for r in rewards]
            mu_sigma = mean_group_spread(spreads, counts)
            rows.append({"num_candidates": num_candidates, "top": top, "pairs": sum(counts), "mu_sigma": mu_sigma})
    return {
        "made_by": "python -m train curate RECIPE, then python -m train spreads DATASET",
        "dataset": dataset.digest,
        "groups": len(dataset),
        "metric_set": recipe["metric_set"],
        # Crops are what was degraded, so every group has its reference.
        "with_reference": True,
        "backbone": backbone["name"],
        "adapter": SFT if backbone["adapter"] is None else Path(backbone["adapter"]).name,
        "fidelity_weight": weight,
        "ddof": ddof,
        "num_candidates": recipe["draw"]["num_candidates"],
        "top": recipe["top"],
        "mean_spreads": rows,
        "recipe": {name: value for name, value in recipe.items() if name != "output"},
    }


@dataclass(frozen=True, kw_only=True)
class CurationSpreads:
    """The mean spreads of one curation."""

    groups: int
    metric_set: str
    with_reference: bool
    """Whether candidates were compared with the ground truth; without one, consistency with the input is rewarded."""
    backbone: str
    adapter: str
    fidelity_weight: float
    num_candidates: int
    """M of the recipe."""
    top: int
    """N of the recipe."""
    mu_sigma: Mapping[tuple[int, int], float]
    """By (M, N)."""

    def mean_spread(self, settings: PairSettings, run: Run) -> MeanSpread:
        """Return mu_sigma for a run, with what differs between it and the curation."""
        words = f"{self.groups} curated groups"
        return MeanSpread(self.mu_sigma[self.nearest(settings)], words, tuple(self.differences(settings, run)))

    def nearest(self, settings: PairSettings) -> tuple[int, int]:
        """Return the (M, N) whose mu_sigma is taken: these settings' where it is known, else the recipe's."""
        wanted = (settings.num_candidates, settings.top)
        return wanted if wanted in self.mu_sigma else (self.num_candidates, self.top)

    def differences(self, settings: PairSettings, run: Run) -> list[str]:
        """Return in words where a run and its settings differ from those that its mu_sigma was taken with."""
        num_candidates, top = self.nearest(settings)
        own = (FAITHFUL_HALF[self.with_reference], self.metric_set, self.backbone, self.adapter)
        pairs = (
            *((one.name, value, one.of(run)) for one, value in zip(CIRCUMSTANCES, own, strict=True)),
            ("faithful share", f"{self.fidelity_weight:g}", f"{settings.fidelity_weight:g}"),
            ("N of M", f"{top} of {num_candidates}", f"{settings.top} of {settings.num_candidates}"),
        )
        return [f"{name}: {theirs} there, {ours} here" for name, theirs, ours in pairs if theirs != ours]


def write_mean_spreads(folder: Path, out: Path) -> Path:
    """Write what `mean_spreads` says of a dataset; returns the file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, json.dumps(mean_spreads(folder), indent=1) + "\n")
    return out


@cache
def read_mean_spreads(path: Path = SHIPPED) -> CurationSpreads:
    """Read a file of `write_mean_spreads`, by default the shipped one.

    Raises ConfigError for one that an earlier version wrote, which does not say what drew and scored its groups.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("with_reference", "backbone", "adapter") if name not in content]
    if missing:
        raise ConfigError(f"{path} must say {', '.join(missing)}; write it anew: python -m train spreads DATASET")
    return CurationSpreads(
        groups=content["groups"],
        metric_set=content["metric_set"],
        with_reference=content["with_reference"],
        backbone=content["backbone"],
        adapter=content["adapter"],
        fidelity_weight=content["fidelity_weight"],
        num_candidates=content["num_candidates"],
        top=content["top"],
        mu_sigma={(row["num_candidates"], row["top"]): row["mu_sigma"] for row in content["mean_spreads"]},
    )
