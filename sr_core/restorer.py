"""The one call: photo and request in, a stream of candidates out."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_core.backbones.backbone import Backbone, Condition, OneStep, WholePhoto
from sr_core.backbones.drawing import ALL_SAMPLERS, COMPACT, FLOW_SAMPLERS, SETTINGS, Drawing, resolve
from sr_core.color import transfer_color
from sr_core.errors import ConfigError
from sr_core.flow import clean_from_velocity, column
from sr_core.noise import block_noise
from sr_core.resampling import resize
from sr_core.samplers import SAMPLERS, integrate
from sr_core.schedules import SCHEDULES
from sr_core.tensors import Enlarged, Image, Latent, Sigma
from sr_core.tiling import TILE, Span, Tile, add_tile, crop, plan_tiles

MAX_CANDIDATES = 16
FLAT = 0.5 / 255
"""Spread, max - min, below which an image counts as constant."""

BackboneOf = Callable[[torch.dtype], Backbone]
"""Gives the same weights in the precision asked for."""
Stop = Callable[[], bool]
"""Asked at every step; True ends the run and keeps what is finished."""
OnStep = Callable[[int, int], None]
"""Told (model passes done, model passes in all) of the whole request."""


class Stopped(Exception):  # noqa: N818 - a request of the user's, not an error
    """The caller's `stop` said so."""


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """What to draw; seed of candidate k is `seed` + k. None asks for the backbone's own setting (see `Drawing`)."""

    num_candidates: int = 8
    seed: int = 0
    size: tuple[int, int] | None = None
    """Output (width, height) in px; None is the backbone's own scale."""
    num_steps: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    color: str | None = None
    tile: int | None = None
    """Side of a tile in LQ pixels."""
    guidance: float | int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    start: str | None = None
    strength: float | int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_candidates <= MAX_CANDIDATES:
            raise ConfigError(f"candidates must number 1 to {MAX_CANDIDATES}, got {self.num_candidates}")
        if not 0 <= self.seed < 2**63 - MAX_CANDIDATES:
            raise ConfigError(f"the seed must be a whole number from 0 to 2^63 - 17, got {self.seed}")
        resolve(_ANYTHING, self.given, name="a request", samplers=ALL_SAMPLERS)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seed of every candidate."""
        return tuple(range(self.seed, self.seed + self.num_candidates))

    @property
    def given(self) -> dict[str, Any]:
        """Return the settings of a `Drawing`, None where the backbone's own is asked for."""
        return {name: getattr(self, name) for name in SETTINGS}

    def drawing(self, backbone: Backbone) -> Drawing:
        """Return all settings for a backbone; raises ConfigError for one that it does not have."""
        if isinstance(backbone, WholePhoto):
            return resolve(backbone.drawing, self.given, name=backbone.name, samplers=ALL_SAMPLERS)
        return resolve(COMPACT, self.given, name=backbone.name, samplers=FLOW_SAMPLERS)


_ANYTHING = Drawing(
    num_steps=1, sampler=FLOW_SAMPLERS[0], schedule="linear", color="off", tile=TILE, guidance=1.0, prompt="",
    negative_prompt="", start="lq", strength=1.0,
)  # fmt: skip
"""A backbone that has every setting, to check those that are given before a backbone is known."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One restoration, or the reason why there is none."""

    index: int
    seed: int
    twin: bool = False
    """Whether the second restorer of the request drew it, from the same seed."""
    pixels: Image | None
    """(1, 3, H, W) float32 in [0, 1]; None when it failed."""
    dtype: str
    """Precision it was drawn in; float32 where a retry was needed."""
    problem: str | None = None
    """Why it failed, in words."""
    notices: tuple[str, ...] = ()
    """What happened while it was drawn that a user should read."""
    level: float | None = None
    """Level that a restoration in one step began at; None for one in several steps."""


