import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sr_core.backbones.backbone import Backbone
from sr_core.backbones.compact import CompactBackbone, CompactCondition, load_head
from sr_core.backbones.flow_head import FlowHead
from sr_core.backbones.prior import load_prior
from sr_core.errors import ConfigError
from sr_core.images import read_image, to_uint8
from sr_core.noise import block_noise
from sr_core.restorer import FLAT, Candidate, Restorer, RestoreRequest, image_fault
from sr_core.tiling import TILE, seams
from tests.sr_core.backbones.conftest import random_head

DTYPES = [torch.float32, torch.bfloat16]


def restorer_with(make_head: Callable[[], FlowHead], dtype: torch.dtype) -> Restorer:
    loaded: dict[torch.dtype, Backbone] = {}

    def of(precision: torch.dtype) -> Backbone:
        if precision not in loaded:
            loaded[precision] = CompactBackbone(load_prior(), make_head(), dtype=precision)
        return loaded[precision]

    of(dtype)
    return Restorer(of, dtype)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def restorer(request: pytest.FixtureRequest) -> Restorer:
    return restorer_with(random_head, request.param)


@pytest.fixture(scope="module")
def exact() -> Restorer:
    return restorer_with(random_head, torch.float32)


@pytest.fixture(scope="module")
def shipped() -> Restorer:
    return restorer_with(load_head, torch.float32)


@pytest.fixture(scope="module")
def photo(photos: Path) -> torch.Tensor:
    return read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:232, 180:212].contiguous()


def request_for(**settings: int | str | tuple[int, int] | None) -> RestoreRequest:
    return RestoreRequest(**{"num_candidates": 1, "num_steps": 1, **settings})


def pixels_of(candidate: Candidate) -> torch.Tensor:
    assert candidate.pixels is not None, candidate.problem
    return torch.from_numpy(to_uint8(candidate.pixels))


# --- Candidates ---------------------------------------------------------------------------------------------------


def test_a_candidate_has_the_same_pixels_alone_and_in_a_batch_of_sixteen(
    restorer: Restorer, photo: torch.Tensor
) -> None:
    batch = list(restorer.restore(photo, request_for(num_candidates=16, num_steps=2, seed=40)))
    assert [c.seed for c in batch] == list(range(40, 56))
    for k in (0, 7, 15):
        (alone,) = restorer.restore(photo, request_for(num_steps=2, seed=40 + k))
        assert torch.equal(pixels_of(alone), pixels_of(batch[k]))
    shown = torch.stack([pixels_of(c) for c in batch]).flatten(1).unique(dim=0)
    assert len(shown) == 16


def test_a_candidate_has_the_same_pixels_in_any_order(restorer: Restorer, photo: torch.Tensor) -> None:
    drawn = {}
    for seed in (3, 1, 2):
        (drawn[seed],) = restorer.restore(photo, request_for(seed=seed))
    for candidate in restorer.restore(photo, request_for(num_candidates=3, seed=1)):
        assert torch.equal(pixels_of(candidate), pixels_of(drawn[candidate.seed]))


def test_a_candidate_of_many_tiles_has_the_same_pixels_alone_and_in_a_batch(restorer: Restorer, photos: Path) -> None:
    photo = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:240, 180:310]
    batch = list(restorer.restore(photo, request_for(num_candidates=2, tile=112)))
    for candidate in batch:
        (alone,) = restorer.restore(photo, request_for(seed=candidate.seed, tile=112))
        assert torch.equal(pixels_of(alone), pixels_of(candidate))


def test_a_fixed_batch_gives_each_seed_the_pixels_it_has_alone(exact: Restorer, photo: torch.Tensor) -> None:
    class Wide(CompactBackbone):
        candidates_per_pass = 4

    wide = Wide(load_prior(), random_head(), dtype=torch.float32)
    wide_restorer = Restorer(lambda _: wide, torch.float32)
    batch = list(wide_restorer.restore(photo, request_for(num_candidates=6)))
    assert [(c.index, c.seed) for c in batch] == [(k, k) for k in range(6)]
    for k in (0, 5):
        (alone,) = wide_restorer.restore(photo, request_for(seed=k))
        assert torch.equal(pixels_of(alone), pixels_of(batch[k]))
    for ours, theirs in zip(batch, exact.restore(photo, request_for(num_candidates=6)), strict=True):
        assert int((pixels_of(ours).int() - pixels_of(theirs).int()).abs().max()) <= 1


