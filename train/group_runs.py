"""Groups of a curated dataset as run folders, which the page and `sr join` open."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sr_core.backbones import BACKBONES
from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import PreferenceDataset, decode_png, open_dataset
from sr_core.preference_data.folder import stored_recipe
from sr_core.preference_data.shards import FURTHER
from sr_core.rewards.group import hybrid_reward, score_term
from sr_core.runs import CandidateRecord, Run, new_run_id
from sr_core.version import VERSION

_INPUT, _REFERENCE = "input.png", "reference.png"


def write_runs(dataset: Path, out: Path) -> list[Run]:
    """Write every group of a dataset as a run folder in `out`, named after the group, and return the runs.

    Pixels, scores, rewards and ranks are those of the dataset. Raises ConfigError if the folder is no finished dataset
    or `out` holds runs already.
    """
    opened, recipe = open_dataset(dataset), stored_recipe(dataset)
    if not recipe:
        raise ConfigError(f"{dataset} must hold recipe.json, which says how its groups were scored")
    taken = [group for group in opened.group_ids if (out / group).exists()]
    if taken:
        raise ConfigError(f"{out} must not hold runs of the dataset yet, got {taken[0]}; name another folder")
    return [_write_run(opened, recipe, index, out) for index in range(len(opened))]


def _write_run(dataset: PreferenceDataset, recipe: Mapping[str, Any], index: int, out: Path) -> Run:
    """Write one group: its pictures as they are stored, byte for byte, and then run.json."""
    rows = dataset.rows(index).to_pylist()
    folder, first = out / rows[0]["group_id"], rows[0]
    folder.mkdir(parents=True)
    (folder / _INPUT).write_bytes(first["lr_image"]["bytes"])
    if first["hr_image"] is not None:
        (folder / _REFERENCE).write_bytes(first["hr_image"]["bytes"])
    records = []
    for row in rows:
        record = _record(row)
        assert record.file is not None
        (folder / record.file).write_bytes(row["image"]["bytes"])
        records.append(record)
    run = Run(folder=folder, values=_values(rows, recipe), candidates=tuple(records))
    run.save()
    return run


def _record(row: Mapping[str, Any]) -> CandidateRecord:
    seed, candidate = row["seed"], row["candidate_id"]
    name = f"candidate{candidate}.png" if seed is None else f"{_stem(row['photo'])}_seed{seed}.png"
    return CandidateRecord(
        index=candidate,
        seed=seed,
        source=row["model_id"] if seed is None else None,
        rank=row["rank"],
        reward=row["reward"],
        scores={key: value for key, value in row["scores"].items() if value is not None},
        file=name,
        dtype=row["dtype"] or "unknown",
    )


def _stem(photo: str) -> str:
    """Return a file name's stem with the corner of the crop, if it names one, in letters that every disk takes."""
    name, _, corner = photo.partition("@")
    words = [Path(name).stem, *corner.replace(",", "-").split()]
    return re.sub(r"[^\w.-]+", "_", "_".join(words))


def _values(rows: list[dict[str, Any]], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json says beside the candidates, as far as the dataset knows it."""
    first = rows[0]
    drawn = next((row for row in rows if row["seed"] is not None), first)
    lq = first["lr_image"]["bytes"]
    height, width = decode_png(first["lr_image"]).shape[:2]
    fidelity_weight = float(recipe["fidelity_weight"])
    notices = [f"from the group {first['group_id']} of a preference dataset"]
    if first["preset"] is not None:
        notices.append(f"degraded by the preset {first['preset']}")
    return {
        "id": new_run_id(),
        "version": first["code_version"] or VERSION,
        "created_at": first["created_at"].isoformat(timespec="seconds"),
        "input": {
            "file": _INPUT, "name": Path(first["photo"]).name,
            "width": width, "height": height, "sha256": hashlib.sha256(lq).hexdigest(),
        },
        "size": [first["width"], first["height"]],
        "prior": None,
        "backbone": drawn["model_id"] or "unknown",
        "adapter": drawn["adapter"] or "unknown",
        "compare_adapter": None,
        "dtype": drawn["dtype"],
        "steps": drawn["steps"] or 1,
        "sampler": drawn["sampler"] or "euler",
        "schedule": drawn["schedule"],
        "noise": drawn["generator"],
        "color": drawn["color_fix"] or "off",
        **_further(drawn),
        "metric_set": recipe["metric_set"] if "metric_set" in recipe else recipe["metric_sets"][first["group_id"]],
        "fidelity_weight": fidelity_weight,
        "tie_band": _tie_band(rows, fidelity_weight),
        "reference": first["hr_image"] is not None,
        "metrics": json.loads(first["metric_versions"]),
        "left_out": [],
        "notices": notices,
        "status": "done",
    }  # fmt: skip


def _further(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that only some backbones have; tables give a guidance of 1 to those that have none."""
    spec, settings = BACKBONES.get(drawn["model_id"]), json.loads(drawn["tile_cfg"] or "{}")
    if drawn["guidance"] is not None and (spec is None or spec.defaults.guidance is not None):
        settings["guidance"] = drawn["guidance"]
    return {name: value for name, value in settings.items() if name in (*FURTHER, "guidance")}


def _tie_band(rows: list[dict[str, Any]], fidelity_weight: float) -> float:
    raw = {key: [row["scores"][key] for row in rows] for key in rows[0]["scores"]}
    known = {key: values for key, values in raw.items() if None not in values}
    return hybrid_reward(known, {key: score_term(key) for key in known}, fidelity_weight=fidelity_weight).tie_band