class _ConditionStore:
    """Conditions of all tiles for each backbone: observed once, kept in memory for one tile and on disk for many."""

    def __init__(self, backbones: Sequence[Backbone], lq: Image, tiles: Sequence[Tile], *, reused: bool) -> None:
        self._backbones, self._lq, self._tiles = backbones, lq, tiles
        self._in_memory: list[Condition] = []
        self._folder = Path(tempfile.mkdtemp(prefix="sr-tiles-")) if reused and len(tiles) > 1 else None
        self._kind: Callable[..., Condition] | None = None

    def get(self, index: int, place: int) -> Condition:
        """Return what the backbone at `place` needs for the tile at `index`."""
        if len(self._tiles) == 1:
            self._in_memory = self._in_memory or self._encode(index)
            return self._in_memory[place]
        if self._folder is None:
            return self._encode(index)[place]
        path = self._folder / f"{index}-{place}.safetensors"
        if not path.is_file():
            conditions = self._encode(index)
            for k, condition in enumerate(conditions):
                tensors = {name: value.contiguous() for name, value in condition._asdict().items()}
                save_file(tensors, self._folder / f"{index}-{k}.safetensors")
            return conditions[place]
        assert self._kind is not None
        layout, device = torch.channels_last, str(self._backbones[place].device)
        return self._kind(**{k: v.contiguous(memory_format=layout) for k, v in load_file(path, device).items()})

    def _encode(self, index: int) -> list[Condition]:
        observation = self._backbones[0].observe(crop(self._lq, self._tiles[index]))
        conditions = [backbone.condition(observation) for backbone in self._backbones]
        self._kind = type(conditions[0])
        return conditions

    def close(self) -> None:
        """Delete what was put on disk."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Counter:
    """Counts model passes and asks whether to go on."""

    def __init__(self, total: int, stop: Stop, on_step: OnStep | None) -> None:
        self.total, self.done, self._stop, self._on_step = total, 0, stop, on_step

    def __call__(self) -> None:
        if self._stop():
            raise Stopped
        self.done += 1
        if self._on_step is not None:
            self._on_step(min(self.done, self.total), self.total)


def _draw_tile(
    backbone: Backbone, condition: Condition, lq: Image, tile: Tile, seeds: Sequence[int],
    drawing: Drawing, counter: _Counter, levels: Sequence[float] | None,
) -> Float[Tensor, "n 3 H W"]:  # fmt: skip
    """Return the restorations of one tile, one per seed; in one step from `levels`, or along the schedule."""
    if isinstance(backbone, WholePhoto):
        return backbone.decode(backbone.draw(condition, seeds, counter), condition)
    window = crop(lq, tile)
    channels, height, width = backbone.latent_shape(window)
    top, left = tile.rows.start, tile.columns.start
    noise = torch.cat([block_noise(seed, channels, top, left, height, width) for seed in seeds])

    def velocity(x: Latent, sigma: Sigma) -> Latent:
        counter()
        return backbone.velocity(x, sigma, condition)

    if levels is not None:
        sigma = torch.tensor(levels, device=backbone.device)
        x = column(sigma) * noise.to(backbone.device)
        return backbone.decode(clean_from_velocity(x, velocity(x, sigma), sigma), condition)
    sigmas = SCHEDULES[drawing.schedule](drawing.num_steps)
    latent = integrate(SAMPLERS[drawing.sampler], velocity, noise.to(backbone.device), sigmas)
    return backbone.decode(latent, condition)


def _draw(
    backbone: Backbone, condition_of: Callable[[int], Condition], lq: Image, tiles: Sequence[Tile],
    seeds: Sequence[int], drawing: Drawing, counter: _Counter, levels: Sequence[float] | None,
) -> list[Enlarged]:  # fmt: skip
    """Return whole restorations at the backbone's own scale, one per seed."""
    scale = backbone.scale
    height, width = lq.shape[-2] * scale, lq.shape[-1] * scale
    canvases = [torch.zeros(1, 3, height, width) for _ in seeds]
    spare = backbone.candidates_per_pass - len(seeds)
    padded = list(seeds) + [seeds[-1]] * spare
    if levels is not None:
        levels = [*levels, *[levels[-1]] * spare]
    for index, tile in enumerate(tiles):
        counter()
        images = _draw_tile(backbone, condition_of(index), lq, tile, padded, drawing, counter, levels)
        for canvas, image in zip(canvases, images, strict=False):
            add_tile(canvas, image[None].float(), tile, scale)
    return canvases