def test_a_candidate_is_in_range_and_four_times_as_large(restorer: Restorer, photo: torch.Tensor) -> None:
    (candidate,) = restorer.restore(photo, request_for(sampler="euler", num_steps=3))
    assert candidate.pixels is not None
    assert candidate.pixels.shape == (1, 3, 128, 128)
    assert 0 <= float(candidate.pixels.min()) < float(candidate.pixels.max()) <= 1
    assert candidate.dtype == str(restorer.dtype).removeprefix("torch.")


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 33), (256, 256)])
def test_any_output_size_can_be_asked_for(exact: Restorer, photo: torch.Tensor, size: tuple[int, int]) -> None:
    (candidate,) = exact.restore(photo, request_for(size=size))
    assert candidate.pixels is not None
    assert tuple(candidate.pixels.shape[2:]) == size[::-1]
    reduced = torch.nn.functional.interpolate(candidate.pixels, size=(8, 8), mode="area")
    prior = torch.nn.functional.interpolate(exact.prior(photo, request_for(size=size)), size=(8, 8), mode="area")
    torch.testing.assert_close(reduced, prior, atol=0.1, rtol=0)


def test_colour_transfer_gives_the_photos_colours(exact: Restorer, photo: torch.Tensor) -> None:
    (off,) = exact.restore(photo, request_for())
    (adain,) = exact.restore(photo, request_for(color="adain"))
    assert off.pixels is not None
    assert adain.pixels is not None
    wanted = photo.mean((2, 3))
    assert float((adain.pixels.mean((2, 3)) - wanted).abs().max()) < 2e-3
    assert not torch.equal(adain.pixels, off.pixels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_candidates": 0}, "1 to 16, got 0"),
        ({"num_candidates": 17}, "1 to 16, got 17"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**63 - 16}, "seed must be a whole number"),
        ({"num_steps": 0}, "1 to 100, got 0"),
        ({"sampler": "huen"}, "euler, heun, got 'huen'"),
        ({"schedule": "cosine"}, "linear, power, geometric, got 'cosine'"),
        ({"color": "none"}, "got 'none'"),
    ],
)
def test_an_impossible_request_says_what_must_hold(settings: dict[str, int | str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RestoreRequest(**settings)


# --- Streaming, stopping, failing ---------------------------------------------------------------------------------


class FakeCondition(NamedTuple):
    photo: torch.Tensor


class FakeBackbone:
    """Returns the photo enlarged by 4, spoilt as `spoil` says of (seed's first noise value, dtype)."""

    name, scale, candidates_per_pass, device = "fake", 4, 1, torch.device("cpu")

    def __init__(self, dtype: torch.dtype, spoil: Callable[[torch.dtype, int], str | None]) -> None:
        self.dtype, self.spoil, self.num_decoded = dtype, spoil, 0

    def latent_shape(self, lq: torch.Tensor) -> tuple[int, int, int]:
        return 1, lq.shape[-2], lq.shape[-1]

    def observe(self, lq: torch.Tensor) -> torch.Tensor:
        return lq

    def condition(self, observation: torch.Tensor) -> FakeCondition:
        return FakeCondition(observation)

    def encode(self, lq: torch.Tensor) -> FakeCondition:
        return self.condition(self.observe(lq))

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: FakeCondition) -> torch.Tensor:
        assert condition.photo.shape[-2:] == x.shape[-2:]
        return x / sigma.reshape(-1, 1, 1, 1)

    def decode(self, x: torch.Tensor, condition: FakeCondition) -> torch.Tensor:
        assert x.shape[-2:] == condition.photo.shape[-2:]
        image = self.prior_image(condition)
        fault = self.spoil(self.dtype, self.num_decoded)
        self.num_decoded += 1
        if fault == "flat":
            image.fill_(0.5)
        elif fault is not None:
            image[0, 1, 2, 3] = float(fault)
        return image

    def prior_image(self, condition: FakeCondition) -> torch.Tensor:
        return condition.photo.repeat_interleave(4, 2).repeat_interleave(4, 3).clone()

    def spectral_view(self, residual: torch.Tensor) -> torch.Tensor:
        return residual

    def error_weight(self, sigma: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(sigma)


class Fakes:
    """One fake backbone per precision, as a restorer asks for them."""

    def __init__(self, spoil: Callable[[torch.dtype, int], str | None] = lambda dtype, k: None) -> None:  # noqa: ARG005
        self.by_dtype = {dtype: FakeBackbone(dtype, spoil) for dtype in DTYPES}

    def __call__(self, dtype: torch.dtype) -> Backbone:
        return self.by_dtype[dtype]


def noisy_photo(height: int = 32, width: int = 40) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fault", ["nan", "inf", "-inf", "flat"])
def test_a_faulty_result_is_drawn_once_more_in_float32(fault: str) -> None:
    fakes = Fakes(lambda dtype, k: fault if dtype == torch.bfloat16 and k == 1 else None)
    drawn = list(Restorer(fakes, torch.bfloat16).restore(noisy_photo(), request_for(num_candidates=3)))
    assert [c.dtype for c in drawn] == ["bfloat16", "float32", "bfloat16"]
    assert all(c.problem is None for c in drawn)
    assert fakes.by_dtype[torch.float32].num_decoded == 1


@pytest.mark.parametrize(("fault", "word"), [("nan", "not finite"), ("inf", "not finite"), ("flat", "flat colour")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_result_that_stays_faulty_is_yielded_as_a_problem_and_the_rest_goes_on(
    fault: str, word: str, dtype: torch.dtype
) -> None:
    fakes = Fakes(lambda precision, k: fault if (precision == dtype and k == 0) or precision != dtype else None)
    failed, sound = Restorer(fakes, dtype).restore(noisy_photo(), request_for(num_candidates=2))
    assert failed.pixels is None
    assert failed.problem is not None
    assert word in failed.problem
    assert failed.dtype == "float32"
    assert sound.pixels is not None
    assert sound.problem is None
    assert fakes.by_dtype[torch.float32].num_decoded == (1 if dtype == torch.bfloat16 else 2)


@pytest.mark.parametrize("side", [32, 300])
def test_the_prior_told_on_the_way_is_the_one_drawn_alone(side: int) -> None:
    photo, told = noisy_photo(side, 40), list[torch.Tensor]()
    restorer, request = Restorer(Fakes(), torch.float32), request_for(num_candidates=1, size=(90, 70))
    drawn = list(restorer.restore(photo, request, on_prior=told.append))
    assert len(drawn) == len(told) == 1
    assert torch.equal(told[0], restorer.prior(photo, request))


def test_a_flat_photo_may_be_restored_flat() -> None:
    flat = torch.full((1, 3, 32, 32), 0.25)
    (candidate,) = Restorer(Fakes(), torch.float32).restore(flat, request_for())
    assert candidate.problem is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (0, 2, 7, 7), (0, 1, 3, 5)])
def test_one_value_that_is_not_finite_is_a_fault(value: float, place: tuple[int, ...]) -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert image_fault(image, noisy_photo()) is None
    image[place] = value
    assert image_fault(image, noisy_photo()) == "the result holds values that are not finite"


def test_less_than_half_an_8_bit_step_of_spread_is_flat() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    image[0, 0, 0, 0] += 1.1 * FLAT
    assert image_fault(image, noisy_photo()) is None
    image[0, 0, 0, 0] = 0.5 + 0.9 * FLAT
    assert image_fault(image, noisy_photo()) is not None


def test_the_first_candidate_is_yielded_before_the_second_is_drawn() -> None:
    fakes = Fakes()
    stream = Restorer(fakes, torch.float32).restore(noisy_photo(), request_for(num_candidates=3))
    assert fakes.by_dtype[torch.float32].num_decoded == 0
    for k in range(3):
        assert next(stream).index == k
        assert fakes.by_dtype[torch.float32].num_decoded == k + 1


@pytest.mark.parametrize(("stop_at", "finished"), [(0, 0), (1, 0), (5, 0), (8, 1), (9, 1), (15, 1), (16, 2)])
def test_stop_ends_at_the_next_step_and_keeps_what_is_finished(stop_at: int, finished: int) -> None:
    steps: list[int] = []

    def on_step(done: int, total: int) -> None:
        assert total == 3 * 8
        steps.append(done)

    stream = Restorer(Fakes(), torch.float32).restore(
        noisy_photo(), request_for(num_candidates=3, num_steps=4, sampler="heun"),
        stop=lambda: len(steps) >= stop_at, on_step=on_step,
    )  # fmt: skip
    assert len(list(stream)) == finished
    assert steps == list(range(1, stop_at + 1))


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 3), ("heun", 5)])
@pytest.mark.parametrize("width", [40, 200])
def test_progress_counts_every_pass_to_the_end(sampler: str, evaluations: int, width: int) -> None:
    seen: list[tuple[int, int]] = []
    request = request_for(num_candidates=2, num_steps=3, sampler=sampler, tile=112)
    tiles = 1 if width == 40 else 3
    list(Restorer(Fakes(), torch.float32).restore(noisy_photo(32, width), request, on_step=lambda *s: seen.append(s)))
    total = 2 * tiles * (1 + evaluations)
    assert seen == [(k, total) for k in range(1, total + 1)]


