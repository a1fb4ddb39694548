from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from sr_core.backbones.configurations import SD_SCHEDULE
from sr_core.backbones.drawing import Drawing
from sr_core.backbones.latent import LatentBackbone, LatentCondition, Text, matched, step_generator
from sr_core.backbones.latent_space import LatentSpace
from sr_core.diffusion import PREDICTIONS, timestep_of_level
from sr_core.errors import InputError
from sr_core.resampling import resize
from sr_core.samplers import SAMPLERS
from tests.tiny_models import tiny_vae

DRAWING = Drawing(
    num_steps=6, sampler="native", schedule="linear", color="off", tile=64, guidance=1.0, prompt="",
    negative_prompt="blur", start="noise", strength=1.0,
)  # fmt: skip
SAMPLER_NAMES = ["native", *SAMPLERS]


class Knowing(LatentBackbone):
    """A network that says the truth about one clean latent: the condition's."""

    name, cell, process_size = "knowing", 2, 64

    def __init__(self, prediction: str = "epsilon", **settings: Any) -> None:
        self.prediction = prediction
        kinds = {"v": "v_prediction", "velocity": "epsilon"}
        scheduler = DDPMScheduler(**SD_SCHEDULE, prediction_type=kinds.get(prediction, prediction))
        torch.manual_seed(0)
        drawing = Drawing(**{**vars_of(DRAWING), **settings})
        super().__init__(vae=tiny_vae(), scheduler=scheduler, drawing=drawing, dtype=torch.float32, device="cpu")

    def encode_text(self, prompt: str) -> Text:
        return Text(torch.full((1, 2, 4), float(len(prompt))))

    def time_of(self, level: torch.Tensor) -> torch.Tensor:
        return level * 1000 if self.prediction == "velocity" else super().time_of(level)

    def level_of(self, time: torch.Tensor) -> torch.Tensor:
        if self.prediction == "velocity":
            return time / 1000
        power = self.scheduler.alphas_cumprod.double()
        table, low = (power / (1 - power)).log(), time.double().floor().long().clamp(0, 998)
        ratio = torch.lerp(table[low], table[low + 1], time.double() - low)
        return torch.sigmoid(-ratio).sqrt().to(time.dtype)

    def forward(self, x: torch.Tensor, time: torch.Tensor, condition: LatentCondition) -> torch.Tensor:
        level = self.level_of(time)
        alpha = 1 - level if self.prediction == "velocity" else (1 - level.square()).sqrt()
        clean = matched(condition.latent, len(x))
        noise = (x - alpha.reshape(-1, 1, 1, 1) * clean) / level.reshape(-1, 1, 1, 1)
        return PREDICTIONS[self.prediction].target(clean, noise, alpha, level)


def vars_of(drawing: Drawing) -> dict[str, Any]:
    return {name: getattr(drawing, name) for name in drawing.__dataclass_fields__}


