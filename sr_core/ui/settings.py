"""The page's settings as one value: from widgets to a job, and from a preset to widgets."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

from sr_core.backbones import BACKBONES, ONE_STEP, SFT, adapter_folder, adapter_label, available_adapters
from sr_core.backbones.drawing import MAX_STEPS
from sr_core.backbones.weights import weights_root
from sr_core.errors import ConfigError
from sr_core.job import Job
from sr_core.limits import MAX_OUTPUT_SIDE

FACTOR, EXACT = "By factor", "Exact size"
YOURS = "Yours"
_DEFAULT = Job()
_DRAWN = _DEFAULT.drawing

WidgetValue = Any
"""What a widget hands over."""

Number: TypeAlias = float | int | None
"""What a number field or a slider hands over; None where it is empty."""


@dataclass(frozen=True)
class Settings:
    """What the widgets hold, in their order on the page; numbers may be missing or fractions."""

    num_candidates: Number = _DEFAULT.num_candidates
    scale: Number = _DEFAULT.scale
    seed: Number = _DEFAULT.seed
    num_steps: Number = _DEFAULT.num_steps
    sizing: str = FACTOR
    width: Number = None
    height: Number = None
    dpi: Number = None
    sampler: str = _DRAWN.sampler
    color: str = _DRAWN.color
    metric_set: str = _DEFAULT.metric_set
    backbone: str = _DEFAULT.backbone
    adapter: str = _DEFAULT.adapter
    compare: bool = True
    """Whether an adapter's seeds are drawn by SFT too; means nothing for SFT itself."""
    bit_depth: int = _DEFAULT.bit_depth
    keep_gps: bool = _DEFAULT.keep_gps
    guidance: Number = None
    """This and what follows means nothing for a backbone that does not have it."""
    prompt: str | None = None
    negative_prompt: str | None = None
    start: str | None = None

    def job(self, *, fidelity_weight: float = 0.5) -> Job:
        """Return the job that the widgets describe; raises ConfigError if a value is missing or out of range."""
        exact = self.sizing == EXACT
        return Job(
            num_candidates=_whole(self.num_candidates, "the number of candidates"),
            seed=_whole(self.seed, "the seed"),
            num_steps=_whole(self.num_steps, "the number of steps"),
            sampler=self.sampler,
            scale=_DEFAULT.scale if exact else _number(self.scale, "the factor"),
            size=(_side(self.width, "width"), _side(self.height, "height")) if exact else None,
            color=self.color,
            metric_set=self.metric_set,
            fidelity_weight=fidelity_weight,
            backbone=self.backbone,
            adapter=self.adapter,
            compare_adapter=SFT if self.compare and self.adapter != SFT else None,
            bit_depth=int(self.bit_depth),
            dpi=_resolution(self.dpi),
            keep_gps=bool(self.keep_gps),
            **self._own_settings(),
        )

    def _own_settings(self) -> dict[str, Any]:
        """Return what only the chosen backbone has, where it was given."""
        if self.backbone not in BACKBONES:
            return {}
        defaults = BACKBONES[self.backbone].defaults
        given = ((name, getattr(self, name)) for name in OWN_SETTINGS if getattr(defaults, name) is not None)
        return {name: value for name, value in given if value is not None}

    def with_preset(self, changes: Mapping[str, Any]) -> "Settings":
        """Return these settings with the fields that a preset sets; names it does not know are passed over."""
        known = {f.name for f in fields(self)}
        return replace(self, **{name: value for name, value in changes.items() if name in known})

    def saved(self) -> dict[str, Any]:
        """Return what the browser remembers as the visitor's own preset."""
        return asdict(self)


OWN_SETTINGS = ("guidance", "prompt", "negative_prompt", "start")
"""What some backbones have and others do not."""

PRESETS: dict[str, dict[str, Any]] = {
    "Fast": {"num_candidates": 4, "num_steps": 2},
    "Balanced": {"num_candidates": 8, "num_steps": 4},
    "Best": {"num_candidates": 16, "num_steps": 8},
}
"""What each named preset sets for `compact`; everything else stays as it is."""


def preset_changes(name: str, backbone: str) -> dict[str, Any]:
    """Return what a named preset sets; another backbone's steps are half, once or twice its own."""
    changes, spec = PRESETS[name], BACKBONES.get(backbone)
    if spec is None:
        return changes
    steps = spec.defaults.num_steps * changes["num_steps"] // _DRAWN.num_steps
    return {**changes, "num_steps": min(MAX_STEPS, max(1, steps))}


def backbone_choices() -> list[tuple[str, str]]:
    """Return (name for people, name) of every backbone."""
    return [(spec.label, name) for name, spec in BACKBONES.items()]


def adapter_choices(backbone: str) -> list[tuple[str, str]]:
    """Return (name for people, name) of every adapter that can be chosen, SFT first."""
    return [(adapter_label(name), name) for name in available_adapters(backbone)]


def describe_adapters(backbone: str) -> str:
    """Say in one sentence what there is to choose, or where adapters would come from."""
    choices = adapter_choices(backbone)
    labels = [label for label, name in choices if name not in (SFT, ONE_STEP)]
    instant = "One step restores at once, from a level that it chooses." if ONE_STEP in dict(choices).values() else ""
    if labels:
        together = " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
        guided = any(name.startswith("iqa") for _, name in choices)
        training = "preference or IQA-guided training" if guided else "preference training"
        return f"SFT is the model before {training}, {together} after it. {instant}".rstrip()
    if instant:
        return f"SFT is the model in several steps. {instant}"
    folder = "/".join(adapter_folder(backbone).parts[-3:])
    return (
        "No adapter is installed beside SFT, the model itself: python -m train prefer makes them, and the page offers "
        f"what lies in {folder} or in {weights_root() / backbone / 'adapters'} when it starts."
    )


def _number(value: Number, what: str) -> float:
    if value is None or not math.isfinite(value):
        raise ConfigError(f"{what} must be a number, got nothing; type one")
    return float(value)


def _whole(value: Number, what: str) -> int:
    number = _number(value, what)
    if number != int(number):
        raise ConfigError(f"{what} must be a whole number, got {number:g}")
    return int(number)


def _side(value: Number, what: str) -> int:
    if not value:  # an empty field of an opened panel comes as 0
        raise ConfigError(f"an exact size needs a {what} in pixels; type one or go back to a factor")
    side = _whole(value, f"the {what}")
    if not 1 <= side <= MAX_OUTPUT_SIDE:
        raise ConfigError(f"the {what} must lie between 1 and {MAX_OUTPUT_SIDE} px, got {side}")
    return side


def _resolution(value: Number) -> float | None:
    if not value:
        return None
    if not 1 <= value <= 10_000:
        raise ConfigError(f"the print resolution must lie between 1 and 10000 dpi, got {value:g}")
    return float(value)