def test_conditions_are_computed_once_a_tile_and_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    encoded = []

    class Counting(FakeBackbone):
        def observe(self, lq: torch.Tensor) -> torch.Tensor:
            encoded.append(tuple(lq.shape))
            return lq

    backbone = Counting(torch.float32, lambda dtype, k: None)  # noqa: ARG005
    stream: Iterator[Candidate] = Restorer(lambda _: backbone, torch.float32).restore(
        noisy_photo(32, 200), request_for(num_candidates=3, tile=112)
    )
    first = next(stream)
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(encoded) == 3
    torch.testing.assert_close(first.pixels, next(stream).pixels, atol=0, rtol=0)
    stream.close()  # type: ignore[attr-defined]
    assert len(encoded) == 3
    assert list(tmp_path.iterdir()) == []


# --- Twins --------------------------------------------------------------------------------------------------------


def shifted_head() -> FlowHead:
    """Return another adapter of `random_head`: the same but for the layers that a LoRA touches."""
    head = random_head()
    torch.nn.init.normal_(head.embed_photo.weight, std=0.05)
    return head


@pytest.mark.parametrize("width", [40, 130])
def test_a_twin_has_the_pixels_that_its_own_restorer_draws_from_the_seed(
    exact: Restorer, photos: Path, width: int
) -> None:
    lq = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:240, 180 : 180 + width]
    request, other = request_for(num_candidates=2, seed=3, tile=112), restorer_with(shifted_head, torch.float32)
    drawn = list(exact.restore(lq, request, twin=other))
    assert [(c.index, c.seed, c.twin) for c in drawn] == [(0, 3, False), (0, 3, True), (1, 4, False), (1, 4, True)]
    for place, alone in enumerate((exact, other)):
        for paired, single in zip(drawn[place::2], alone.restore(lq, request), strict=True):
            assert torch.equal(pixels_of(paired), pixels_of(single))
    assert not torch.equal(pixels_of(drawn[0]), pixels_of(drawn[1]))