def _stitched_prior(
    backbone: Backbone, condition_of: Callable[[int], Condition], lq: Image, tiles: Sequence[Tile]
) -> Enlarged:
    """Return the prior's whole restoration at the backbone's own scale."""
    canvas = torch.zeros(1, 3, lq.shape[-2] * backbone.scale, lq.shape[-1] * backbone.scale)
    for index, tile in enumerate(tiles):
        add_tile(canvas, backbone.prior_image(condition_of(index)).float(), tile, backbone.scale)
    return canvas


def image_fault(image: Enlarged, lq: Image) -> str | None:
    """Return why a restoration cannot be shown, or None: not finite, or constant where the photo is not."""
    # The extremes carry every NaN and infinity, and need no mask of the image's size.
    low, high = image.aminmax()
    if not (math.isfinite(low) and math.isfinite(high)):
        return "the result holds values that are not finite"
    if float(high.clamp(0, 1) - low.clamp(0, 1)) < FLAT <= float(lq.max() - lq.min()):
        return "the result is one flat colour although the photo is not"
    return None


def _finish(image: Enlarged, lq: Image, request: RestoreRequest, color: str) -> Float[Tensor, "b 3 _ _"]:
    """Resize to the wanted size and transfer colour once, after stitching."""
    if request.size is not None:
        width, height = request.size
        image = resize(image, height, width)
    image = image.clamp_(0, 1)
    if color != "off":
        image = transfer_color(image, resize(lq, *image.shape[-2:]).clamp(0, 1), color)
    return image


def _as_asked(backbone: Backbone, drawing: Drawing) -> Backbone:
    """Return the backbone with the request's settings, where it has any of its own."""
    return backbone.bound(drawing) if isinstance(backbone, WholePhoto) else backbone


def _split(backbone: Backbone, lq: Image, drawing: Drawing) -> list[Tile]:
    """Return the tiles that are drawn one after another; one where the backbone splits the photo itself."""
    height, width = int(lq.shape[-2]), int(lq.shape[-1])
    if isinstance(backbone, WholePhoto):
        return [Tile(Span(0, height, None, None), Span(0, width, None, None))]
    return plan_tiles(height, width, drawing.tile)


def _calls_per_tile(backbone: Backbone, lq: Image, drawing: Drawing) -> int:
    """Return how often the network is called for one batch of candidates of one tile."""
    if isinstance(backbone, WholePhoto):
        return backbone.count_calls(lq)
    if isinstance(backbone, OneStep):
        return 1
    return drawing.num_steps if drawing.sampler == "euler" else 2 * drawing.num_steps - 1


def _drained(backbone: Backbone) -> tuple[str, ...]:
    """Return what the backbone has to tell since it was asked last."""
    if not isinstance(backbone, WholePhoto):
        return ()
    told = tuple(backbone.notices)
    backbone.notices.clear()
    return told


class Draw(NamedTuple):
    """The image of one seed with the precision that made it and what is wrong with it."""

    image: Enlarged
    dtype: torch.dtype
    problem: str | None


