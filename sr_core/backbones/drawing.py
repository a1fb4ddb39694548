"""How a backbone draws candidates: its own settings, and what a request changes in them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from sr_core.color import COLOR_TRANSFERS
from sr_core.errors import ConfigError
from sr_core.samplers import SAMPLERS
from sr_core.schedules import SCHEDULES
from sr_core.tiling import TILE

NATIVE = "native"
"""The sampler that a release uses: its own scheduler of diffusers."""
FLOW_SAMPLERS = tuple(SAMPLERS)
ALL_SAMPLERS = (NATIVE, *FLOW_SAMPLERS)
STARTS = ("noise", "lq")
AUTO_PROMPT = "auto"
"""A prompt that asks the tagger to describe the photo."""
MAX_STEPS = 100
MAX_GUIDANCE = 30.0
MAX_PROMPT = 500
"""Characters; encoders read about 77 words of them."""
_WORDS = {
    "guidance": "guidance",
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "start": "choice of a start",
    "strength": "strength",
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How candidates are drawn, beside their seeds and their size; None is what a backbone does not have."""

    num_steps: int
    sampler: str
    schedule: str
    """Noise levels of euler and heun; the native sampler has its own."""
    color: str
    tile: int
    """Largest side of a tile in LQ pixels."""
    guidance: float | int | None = None
    """Weight of the prompt: classifier-free, or embedded where the network takes it as an input."""
    prompt: str | None = None
    """Text; empty says nothing, `auto` asks the tagger."""
    negative_prompt: str | None = None
    start: str | None = None
    """`noise`, or `lq`: the enlarged photo's latent, noised to the first level."""
    strength: float | int | None = None
    """Share of the way from noise that is drawn, above 0; below 1 only from `lq`."""


COMPACT = Drawing(num_steps=4, sampler="euler", schedule="geometric", color="off", tile=TILE)
"""The default backbone's own settings."""
SETTINGS = tuple(f.name for f in fields(Drawing))


def resolve(defaults: Drawing, given: Mapping[str, Any], *, name: str, samplers: tuple[str, ...]) -> Drawing:
    """Return the settings of a backbone called `name`, with what was given in place of its own; None is not given.

    Raises ConfigError for a value out of range, or for a setting that the backbone does not have.
    """
    changes = {key: value for key, value in given.items() if key in SETTINGS and value is not None}
    for key, words in _WORDS.items():
        if key in changes and getattr(defaults, key) is None:
            raise ConfigError(f"{name} has no {words}: leave it out, got {changes[key]!r}")
    if changes.get("start") == "noise" and defaults.strength is not None:
        changes = {"strength": 1.0, **changes}
    drawing = replace(defaults, **changes)
    if not 1 <= drawing.num_steps <= MAX_STEPS:
        raise ConfigError(f"steps must number 1 to {MAX_STEPS}, got {drawing.num_steps}")
    choices = ((drawing.sampler, samplers), (drawing.schedule, SCHEDULES), (drawing.color, COLOR_TRANSFERS))
    for value, table in (*choices, (drawing.start or STARTS[0], STARTS)):
        if value not in table:
            raise ConfigError(f"must be one of {', '.join(table)}, got {value!r}")
    _check_numbers(drawing)
    for text in (drawing.prompt, drawing.negative_prompt):
        if text is not None and not (len(text) <= MAX_PROMPT and text.isprintable()):
            raise ConfigError(f"a prompt must be one line of at most {MAX_PROMPT} characters, got {len(text)}")
    return drawing


def _check_numbers(drawing: Drawing) -> None:
    guidance, strength = drawing.guidance, drawing.strength
    if guidance is not None and not (math.isfinite(guidance) and 0 <= guidance <= MAX_GUIDANCE):
        raise ConfigError(f"guidance must lie in [0, {MAX_GUIDANCE:g}], got {guidance}")
    if strength is not None and not 0 < strength <= 1:
        raise ConfigError(f"strength must lie in (0, 1], got {strength}")
    if strength is not None and strength < 1 and drawing.start != "lq":
        raise ConfigError(f"a strength below 1 needs start lq, got {strength} with start {drawing.start}")