def test_a_photo_is_observed_once_for_both_twins_and_nothing_stays_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    observed: list[str] = []

    class Named(FakeBackbone):
        def observe(self, lq: torch.Tensor) -> torch.Tensor:
            observed.append(self.name)
            return lq

    ours, theirs = (Named(torch.float32, lambda dtype, k: None) for _ in range(2))  # noqa: ARG005
    theirs.name = "twin"
    for width, tiles in ((40, 1), (200, 3)):
        observed.clear()
        restorer, twin = Restorer(lambda _: ours, torch.float32), Restorer(lambda _: theirs, torch.float32)
        assert len(list(restorer.restore(noisy_photo(32, width), request_for(tile=112), twin=twin))) == 2
        assert observed == ["fake"] * tiles
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_passes_of_both_twins() -> None:
    seen: list[tuple[int, int]] = []
    restorer, twin = Restorer(Fakes(), torch.float32), Restorer(Fakes(), torch.float32)
    request = request_for(num_candidates=2, num_steps=3)
    list(restorer.restore(noisy_photo(), request, twin=twin, on_step=lambda *step: seen.append(step)))
    assert seen == [(k, 16) for k in range(1, 17)]


def test_a_faulty_twin_leaves_the_candidate_as_it_is() -> None:
    spoilt = Fakes(lambda dtype, k: "nan" if k == 0 else None)  # noqa: ARG005
    drawn = Restorer(Fakes(), torch.float32).restore(
        noisy_photo(), request_for(num_candidates=2), twin=Restorer(spoilt, torch.float32)
    )
    assert [(c.twin, c.problem is None) for c in drawn] == [(False, True), (True, False), (False, True), (True, True)]


# --- Seams --------------------------------------------------------------------------------------------------------

SIDE, SMALL_TILE = 190, 112


def smooth_photo(kind: str) -> torch.Tensor:
    if kind == "flat":
        return torch.tensor([0.2, 0.5, 0.7]).reshape(1, 3, 1, 1).expand(1, 3, 72, SIDE).contiguous()
    ramp = torch.linspace(0.15, 0.85, SIDE).expand(1, 3, 72, SIDE)
    return ramp.contiguous()


def line_means(difference: torch.Tensor) -> torch.Tensor:
    """Return the mean along each column; the prior's own texture on flat colour averages out, a seam does not."""
    return difference.mean(2)[0]