def photo(height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def nothing() -> None:
    """Stand in for a listener."""


# --- Levels and predictions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
def test_every_kind_of_prediction_gives_the_same_velocity(prediction: str) -> None:
    backbone = Knowing(prediction)
    condition = backbone.encode(photo())
    clean = condition.latent
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    for sigma in (0.05, 0.2, 0.5, 0.8, 0.93):
        x = (1 - sigma) * clean + sigma * noise
        said = backbone.velocity(x, torch.tensor([sigma]), condition)
        torch.testing.assert_close(said, noise - clean, atol=1e-5, rtol=1e-5)


def test_whole_steps_have_the_levels_of_the_schedule() -> None:
    power = DDPMScheduler(**SD_SCHEDULE).alphas_cumprod
    for step in (0, 1, 500, 998, 999):
        time = timestep_of_level((1 - power[step]).sqrt().double().reshape(1), power)
        assert float(time) == pytest.approx(step, abs=2e-2)


def test_a_level_beyond_the_schedule_is_its_last_step() -> None:
    power = DDPMScheduler(**SD_SCHEDULE).alphas_cumprod
    assert timestep_of_level(torch.tensor([1e-4, 1.0]), power).tolist() == [0.0, 999.0]


# --- Drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_network_that_knows_the_clean_latent_leads_to_it(sampler: str, prediction: str) -> None:
    backbone = Knowing(prediction, sampler=sampler)
    condition = backbone.encode(photo())
    drawn = backbone.draw(condition, [3, 4], nothing)
    torch.testing.assert_close(drawn, condition.latent.expand(2, -1, -1, -1), atol=1e-3, rtol=1e-3)


class Wandering(Knowing):
    """A network whose result keeps a trace of the noise."""

    def forward(self, x: torch.Tensor, time: torch.Tensor, condition: LatentCondition) -> torch.Tensor:  # noqa: ARG002
        return 0.9 * x.tanh() + 0.01 * matched(condition.text.embedding, len(x)).mean((1, 2)).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_a_seed_has_its_own_latent_alone_in_a_batch_and_in_any_order(sampler: str) -> None:
    backbone = Wandering(sampler=sampler)
    condition = backbone.encode(photo())
    batch = backbone.draw(condition, [5, 6, 7], nothing)
    for order in ([7, 5, 6], [6]):
        for place, seed in enumerate(order):
            assert torch.equal(backbone.draw(condition, order, nothing)[place], batch[seed - 5])
    assert len(batch.flatten(1).unique(dim=0)) == 3


def test_the_noise_of_steps_is_a_seeds_own() -> None:
    first, again, other = (torch.randn(4, generator=step_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_tiles_change_nothing_for_a_pointwise_network(sampler: str) -> None:
    whole, tiled = Wandering(sampler=sampler), Wandering(sampler=sampler, tile=8)
    condition = whole.encode(photo())
    assert (whole.count_calls(photo()), tiled.count_calls(photo()) > 6 * 4) == (
        11 if sampler == "heun" else 6, True,
    )  # fmt: skip
    torch.testing.assert_close(
        tiled.draw(condition, [1], nothing), whole.draw(condition, [1], nothing), atol=1e-4, rtol=1e-4
    )


def test_one_tile_that_covers_all_is_the_untiled_network() -> None:
    class Local(Wandering):
        def forward(self, x: torch.Tensor, time: torch.Tensor, condition: LatentCondition) -> torch.Tensor:  # noqa: ARG002
            return x - torch.nn.functional.avg_pool2d(x, 3, 1, 1)

    backbone = Local(tile=24)
    condition = backbone.encode(photo())
    x, time = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    assert torch.equal(backbone.field(x, time, condition, nothing), backbone.forward(x, time, condition))
    tiled = backbone.bound(Drawing(**{**vars_of(backbone.drawing), "tile": 8}))
    assert not torch.equal(tiled.field(x, time, condition, nothing), backbone.forward(x, time, condition))


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize(("start", "strength", "tile"), [("noise", 1.0, 64), ("lq", 0.5, 64), ("lq", 1.0, 8)])
def test_as_many_calls_are_made_as_were_counted(sampler: str, start: str, strength: float, tile: int) -> None:
    backbone = Wandering(sampler=sampler, start=start, strength=strength, tile=tile)
    calls: list[int] = []
    backbone.draw(backbone.encode(photo()), [1, 2], lambda: calls.append(1))
    assert len(calls) == backbone.count_calls(photo())


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_a_start_from_the_photo_stays_near_it(sampler: str) -> None:
    """A network that says nothing leaves what it was given: little noise on the photo, or much."""

    class Silent(Knowing):
        def forward(self, x: torch.Tensor, time: torch.Tensor, condition: LatentCondition) -> torch.Tensor:  # noqa: ARG002
            return torch.zeros_like(x)

    def distance(strength: float) -> float:
        backbone = Silent(sampler=sampler, start="lq", strength=strength)
        condition = backbone.encode(photo())
        drawn = backbone.draw(condition, [1], nothing)
        cosine = torch.nn.functional.cosine_similarity(drawn.flatten(), condition.latent.flatten(), dim=0)
        return 1 - float(cosine)

    assert distance(0.2) < distance(0.6) < distance(1.0)


def test_cancelling_ends_at_the_next_call() -> None:
    backbone = Wandering(tile=8)
    condition = backbone.encode(photo())
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        backbone.draw(condition, [1], stop)
    assert len(calls) == 7


# --- Guidance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5])
def test_guidance_moves_along_what_the_prompt_changes(guidance: float) -> None:
    backbone = Wandering(guidance=guidance, prompt="a red bird", negative_prompt="blur")
    condition = backbone.encode(photo())
    assert condition.negative is not None
    x, time = torch.randn(2, 4, 8, 12), torch.tensor([500.0, 100.0])
    wanted = backbone.forward(x, time, condition)
    unwanted = backbone.forward(x, time, condition._replace(text=condition.negative))
    torch.testing.assert_close(backbone.guided(x, time, condition), unwanted + guidance * (wanted - unwanted))


def test_a_prompt_is_encoded_once() -> None:
    asked: list[str] = []

    class Counting(Knowing):
        def encode_text(self, prompt: str) -> Text:
            asked.append(prompt)
            return super().encode_text(prompt)

    backbone = Counting(prompt="a bird")
    for _ in range(3):
        backbone.encode(photo())
    assert asked == ["blur", "a bird"]


def test_a_tagger_that_is_missing_is_left_out_by_name() -> None:
    backbone = Knowing(prompt="auto")
    condition = backbone.encode(photo())
    assert torch.equal(condition.text.embedding, backbone.text("").embedding)
    assert backbone.notices == ["tagger left out: no weights for it; the prompt is empty (see `sr weights knowing`)"]


def test_a_tagger_writes_the_prompt_and_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_core.backbones.latent.describe_photo", lambda image, folder: "a bird on a stone")  # noqa: ARG005
    backbone = Knowing(prompt="auto")
    backbone.tagger = tmp_path
    condition = backbone.encode(photo())
    assert torch.equal(condition.text.embedding, backbone.text("a bird on a stone").embedding)
    assert backbone.notices == ["prompt by the tagger: a bird on a stone"]


# --- The photo ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (4, 40)])
def test_a_restoration_is_four_times_the_photo(height: int, width: int) -> None:
    backbone, lq = Knowing(), photo(height, width)
    condition = backbone.encode(lq)
    assert tuple(condition.latent.shape[1:]) == backbone.latent_shape(lq)
    assert min(condition.size) >= 64
    assert condition.lq.shape[-2] % 16 == condition.lq.shape[-1] % 16 == 0
    assert backbone.decode(condition.latent, condition).shape == (1, 3, 4 * height, 4 * width)
    assert backbone.prior_image(condition).shape == (1, 3, 4 * height, 4 * width)


def test_the_prior_is_the_photo_enlarged() -> None:
    backbone, lq = Knowing(), photo()
    expected = resize(lq, 64, 96).clamp(0, 1)
    torch.testing.assert_close(backbone.prior_image(backbone.encode(lq)), expected)


class Limited(torch.nn.Module):
    """A decoder for which latents above a size are too much."""

    def __init__(self, decoder: torch.nn.Module, limit: int) -> None:
        super().__init__()
        self.decoder, self.limit = decoder, limit

    def forward(self, z: torch.Tensor, *rest: Any) -> torch.Tensor:
        if max(z.shape[-2:]) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return self.decoder(z, *rest)


# --- Memory -------------------------------------------------------------------------------------------------------


def small(limit: int, kind: Callable[..., Knowing] = Wandering) -> type[Knowing]:
    """Return a network for which windows above `limit` are too much."""

    class Small(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: torch.Tensor, time: torch.Tensor, condition: LatentCondition) -> torch.Tensor:
            if max(x.shape[-2:]) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x, time, condition)

    return Small


def test_the_tile_is_halved_where_memory_runs_out_and_the_run_says_so() -> None:
    lq = photo(64, 96)
    backbone = small(40)(tile=96)
    condition = backbone.encode(lq)
    drawn = backbone.draw(condition, [1], nothing)
    assert backbone.notices == ["memory ran out: tiles of 192 px of the enlarged photo were used instead of 384 px"]
    as_asked = Wandering(tile=48)
    assert torch.equal(drawn, as_asked.draw(condition, [1], nothing))
    backbone.draw(condition, [2], nothing)
    assert len(backbone.notices) == 1
    assert backbone.bound(backbone.drawing).notices == []


def crowded(most: int, limit: int, kind: Callable[..., Knowing] = Wandering) -> type[Knowing]:
    """Return a network for which more than `most` states, or windows above `limit`, are too much."""

    class Crowded(small(limit, kind)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, time: torch.Tensor, condition: LatentCondition) -> torch.Tensor:
            if len(x) > most:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x, time, condition)

    return Crowded


def test_seeds_are_drawn_one_by_one_where_memory_runs_out_before_any_tile_is_halved() -> None:
    lq = photo(64, 96)
    backbone = crowded(1, 99)(tile=96)
    condition = backbone.encode(lq)
    drawn = backbone.draw(condition, [1, 2, 2], nothing)
    assert backbone.notices == ["memory ran out: candidates were drawn one by one"]
    assert torch.equal(drawn, Wandering(tile=96).draw(condition, [1, 2, 2], nothing))
    backbone.draw(condition, [3, 4], nothing)
    assert len(backbone.notices) == 1
    again = backbone.bound(backbone.drawing)
    again.draw(condition, [3, 4], nothing)
    assert len(again.notices) == 1


def test_tiles_are_halved_where_one_seed_alone_is_too_much() -> None:
    backbone = crowded(1, 40)(tile=96)
    condition = backbone.encode(photo(64, 96))
    drawn = backbone.draw(condition, [1, 2], nothing)
    assert backbone.notices == [
        "memory ran out: candidates were drawn one by one",
        "memory ran out: tiles of 192 px of the enlarged photo were used instead of 384 px",
    ]
    assert torch.equal(drawn, Wandering(tile=48).draw(condition, [1, 2], nothing))


@pytest.mark.parametrize(("own", "used"), [(1024, (512, 64)), (512, (512, 64)), (64, (64, 8))])
def test_the_vae_takes_at_most_512_px_at_once(own: int, used: tuple[int, int]) -> None:
    vae = tiny_vae()
    vae.tile_sample_min_size, vae.tile_latent_min_size = own, own // 8
    LatentSpace(vae=vae, device="cpu")
    assert vae.use_tiling
    assert (vae.tile_sample_min_size, vae.tile_latent_min_size) == used


def test_a_new_request_begins_with_whole_vae_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    small_vae = tiny_vae

    def large_vae() -> Any:
        vae = small_vae()
        vae.tile_sample_min_size, vae.tile_latent_min_size = 512, 64
        return vae

    monkeypatch.setattr(f"{__name__}.tiny_vae", large_vae)
    shared = Wandering()
    monkeypatch.undo()
    backbone = shared.bound(shared.drawing)
    condition = backbone.encode(photo(64, 64))
    with monkeypatch.context() as limited:
        limited.setattr(backbone.vae, "decoder", Limited(backbone.vae.decoder, 16))
        backbone.decode(condition.latent, condition)
    assert backbone.vae.tile_sample_min_size == 128
    later = shared.bound(shared.drawing)
    assert (later.vae.tile_sample_min_size, later.vae.tile_latent_min_size) == (512, 64)
    assert later.notices == []


def test_the_vaes_tiles_are_halved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Wandering()
    lq = photo(64, 64)
    backbone.vae.tile_sample_min_size, backbone.vae.tile_latent_min_size = 512, 64
    condition = backbone.encode(lq)
    monkeypatch.setattr(backbone.vae, "decoder", Limited(backbone.vae.decoder, 16))
    assert backbone.decode(condition.latent, condition).shape == (1, 3, 256, 256)
    assert backbone.notices == [
        "memory ran out: the VAE's tiles were halved to 256 px",
        "memory ran out: the VAE's tiles were halved to 128 px",
    ]


def test_where_the_smallest_tile_is_too_much_the_error_says_what_to_do() -> None:
    backbone = small(8)(tile=96)
    with pytest.raises(InputError, match=r"smallest tiles.* offload or quantize"):
        backbone.draw(backbone.encode(photo(64, 96)), [1], nothing)
    assert len(backbone.notices) == 1
