"""Opened runs as a preference dataset that training reads, and that dataset as one zip file."""

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sr_core.backbones.prior import SCALE
from sr_core.errors import InputError
from sr_core.files import replace_text
from sr_core.preference_data.card import CardFacts
from sr_core.preference_data.dataset import candidate_schema
from sr_core.preference_data.folder import RECIPE, complete_dataset
from sr_core.preference_data.pairing import MeanSpread, Paired, PairSettings, Refused
from sr_core.preference_data.run_groups import stored_group
from sr_core.preference_data.shards import ScoredGroup, Seconds, group_table, write_group
from sr_core.preferences import weigh_each
from sr_core.runs import Run

GROUPS_PER_SHARD = 64

_MADE = """Exported from opened runs by SR Reward Explorer; scores are those of the runs' own files. `group_id` names a
run by the digest of its run.json."""
_BIASES = (
    "The photographs were chosen by whoever opened the page; how they were degraded is not known.",
    "What the models and tools that drew the candidates never make is never preferred.",
)


def untrainable(run: Run) -> str | None:
    """Return why training cannot read a run's candidates, or None if it can."""
    photo, name = run.values["input"], run.values["input"]["name"]
    width, height = run.values["size"]
    if (width, height) != (SCALE * photo["width"], SCALE * photo["height"]):
        return (
            f"{name} must be enlarged by {SCALE} for training, "
            f"got {photo['width']} x {photo['height']} px to {width} x {height} px"
        )
    return None


def export_runs(
    paired: Paired, folder: Path, settings: PairSettings, mean_spread: MeanSpread, created_at: datetime
) -> list[Refused]:
    """Write the runs' candidates and pairs as a dataset into an empty folder; returns those that are left out.

    The weights are those of `weigh_run` with the same `mean_spread`. A run that is there twice counts once. Raises
    InputError if no run is left.
    """
    refused, groups = list(paired.refused), folder / "groups"
    groups.mkdir(parents=True)
    metric_sets: dict[str, str] = {}
    keys = _score_keys(paired.runs)
    parts: list[Path] = []
    kept: list[Run] = []
    for run in paired.runs:
        group = _group(run, settings, refused)
        if group is None or group.group_id in metric_sets:
            continue
        metric_sets[group.group_id] = str(run.values["metric_set"])
        kept.append(run)
        parts.append(groups / f"{len(parts):06d}.parquet")
        write_group(parts[-1], group_table(group, candidate_schema(keys), created_at), Seconds(0.0, 0.0, 0.0))
    if not parts:
        raise InputError("there must be a run to train on: " + "; ".join(refusal.reason for refusal in refused))
    recipe = {
        "num_candidates": settings.num_candidates,
        "top": settings.top,
        "fidelity_weight": settings.fidelity_weight,
        "ddof": 0,
        "mu_sigma": mean_spread.value,
        "mu_sigma_of": mean_spread.words,
        "metric_sets": metric_sets,
    }
    replace_text(folder / RECIPE, json.dumps(recipe, indent=1))
    facts = _facts(kept, settings, mean_spread, recipe)
    complete_dataset(
        folder,
        parts,
        candidate_schema(keys),
        facts,
        groups_per_shard=GROUPS_PER_SHARD,
        weigh=partial(weigh_each, mean_spread=mean_spread.value),
    )
    shutil.rmtree(groups)
    return refused


def _score_keys(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for record in run.candidates for key in record.scores))


def _group(run: Run, settings: PairSettings, refused: list[Refused]) -> ScoredGroup | None:
    """Return a run as a group, or None and the reason in `refused`."""
    reason = untrainable(run)
    if reason is None:
        try:
            return stored_group(run, fidelity_weight=settings.fidelity_weight)
        except InputError as error:
            reason = str(error)
    refused.append(Refused(run, reason))
    return None


def _facts(
    runs: Sequence[Run], settings: PairSettings, mean_spread: MeanSpread, recipe: Mapping[str, Any]
) -> CardFacts:
    models = sorted({f"`{run.values['backbone']}` (adapter `{run.values['adapter']}`)" for run in runs})
    metric_sets = sorted({f"`{run.values['metric_set']}`" for run in runs})
    if mean_spread.value is None:
        weights = "Of one photo alone `w_inter` and `w_total` are undefined and null."
    else:
        weights = f"`w_inter` compares with the mean spread {mean_spread.value:.6g} of {mean_spread.words}."
    return CardFacts(
        drawn=f"from {settings.num_candidates} candidates by {', '.join(models)} or brought along",
        made=_MADE,
        metric_set=", ".join(metric_sets),
        fidelity_weight=settings.fidelity_weight,
        top=settings.top,
        weights=weights,
        biases=_BIASES,
        recipe=recipe,
    )


def pack_dataset(folder: Path, target: Path) -> Path:
    """Pack a dataset's folder into one zip file, under the folder's own name, and return the file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # tables and pictures are compressed already
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return target