@pytest.mark.parametrize("kind", ["flat", "ramp"])
def test_no_line_of_a_flat_photo_or_a_ramp_is_moved_by_tiles(shipped: Restorer, kind: str) -> None:
    lq = smooth_photo(kind)
    whole, tiled = (shipped.prior(lq, request_for(tile=tile)) for tile in (TILE, SMALL_TILE))
    assert float(line_means(tiled - whole).abs().max()) <= 1 / 255
    assert float((tiled - whole).abs().max()) <= 3 / 255


@pytest.mark.parametrize("kind", ["flat", "ramp"])
def test_no_seam_can_be_seen_in_a_flat_photo_or_a_ramp(shipped: Restorer, kind: str) -> None:
    lq = smooth_photo(kind)
    whole, tiled = (next(shipped.restore(lq, request_for(tile=tile))).pixels for tile in (TILE, SMALL_TILE))
    assert whole is not None
    assert tiled is not None
    columns = [4 * place for axis, place in seams(72, SIDE, SMALL_TILE) if axis == "column"]
    assert len(columns) == 2
    moved = line_means(tiled - whole)
    assert float(torch.diff(moved, dim=-1).abs().max()) <= 0.5 / 255
    usual = float(torch.diff(whole, dim=-1).abs().max())
    for seam in columns:
        assert float(moved[:, seam - 16 : seam + 16].mean(1).abs().max()) <= 1 / 255
        near = torch.diff(tiled[..., seam - 20 : seam + 20], dim=-1)
        assert float(near.abs().max()) <= usual + 1 / 255


def test_tiles_of_a_photo_agree_with_the_whole(shipped: Restorer, photos: Path) -> None:
    lq = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:248, 100:220]
    whole, tiled = (
        next(shipped.restore(lq, request_for(num_steps=2, tile=tile))).pixels for tile in (TILE, SMALL_TILE)
    )
    (other,) = shipped.restore(lq, request_for(num_steps=2, seed=1))
    assert whole is not None
    assert tiled is not None
    assert other.pixels is not None
    difference, variety = (float((image - whole).abs().mean()) for image in (tiled, other.pixels))
    assert difference < 1 / 255
    assert difference < variety / 2, "another tile split must be the same candidate, not another draw"


# --- One step -----------------------------------------------------------------------------------------------------


class FakeOneStep(CompactBackbone):
    """A backbone whose level is 1/4, or a hundredth of the seed, and which remembers where it was asked."""

    def choose_levels(self, _: torch.Tensor, seeds: Sequence[int] | None = None) -> torch.Tensor:
        return torch.tensor([0.25] if seeds is None else [seed / 100 for seed in seeds])

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, _: CompactCondition) -> torch.Tensor:
        self.asked = [*getattr(self, "asked", []), float(sigma[0])]
        return x


@pytest.fixture
def one_step() -> FakeOneStep:
    return FakeOneStep(load_prior(), random_head(), dtype=torch.float32)


def test_one_step_begins_at_its_level_and_asks_the_model_once(one_step: FakeOneStep, photo: torch.Tensor) -> None:
    steps: list[tuple[int, int]] = []
    restorer = Restorer(lambda _: one_step, torch.float32)
    (candidate,) = restorer.restore(photo, request_for(num_steps=4, seed=3), on_step=lambda *s: steps.append(s))
    assert candidate.level == 0.25
    assert one_step.asked == [0.25]
    assert steps[-1] == (2, 2)
    noise = block_noise(3, 48, 0, 0, *photo.shape[-2:])
    x = 0.25 * noise
    expected = one_step.decode(x - 0.25 * x, one_step.encode(photo)).clamp(0, 1)
    assert torch.equal(candidate.pixels, expected)


def test_several_seeds_in_one_step_draw_their_levels(one_step: FakeOneStep, photo: torch.Tensor) -> None:
    restorer = Restorer(lambda _: one_step, torch.float32)
    drawn = list(restorer.restore(photo, request_for(num_candidates=3, seed=5)))
    assert [c.level for c in drawn] == pytest.approx([0.05, 0.06, 0.07])
    plain_backbone = CompactBackbone(one_step.prior, random_head(), dtype=torch.float32)
    (plain,) = Restorer(lambda _: plain_backbone, torch.float32).restore(photo, request_for())
    assert plain.level is None


def test_all_tiles_of_a_photo_begin_at_one_level(one_step: FakeOneStep, photos: Path) -> None:
    photo = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:204, 180:310]
    list(Restorer(lambda _: one_step, torch.float32).restore(photo, request_for(tile=112)))
    assert one_step.asked == [0.25, 0.25]