class Restorer:
    """Draws candidates from one backbone; one request at a time."""

    def __init__(self, backbone_of: BackboneOf, dtype: torch.dtype) -> None:
        self._backbone_of, self.dtype = backbone_of, dtype

    def prior(self, lq: Image, request: RestoreRequest) -> Enlarged:
        """Return the deterministic restoration that all candidates vary around, at the requested size."""
        backbone = self._backbone_of(self.dtype)
        drawing = request.drawing(backbone)
        backbone = _as_asked(backbone, drawing)
        tiles = _split(backbone, lq, drawing)
        store = _ConditionStore([backbone], lq, tiles, reused=False)
        stitched = _stitched_prior(backbone, partial(store.get, place=0), lq, tiles)
        return _finish(stitched, lq, request, drawing.color)

    def restore(
        self,
        lq: Image,
        request: RestoreRequest,
        *,
        twin: "Restorer | None" = None,
        stop: Stop = lambda: False,
        on_step: OnStep | None = None,
        on_prior: Callable[[Enlarged], None] | None = None,
    ) -> Iterator[Candidate]:
        """Yield each candidate of `lq` (1, 3, h, w) as soon as it exists.

        `twin`, the same backbone with another adapter, draws every seed too, from the same observation of the photo;
        its candidates are marked and come after those of the same pass. `on_prior` is given what all candidates vary
        around, at the requested size, before the first is drawn; nothing is observed twice for it. Ends early,
        keeping what was yielded, at the first step after `stop` returns True. A result that is not finite, or flat
        where the photo is not, is drawn once more in float32 and, if that fails too, yielded as a problem.
        """
        restorers = (self,) if twin is None else (self, twin)
        backbones = [restorer._backbone_of(self.dtype) for restorer in restorers]
        drawing = request.drawing(backbones[0])
        backbones = [_as_asked(backbone, drawing) for backbone in backbones]
        tiles = _split(backbones[0], lq, drawing)
        levels = [_levels(backbone, lq, request) for backbone in backbones]
        evaluations = _calls_per_tile(backbones[0], lq, drawing)
        batch = backbones[0].candidates_per_pass
        rounds = -(-request.num_candidates // batch)
        passes = rounds * len(restorers)
        counted = rounds * sum(1 + (evaluations if chosen is None else 1) for chosen in levels)
        counter = _Counter(len(tiles) * counted + (on_prior is not None), stop, on_step)
        store = _ConditionStore(backbones, lq, tiles, reused=passes > 1 or on_prior is not None)
        try:
            if on_prior is not None:
                counter()
                stitched = _stitched_prior(backbones[0], partial(store.get, place=0), lq, tiles)
                on_prior(_finish(stitched, lq, request, drawing.color))
                del stitched
            for first, place in product(range(0, request.num_candidates, batch), range(len(restorers))):
                seeds = request.seeds[first : first + batch]
                condition_of = partial(store.get, place=place)
                chosen = levels[place]
                part = None if chosen is None else chosen[first : first + batch]
                images = _draw(backbones[place], condition_of, lq, tiles, seeds, drawing, counter, part)
                for offset, seed in enumerate(seeds):
                    level = None if part is None else part[offset]
                    # Popped and deleted: a finished candidate must not take room while the next one is drawn.
                    drawn = restorers[place]._checked(images.pop(0), lq, tiles, seed, drawing, counter, level)
                    notices = _drained(backbones[place])
                    candidate = _candidate(first + offset, seed, drawn, lq, request, drawing.color)
                    del drawn
                    yield replace(candidate, twin=place > 0, notices=notices, level=level)
                    del candidate
        except Stopped:
            return
        finally:
            store.close()

    def _checked(
        self, image: Enlarged, lq: Image, tiles: Sequence[Tile], seed: int, drawing: Drawing,
        counter: _Counter, level: float | None,
    ) -> Draw:  # fmt: skip
        """Return the image if it is sound, else a second draw in float32, unless that loads a large model twice."""
        problem = image_fault(image, lq)
        if problem is None or self.dtype == torch.float32:
            return Draw(image, self.dtype, problem)
        if isinstance(self._backbone_of(self.dtype), WholePhoto):
            return Draw(image, self.dtype, f"{problem}; ask for dtype float32")
        backbone = self._backbone_of(torch.float32)
        store = _ConditionStore([backbone], lq, tiles, reused=False)
        levels = None if level is None else [level]
        again = _draw(backbone, partial(store.get, place=0), lq, tiles, [seed], drawing, counter, levels)
        return Draw(again[0], torch.float32, image_fault(again[0], lq))


def _levels(backbone: Backbone, lq: Image, request: RestoreRequest) -> list[float] | None:
    """Return the level of every candidate where the backbone works in one step; one alone takes the most likely."""
    if not isinstance(backbone, OneStep):
        return None
    return [float(v) for v in backbone.choose_levels(lq, request.seeds if request.num_candidates > 1 else None)]


def _candidate(index: int, seed: int, drawn: Draw, lq: Image, request: RestoreRequest, color: str) -> Candidate:
    pixels: Tensor | None = None if drawn.problem else _finish(drawn.image, lq, request, color)
    dtype = str(drawn.dtype).removeprefix("torch.")
    return Candidate(index=index, seed=seed, pixels=pixels, dtype=dtype, problem=drawn.problem)
