"""Curation: photographs to candidates, scores, rewards and preference pairs, group by group."""

import json
import shutil
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sr_core.errors import ConfigError
from sr_core.files import replace_text
from sr_core.preference_data.card import CardFacts
from sr_core.preference_data.dataset import MARKER, candidate_schema
from sr_core.preference_data.folder import RECIPE, complete_dataset
from sr_core.preference_data.shards import Seconds, group_table, write_group
from sr_core.preferences import weigh_groups
from train.config import recipe_values
from train.crop_groups import Workshop
from train.curation_plan import Plan, Task, make_plan
from train.preference_config import CurateRecipe
from train.processes import Processes

GROUPS = "groups"
"""Folder of the finished groups' files while a dataset is being made."""
SOURCES = "sources.json"

_MADE = """Made by `python -m train curate RECIPE` with the recipe below; the same recipe on the same files gives the
same rows (but `created_at`) on any number of processes."""
_BIASES = (
    "The degradations are synthetic presets; real cameras, compression chains and scans differ.",
    "All candidates come from one model and one setting, so what it never draws is never preferred.",
)


def curate(recipe: CurateRecipe) -> Path:
    """Make a preference dataset and return its folder; what a killed run finished is kept and not made again.

    Process p of n draws every n-th of the groups that are missing; the first process merges them. What comes out does
    not depend on n. All processes must see the same `output`. A finished dataset of the same recipe is returned as it
    is. Raises ConfigError if `output` holds groups of another recipe or of other files, and as `make_plan` does.
    """
    processes = Processes()
    device = str(processes.device) if processes.device.type == "cuda" else "cpu"
    plan, output = make_plan(recipe, device), Path(recipe.output)
    _check_same(output, plan)
    if (output / MARKER).is_file():
        shutil.rmtree(output / GROUPS, ignore_errors=True)
        return output
    missing = [task for task in plan.tasks if not _path(output, task).is_file()]
    processes.wait()  # all have seen the same groups before one is added
    if processes.is_main:
        _start(output, plan)
    processes.wait()
    _make_groups(plan, missing[processes.index :: processes.count], show=processes.is_main)
    processes.wait()
    if processes.is_main:
        _finish(output, plan)
    processes.wait()
    return output


def _path(output: Path, task: Task) -> Path:
    return output / GROUPS / f"{task.number:06d}.parquet"


def _settling(plan: Plan) -> dict[str, Any]:
    """Return what settles the dataset: the recipe but for where it is written, and digests of what it reads."""
    values = json.loads(json.dumps(recipe_values(plan.recipe)))
    return {RECIPE: values, SOURCES: plan.sources}


def _check_same(output: Path, plan: Plan) -> None:
    for name, wanted in _settling(plan).items():
        path = output / name
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(k for k in {**found, **wanted} if k != "output" and found.get(k) != wanted.get(k))
        if differing:
            raise ConfigError(
                f"{output} was begun with another {', '.join(differing)} (see {name}); name another output"
            )


def _start(output: Path, plan: Plan) -> None:
    groups = output / GROUPS
    groups.mkdir(parents=True, exist_ok=True)
    for leftover in (*groups.glob(".*.part"), *output.glob(".*.part")):
        leftover.unlink()
    for name, content in _settling(plan).items():
        replace_text(output / name, json.dumps(content, indent=1))


def _make_groups(plan: Plan, tasks: list[Task], *, show: bool) -> None:
    if not tasks:
        return
    workshop, schema = Workshop(plan), candidate_schema(plan.score_keys)
    for task in tqdm(tasks, desc="curating", unit="group", disable=not show):
        start = time.monotonic()
        group = workshop.make(task)
        now = datetime.now(UTC)
        table = schema.empty_table() if group is None else group_table(group, schema, now)
        seconds = Seconds(total=time.monotonic() - start, **workshop.seconds_inside())
        write_group(_path(Path(plan.recipe.output), task), table, seconds)


def _finish(output: Path, plan: Plan) -> None:
    """Make the dataset complete, and only then delete the groups' files."""
    recipe, schema = plan.recipe, candidate_schema(plan.score_keys)
    parts = [_path(output, task) for task in plan.tasks]
    complete_dataset(
        output,
        parts,
        schema,
        _card_facts(plan),
        groups_per_shard=recipe.groups_per_shard,
        weigh=partial(weigh_groups, ddof=recipe.ddof),
    )
    shutil.rmtree(output / GROUPS)


def _card_facts(plan: Plan) -> CardFacts:
    recipe = plan.recipe
    drawn = f"from {recipe.draw.num_candidates} seeds" if recipe.crops else "by the runs that were added"
    return CardFacts(
        drawn=f"{drawn} by `{recipe.backbone.name}` (adapter `{plan.adapter}`)",
        made=_MADE,
        metric_set=f"`{recipe.metric_set}`",
        fidelity_weight=recipe.fidelity_weight,
        top=recipe.top,
        weights="Over the table the mean of `w_total` is 1.",
        biases=_BIASES,
        recipe=recipe_values(recipe),
    )
