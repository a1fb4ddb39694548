"""Online rounds: curate from the newest policy, prefer, judge on held-out photographs, stop when a reward is gamed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sr_core.adapter_comparison import union_rewards
from sr_core.errors import ConfigError
from sr_core.files import replace_text
from train.checkpoints import finished
from train.compact_trainee import head_file
from train.config import in_todays_settings, load_recipe, parse_recipe, recipe_values
from train.curate import curate
from train.judge import held_out_photos, judge_adapters
from train.judge_tables import HOLD_OUTS, SFT, TRAINED, Judged, compare, judgement_text, lower_is_better
from train.policy import REFERENCE
from train.prefer import train_prefer
from train.preference_config import CurateRecipe, PreferRecipe
from train.processes import Processes
from train.report import write_report
from train.round_rule import (
    HeldOut,
    Judgement,
    PerPhoto,
    change_since,
    check_judgement,
    check_photos,
    judgement_of,
    round_record,
    standing,
    verdict_on,
)
from train.trainees import ADAPTER

MARKER = "_SUCCESS"
"""Written last in the folder of a round; holds the round's record as JSON."""
ROUNDS, JUDGED = "rounds.json", "judged.json"
PHOTOS = "photo_sha256"
"""Key of a round's record: SHA-256 of every held-out photograph's file by the photograph's name."""
MAY_CHANGE = (
    "output", "dataset", "cache", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "trackers",
)  # fmt: skip
"""What a restarted series may set anew, beside `rounds.count`."""


@runtime_checkable
class Prefer(Protocol):
    """Preference training, as `train_prefer` does it."""

    def __call__(self, recipe: PreferRecipe, *, resume: bool, policy_start: Path | None) -> Path:
        """Return the PEFT folder of the trained adapter, `adapter` in the recipe's output."""


def judge_adapter(recipe: PreferRecipe, adapter: Path) -> Judgement:
    """Return what the recipe's held-out photographs say of an adapter.

    All of it is written beside the adapter, with a new report. Every process must call it: they share the photographs.
    What was drawn and scored is kept, so that the SFT model is judged once for all rounds.
    """
    assert recipe.held_out is not None
    start = None if recipe.backbone.adapter is None else Path(recipe.backbone.adapter)
    name = recipe.objective.name
    judged = judge_adapters(
        {SFT: start, name: adapter},
        recipe.held_out,
        recipe.draw,
        Path(recipe.output) / "judged",
        head=head_file(recipe.backbone),
    )
    if Processes().is_main:
        content = compare(judged, name, SFT)
        content["text"] = judgement_text(content)
        replace_text(adapter.parent / JUDGED, json.dumps(content, indent=1) + "\n")
        write_report(adapter.parent)
    return judgement_from(judged, name)


def judgement_from(judged: Judged, name: str) -> Judgement:
    """Return the rewards and hold-outs of the adapter `name` and of the SFT model, one value per photograph."""
    presets = tuple(judged[name])
    photos = tuple(sorted(judged[name][presets[0]]))

    def per_photo(value: Callable[[str, str], float]) -> PerPhoto:
        return np.array([np.mean([value(preset, photo) for preset in presets]) for photo in photos])

    def reward_of(side: int) -> PerPhoto:
        def mean(preset: str, photo: str) -> float:
            return float(union_rewards(judged[name][preset][photo], judged[SFT][preset][photo], TRAINED)[side].mean())

        return per_photo(mean)

    def raw(model: str, metric: str) -> PerPhoto:
        return per_photo(lambda preset, photo: float(np.mean(judged[model][preset][photo][metric])))

    hold_outs = {m: HeldOut(raw(SFT, m), raw(name, m), lower_is_better(m)) for m in HOLD_OUTS}
    return Judgement(photos, HeldOut(reward_of(1), reward_of(0), False), hold_outs)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The three things that a round does."""

    curate: Callable[[CurateRecipe], Path] = curate
    prefer: Prefer = train_prefer
    judge: Callable[[PreferRecipe, Path], Judgement] = judge_adapter
    """Called in every process, with the recipe of the whole series and the adapter in the folder of its round."""


def round_folder(output: Path, number: int) -> Path:
    """Return where round `number`, from 1, lies."""
    return output / f"round_{number}"


class _Series:
    """The rounds of one recipe on disk."""

    def __init__(self, recipe: PreferRecipe, parts: Parts) -> None:
        if recipe.rounds is None or recipe.held_out is None:
            raise ConfigError("online rounds need the sections `rounds` and `held_out` in the recipe")
        head_file(recipe.backbone)  # other backbones are not passed from round to round
        if recipe.lora.train != "lora":
            raise ConfigError("online rounds pass an adapter on: lora.train must be lora, got full")
        self.recipe, self.parts, self.rounds, self.held_out = recipe, parts, recipe.rounds, recipe.held_out
        self.curation = load_recipe(CurateRecipe, Path(recipe.rounds.curate))
        self.output = Path(recipe.output)
        self.records: list[dict[str, Any]] = []

    def settings(self) -> dict[str, Any]:
        """Return what may not change between a start and a restart, as JSON stores it."""
        values = recipe_values(self.recipe)
        values["rounds"] |= {"count": None, "curate": recipe_values(self.curation)}
        return json.loads(json.dumps({key: value for key, value in values.items() if key not in MAY_CHANGE}))

    def check_same(self) -> None:
        """Raise ConfigError if the output holds rounds of another recipe."""
        path = self.output / ROUNDS
        if not path.is_file():
            if (self.output / "checkpoints").is_dir():
                raise ConfigError(f"{self.output} already holds a run of prefer; name another output")
            return
        stored = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        found, wanted = in_todays_settings(stored), in_todays_settings(self.settings())
        changed = sorted(key for key in found | wanted if found.get(key) != wanted.get(key))
        if changed:
            raise ConfigError(f"{self.output} holds rounds with another {', '.join(changed)}; name another output")

    def photos(self) -> dict[str, str]:
        """Return the digests of the held-out photographs as they are now; those of the finished rounds are the same.

        Rounds of earlier versions hold no digests to compare with. Raises ConfigError if a photograph is another one.
        """
        found = {photo.path.stem: photo.digest for photo in held_out_photos(self.held_out)}
        judged = next((record[PHOTOS] for record in reversed(self.records) if PHOTOS in record), found)
        check_photos(judged, found)
        return found

    @property
    def newest(self) -> Path | None:
        """Return the newest accepted adapter; None while that is the SFT model."""
        accepted = self.accepted
        return None if accepted is None else round_folder(self.output, accepted["round"]) / ADAPTER

    @property
    def accepted(self) -> dict[str, Any] | None:
        """Return the record of the best accepted round, which is always the newest one."""
        return next((record for record in reversed(self.records) if record["accepted"]), None)

    def curate(self, number: int) -> Path:
        """Draw, score and pair candidates of the newest adapter with this round's own seed."""
        backbone = recipe_values(self.recipe.backbone)
        del backbone["training_guidance"]  # of training alone
        if self.newest is not None:
            backbone["adapter"] = str(self.newest)
        own = {
            "seed": self.curation.seed + number - 1,
            "output": str(round_folder(self.output, number) / "dataset"),
            "backbone": backbone,
        }
        return self.parts.curate(parse_recipe(CurateRecipe, recipe_values(self.curation) | own, f"round {number}"))

    def prefer(self, number: int, dataset: Path) -> Path:
        """Train from the newest adapter against the fixed reference; go on where a checkpoint lies."""
        folder = round_folder(self.output, number)
        own = {
            "seed": self.recipe.seed + number - 1,
            "output": str(folder),
            "dataset": str(dataset),
            "cache": str(folder / "cache"),
        }
        recipe = parse_recipe(PreferRecipe, recipe_values(self.recipe) | own, f"round {number}")
        resume = bool(finished(folder / "checkpoints"))
        return self.parts.prefer(recipe, resume=resume, policy_start=self.newest)

    def judge(self, number: int, adapter: Path) -> dict[str, Any]:
        """Compare with the best accepted round and return this one's record."""
        photos = self.photos()  # again: a round takes hours
        judgement = self.parts.judge(self.recipe, adapter)
        check_judgement(judgement)
        best = standing(judgement, of="sft")
        if self.accepted is not None:
            best = standing(judgement_of(self.accepted), of="adapter")
        change = change_since(best, judgement)
        verdict = verdict_on(change, self.rounds.tolerance)
        return {**round_record(number, judgement, change, verdict), PHOTOS: photos}

    def finish(self, number: int, record: dict[str, Any]) -> None:
        """Mark a round as finished."""
        replace_text(round_folder(self.output, number) / MARKER, json.dumps(record, indent=1))

    def read(self) -> bool:
        """Take in the next round if it is finished; False if it is not."""
        path = round_folder(self.output, len(self.records) + 1) / MARKER
        if path.is_file():
            self.records.append(json.loads(path.read_text(encoding="utf-8")))
        return path.is_file()

    def stopped(self) -> str | None:
        """Return why no further round is due; None while one is."""
        if self.records and self.records[-1]["stop"]:
            return f"stopped after round {len(self.records)}: {self.records[-1]['reason']}"
        if len(self.records) >= self.rounds.count:
            return f"all {self.rounds.count} rounds are done"
        return None

    def write(self) -> None:
        """Write all rounds' figures so far."""
        accepted = self.accepted
        content = {
            "accepted_round": 0 if accepted is None else accepted["round"],
            "stopped": self.stopped(),
            "tolerance": self.rounds.tolerance,
            "recipe": self.settings(),
            "rounds": self.records,
        }
        path, text = self.output / ROUNDS, json.dumps(content, indent=1)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            replace_text(path, text)
            write_report(self.output)

    def keep(self) -> None:
        """Copy the accepted adapter; where no round was, round 1's reference, which is the SFT model."""
        source = self.newest or round_folder(self.output, 1) / REFERENCE
        partial, final = self.output / f".{ADAPTER}.partial", self.output / ADAPTER
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)


def run_rounds(recipe: PreferRecipe, parts: Parts | None = None) -> Path:
    """Repeat curation and preference training and return the PEFT folder of the adapter that was accepted last.

    Every round starts from the newest accepted adapter, while the reference stays the SFT model. After each one the
    same held-out photographs, degradations and seeds judge it, see `verdict_on`. Rounds lie in `round_1`, `round_2` ...
    of the recipe's output, beside `adapter` and `rounds.json`; finished ones are not made again and a half one goes on.
    `recipe.rounds.count` may grow from one start to the next, nothing else that makes numbers may change.
    Raises ConfigError if a section is missing, the output holds rounds of another recipe, or the held-out photographs
    are not those of the rounds before.
    """
    series = _Series(recipe, parts or Parts())
    series.check_same()
    processes = Processes()
    processes.wait()
    while series.stopped() is None and series.read():
        pass
    if processes.is_main and series.records:
        series.write()
    while series.stopped() is None:
        series.photos()  # told before the work, not after
        number = len(series.records) + 1
        record = series.judge(number, series.prefer(number, series.curate(number)))
        if processes.is_main:
            series.finish(number, record)
        processes.wait()
        series.read()
        if processes.is_main:
            series.write()
    if processes.is_main:
        series.keep()
    processes.wait()
    return series.output / ADAPTER
