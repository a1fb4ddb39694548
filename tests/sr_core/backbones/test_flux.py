import copy
import math
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from sr_core.backbones import available_adapters, load_backbone
from sr_core.backbones.adapters import active_loras, use_loras
from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.configurations import FLUX_TRANSFORMER
from sr_core.backbones.flux import (
    LORA_TARGETS,
    ControlledFlux,
    FluxBackbone,
    StreamedFlux,
    empty_controlnet,
    load_controlnet,
    load_flux,
    pack,
    positions,
    unpack,
)
from sr_core.backbones.latent import LatentCondition
from sr_core.backbones.lora_files import SINGLE_FILE, read_lora, write_lora
from sr_core.backbones.table import BACKBONES
from sr_core.errors import ConfigError, WeightsError
from sr_core.flow import clean_from_velocity
from sr_core.images import to_uint8
from sr_core.noise import block_noise
from sr_core.restorer import Candidate, Restorer, RestoreRequest
from tests.tiny_flux import TRANSFORMER, randomise, save_flux_controlnet, tiny_controlnet, tiny_flux

KINDS = ["c-flux", "flux-lora"]
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
Loader = Callable[..., FluxBackbone]


@pytest.fixture(scope="module", autouse=True)
def own_size() -> Any:
    """Let tiny photos stay tiny: FLUX would enlarge them to 512 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FluxBackbone, "process_size", 16)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux(tmp_path_factory.mktemp("flux"))


def load(folder: Path, kind: str, *, adapter: Path | None = None, **parts: Path) -> FluxBackbone:
    own = {"base": folder / "base", "controlnet": folder / "controlnet", "lora": folder / "lora"} | parts
    drawing = replace(BACKBONES[kind].defaults, num_steps=2)
    return load_flux(
        kind, drawing, dtype=torch.float32, device="cpu", adapter=adapter, parts=own, options=LoadOptions()
    )


@pytest.fixture(scope="module")
def loaded(folder: Path) -> dict[str, FluxBackbone]:
    return {kind: load(folder, kind) for kind in KINDS}


@pytest.fixture
def photo() -> torch.Tensor:
    return torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))


def nothing() -> None:
    pass


def draw(backbone: FluxBackbone, photo: torch.Tensor, seeds: list[int], **changes: Any) -> torch.Tensor:
    bound = backbone.bound(replace(backbone.drawing, **changes))
    return bound.draw(bound.encode(photo), seeds, nothing)


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-3


def test_packing_is_undone_and_keeps_places() -> None:
    latent = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = pack(latent)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(unpack(tokens, 4, 6), latent)
    ids = positions(4, 6, tokens)
    for token, (_, row, column) in zip(tokens[1], ids.long().tolist(), strict=True):
        patch = latent[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(token, patch.flatten())


@pytest.mark.parametrize("height", [4, 32, 128])
def test_levels_are_shifted_by_the_number_of_tokens(loaded: dict[str, FluxBackbone], height: int) -> None:
    """sigma' = e^mu sigma / (1 + (e^mu - 1) sigma), mu linear in the tokens: 0.5 at 256, 1.15 at 4096."""
    backbone = loaded["c-flux"].bound(replace(loaded["c-flux"].drawing, num_steps=5))
    scheduler = backbone.fresh_scheduler((height, 16))
    mu = 0.5 + (height * 16 / 4 - 256) * 0.65 / 3840
    sigma = torch.linspace(1, 0.2, 5, dtype=torch.float64)
    wanted = math.exp(mu) * sigma / (1 + (math.exp(mu) - 1) * sigma)
    torch.testing.assert_close(scheduler.sigmas.double(), torch.cat([wanted, torch.zeros(1)]), atol=1e-6, rtol=1e-5)
    assert torch.equal(backbone.time_of(scheduler.sigmas[:-1]), scheduler.timesteps)


def test_levels_of_a_tiled_photo_are_those_of_one_window(loaded: dict[str, FluxBackbone]) -> None:
    backbone = loaded["c-flux"].bound(replace(loaded["c-flux"].drawing, tile=32))
    one, many = backbone.fresh_scheduler((16, 16)), backbone.fresh_scheduler((64, 96))
    assert torch.equal(one.sigmas, many.sigmas)


@pytest.mark.parametrize("prompt", ["", "a red bird, close"])
def test_a_whole_drawing_equals_diffusers_own_pipeline(
    loaded: dict[str, FluxBackbone], photo: torch.Tensor, prompt: str
) -> None:
    backbone = loaded["c-flux"].bound(replace(loaded["c-flux"].drawing, num_steps=3, prompt=prompt))
    assert isinstance(backbone, ControlledFlux)
    condition = backbone.encode(photo)
    height, width = condition.lq.shape[-2:]
    ours = backbone.draw(condition, [7], nothing)
    pipeline = FluxControlNetPipeline(**backbone.pipeline.components, controlnet=backbone.controlnet)
    pipeline.set_progress_bar_config(disable=True)
    noise = block_noise(7, 16, 0, 0, *condition.latent.shape[-2:])
    settings = {"prompt": prompt, "control_image": 2 * condition.lq - 1, "height": height, "width": width}
    settings |= {"num_inference_steps": 3, "guidance_scale": 2.5, "generator": torch.Generator().manual_seed(0)}
    latent = pipeline(**settings, latents=pack(noise), output_type="latent").images
    torch.testing.assert_close(ours, unpack(latent, *condition.latent.shape[-2:]), **CLOSE)
    image = pipeline(**settings, latents=pack(noise), output_type="pt").images
    torch.testing.assert_close(backbone.decode_latent(ours).clamp(0, 1), image, atol=1e-4, rtol=0)


def pixels(candidate: Candidate) -> torch.Tensor:
    assert candidate.pixels is not None, candidate.problem
    return torch.from_numpy(to_uint8(candidate.pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_restored_in_a_stream_and_each_seed_is_its_own(
    loaded: dict[str, FluxBackbone], photo: torch.Tensor, kind: str
) -> None:
    restorer = Restorer(lambda _: loaded[kind], torch.float32)
    steps: list[tuple[int, int]] = []
    request = RestoreRequest(num_steps=2, num_candidates=2, seed=4)
    drawn = list(restorer.restore(photo, request, on_step=lambda *done: steps.append(done)))
    assert [candidate.seed for candidate in drawn] == [4, 5]
    assert all(pixels(candidate).shape == (48, 80, 3) for candidate in drawn)
    assert not torch.equal(pixels(drawn[0]), pixels(drawn[1]))
    assert steps[-1] == (len(steps), len(steps))
    (alone,) = restorer.restore(photo, RestoreRequest(num_steps=2, num_candidates=1, seed=5))
    assert torch.equal(pixels(alone), pixels(drawn[1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["native", "heun"])
def test_a_seed_is_the_same_alone_and_in_a_batch(
    loaded: dict[str, FluxBackbone], photo: torch.Tensor, kind: str, sampler: str
) -> None:
    batch = draw(loaded[kind], photo, [3, 4, 5], sampler=sampler)
    torch.testing.assert_close(draw(loaded[kind], photo, [4], sampler=sampler), batch[1:2], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_stopping_ends_at_the_next_call(loaded: dict[str, FluxBackbone], photo: torch.Tensor, kind: str) -> None:
    backbone, calls = loaded[kind], []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 4

    request = RestoreRequest(num_steps=2, num_candidates=3)
    drawn = list(Restorer(lambda _: backbone, torch.float32).restore(photo, request, stop=stop))
    assert [candidate.index for candidate in drawn] == [0]
    assert len(calls) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_runs_over_all_tiles_with_the_photo_of_each(
    loaded: dict[str, FluxBackbone], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    backbone = loaded[kind].bound(replace(loaded[kind].drawing, tile=16, num_steps=2))
    large = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    condition, seen = backbone.encode(large), []
    plain = FluxBackbone.guided

    def watched(self: FluxBackbone, x: torch.Tensor, time: torch.Tensor, part: LatentCondition) -> torch.Tensor:
        top, left = part.place
        height, width = x.shape[-2:]
        assert torch.equal(part.latent, condition.latent[..., top : top + height, left : left + width])
        seen.append((float(time[0]), part.place))
        return plain(self, x, time, part)

    monkeypatch.setattr(FluxBackbone, "guided", watched)
    image = backbone.decode(backbone.draw(condition, [0], nothing), condition)
    assert image.shape == (1, 3, 96, 160)
    assert bool(image.isfinite().all())
    times, places = {time for time, _ in seen}, {place for _, place in seen}
    assert len(times) == 2
    assert len(places) > 4
    assert sorted(seen) == sorted((time, place) for time in times for place in places)
    assert backbone.count_calls(large) == len(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_photo_prompt_guidance_and_start_change_what_is_drawn(
    loaded: dict[str, FluxBackbone], photo: torch.Tensor, kind: str
) -> None:
    backbone = loaded[kind]
    plain = draw(backbone, photo, [1])
    assert differ(draw(backbone, photo.flip(-1), [1]), plain)
    assert differ(draw(backbone, photo, [1], prompt="a red bird"), plain)
    assert differ(draw(backbone, photo, [1], guidance=1.0), plain)
    assert differ(draw(backbone, photo, [1], start="lq", strength=0.5), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_training_predicts_without_tiles_at_its_own_guidance(
    loaded: dict[str, FluxBackbone], photo: torch.Tensor, kind: str
) -> None:
    backbone = loaded[kind]
    condition, told = backbone.encode(photo), backbone.training_guidance
    x = torch.randn(2, *backbone.latent_shape(photo), generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.3, 0.8])
    predicted = backbone.predict(x, level, condition)
    single = backbone.predict(x[1:], level[1:], condition)
    torch.testing.assert_close(single, predicted[1:], **CLOSE)
    drawn = backbone.bound(replace(backbone.drawing, guidance=told)).velocity(x, level, condition)
    torch.testing.assert_close(drawn, predicted, **CLOSE)
    assert clean_from_velocity(x, predicted, level).shape == x.shape
    assert told == {"c-flux": 2.5, "flux-lora": 0.0}[kind]


def test_a_state_of_the_straight_path_is_the_schedulers(loaded: dict[str, FluxBackbone]) -> None:
    backbone = loaded["c-flux"]
    scheduler = backbone.fresh_scheduler((8, 8))
    clean, noise = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    time = scheduler.timesteps[:1].expand(2)
    wanted = scheduler.scale_noise(clean, time, noise)
    torch.testing.assert_close(backbone.noised(clean, noise, time, scheduler), wanted)


def test_the_branch_alone_carries_the_photo_and_learns(loaded: dict[str, FluxBackbone], photo: torch.Tensor) -> None:
    backbone = copy.copy(loaded["c-flux"])
    assert isinstance(backbone, ControlledFlux)
    condition = backbone.encode(photo)
    other = condition._replace(latent=condition.latent.flip(-1))
    x, level = torch.randn(1, *backbone.latent_shape(photo)), torch.tensor([0.5])
    backbone.controlnet = copy.deepcopy(backbone.controlnet)
    for name, parameter in backbone.controlnet.named_parameters():
        if name.startswith("controlnet_blocks"):
            parameter.zero_()
    assert torch.equal(backbone.predict(x, level, condition), backbone.predict(x, level, other))
    backbone.controlnet.requires_grad_(True)
    backbone.predict(x, level, condition).square().mean().backward()
    learns = {name for name, p in backbone.controlnet.named_parameters() if p.grad is not None and bool(p.grad.any())}
    used = {"controlnet_blocks.0.weight", "controlnet_blocks.1.weight"}
    assert used <= learns
    assert all(p.grad is None for p in backbone.transformer.parameters())


def test_the_full_size_branch_has_the_first_four_double_blocks_and_no_single_one() -> None:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_TRANSFORMER)
        released = FluxControlNetModel.from_transformer(
            transformer, num_layers=4, num_single_layers=0, num_attention_heads=24, attention_head_dim=128
        )
    wanted = {key: tuple(value.shape) for key, value in released.state_dict().items()}
    base = {key: tuple(value.shape) for key, value in transformer.state_dict().items()}
    own = ("x_embedder.", "context_embedder.", "time_text_embed.")
    copied = {key for key in base if key.startswith((*own, *(f"transformer_blocks.{k}." for k in range(4))))}
    added = {f"{name}.{half}" for name in ("controlnet_x_embedder", *(f"controlnet_blocks.{k}" for k in range(4)))
             for half in ("weight", "bias")}  # fmt: skip
    ours = {key: tuple(value.shape) for key, value in empty_controlnet(FLUX_TRANSFORMER).state_dict().items()}
    assert ours == wanted
    assert ours.keys() == copied | added
    assert {key: ours[key] for key in copied} == {key: base[key] for key in copied}
    assert ours["controlnet_blocks.3.weight"] == (3072, 3072)
    assert sum(math.prod(shape) for shape in base.values()) == pytest.approx(11.90e9, rel=0.001)


@pytest.mark.parametrize(("rank", "mebibytes"), [(16, 111), (128, 885)])
def test_the_listed_layers_make_files_as_large_as_asasrs(rank: int, mebibytes: int) -> None:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_TRANSFORMER)
    layers = [m for name, m in transformer.named_modules() if re.fullmatch(LORA_TARGETS, name)]
    values = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    assert round(2 * values / 2**20) == pytest.approx(mebibytes, abs=1)


def test_asasrs_repository_gives_both_loras(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flux-lora" / "lora" / "sr_lora").mkdir(parents=True)
    (tmp_path / "flux-lora" / "base").symlink_to(folder / "base")
    release = tmp_path / "flux-lora" / "lora"
    (release / "sr_lora" / "pytorch_lora_weights_v2.safetensors").symlink_to(folder / "lora" / SINGLE_FILE)
    monkeypatch.setenv("SR_WEIGHTS", str(tmp_path))
    assert available_adapters("flux-lora") == ("sft",)
    (release / "dpo_lora").symlink_to(folder / "policy")
    assert available_adapters("flux-lora") == ("sft", "as_dpo")
    backbone = load_backbone("flux-lora", dtype=torch.float32, adapter="as_dpo")(torch.float32)
    assert isinstance(backbone, StreamedFlux)
    assert active_loras(backbone.transformer) == ("sft", "policy")


def test_a_release_at_full_size_fits_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = dict(empty_controlnet(FLUX_TRANSFORMER).state_dict())
    monkeypatch.setattr("sr_core.backbones.flux.read_tensors", lambda path, names: release)  # noqa: ARG005
    assert load_controlnet(tmp_path, FLUX_TRANSFORMER, dtype=torch.bfloat16).state_dict().keys() == release.keys()
    release["controlnet_blocks.4.weight"] = release.pop("controlnet_blocks.3.weight")
    words = r"lacks controlnet_blocks\.3\.weight and has controlnet_blocks\.4\.weight"
    with pytest.raises(WeightsError, match=words):
        load_controlnet(tmp_path, FLUX_TRANSFORMER, dtype=torch.bfloat16)


@pytest.mark.parametrize("fault", ["dropped", "renamed", "reshaped"])
def test_a_faulty_release_is_refused_by_the_keys_name(folder: Path, tmp_path: Path, fault: str) -> None:
    tensors = load_file(folder / "controlnet" / "model.safetensors")
    value = tensors.pop("transformer_blocks.3.attn.to_q.weight")
    if fault == "renamed":
        tensors["transformer_blocks.3.attn.query.weight"] = value
    elif fault == "reshaped":
        tensors["transformer_blocks.3.attn.to_q.weight"] = value[:4].contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"transformer_blocks\.3\.attn\.to_q\.weight") as caught:
        load(folder, "c-flux", controlnet=tmp_path)
    assert (fault == "renamed") == ("query" in str(caught.value))


def test_another_branch_or_a_lora_on_it_is_an_adapter(folder: Path, tmp_path: Path, photo: torch.Tensor) -> None:
    plain = draw(load(folder, "c-flux"), photo, [1])
    save_flux_controlnet(tmp_path / "other" / "model.safetensors", folder / "base", seed=40)
    assert differ(draw(load(folder, "c-flux", adapter=tmp_path / "other"), photo, [1]), plain)
    same = load(folder, "c-flux", adapter=folder / "controlnet")
    assert torch.equal(draw(same, photo, [1]), plain)
    bare = FluxTransformer2DModel(**TRANSFORMER)
    randomise(bare, 0)
    branch = tiny_controlnet(bare)
    down = {"transformer_blocks.0.attn.to_q": torch.randn(2, 32), "controlnet_x_embedder": torch.randn(2, 64)}
    up = {layer: torch.randn(32, 2) for layer in down}
    lora = read_lora(folder / "policy", component="transformer")._replace(
        down=down, up=up, alpha=dict.fromkeys(down, 2.0)
    )
    adapted = load(folder, "c-flux", adapter=write_lora(tmp_path / "lora", lora, component="controlnet"))
    assert isinstance(adapted, ControlledFlux)
    assert adapted.controlnet.state_dict().keys() == branch.state_dict().keys()
    assert differ(draw(adapted, photo, [1]), plain)


def test_both_loras_add_up_and_their_export_predicts_the_same(
    folder: Path, tmp_path: Path, photo: torch.Tensor
) -> None:
    dual = load(folder, "flux-lora", adapter=folder / "policy")
    assert isinstance(dual, StreamedFlux)
    assert active_loras(dual.transformer) == ("sft", "policy")
    both = draw(dual, photo, [1])
    sft = draw(load(folder, "flux-lora"), photo, [1])
    assert differ(both, sft)
    for path in (tmp_path / "one" / SINGLE_FILE, tmp_path / "folder"):
        alone = load(folder, "flux-lora", lora=dual.export(path))
        assert active_loras(alone.transformer) == ("sft",)
        torch.testing.assert_close(draw(alone, photo, [1]), both, **CLOSE)
    use_loras(dual.transformer, ("sft",))
    torch.testing.assert_close(draw(dual, photo, [1]), sft, **CLOSE)


def test_without_a_lora_the_photo_still_enters_and_the_lora_changes_what_becomes_of_it(
    folder: Path, photo: torch.Tensor
) -> None:
    backbone = load(folder, "flux-lora")
    taught = draw(backbone, photo, [1])
    use_loras(backbone.transformer, ())
    bare = draw(backbone, photo, [1])
    assert differ(bare, taught)
    assert differ(draw(backbone, photo.flip(-2), [1]), bare)


def test_a_lora_of_another_network_is_refused_by_the_layer(folder: Path, tmp_path: Path) -> None:
    lora = read_lora(folder / "policy", component="transformer")
    for part in (lora.down, lora.up, lora.alpha):
        part["blocks.7"] = part.pop("x_embedder")  # type: ignore[attr-defined]
    with pytest.raises(WeightsError, match=r"no layer blocks\.7"):
        load(folder, "flux-lora", lora=write_lora(tmp_path, lora, component="transformer"))


@pytest.mark.parametrize("missing", ["transformer", "vae", "tokenizer_2", "scheduler"])
def test_an_incomplete_base_is_refused_by_what_is_missing(folder: Path, tmp_path: Path, missing: str) -> None:
    for part in (folder / "base").iterdir():
        if part.name != missing:
            (tmp_path / part.name).symlink_to(part)
    with pytest.raises(WeightsError, match=missing.split("_")[0]):
        load(folder, "c-flux", base=tmp_path)


def test_loading_and_drawing_never_open_a_connection(
    folder: Path, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert bool(draw(load(folder, "flux-lora"), photo, [0]).isfinite().all())


def test_half_precision_draws_a_finite_picture(folder: Path, photo: torch.Tensor) -> None:
    parts = {name: folder / name for name in ("base", "controlnet")}
    drawing = replace(BACKBONES["c-flux"].defaults, num_steps=2)
    backbone = load_flux(
        "c-flux", drawing, dtype=torch.bfloat16, device="cpu", adapter=None, parts=parts, options=LoadOptions()
    )
    kinds = [next(backbone.pipeline.components[name].parameters()).dtype for name in ("transformer", "vae")]
    assert kinds == [torch.bfloat16, torch.float32]
    image = backbone.decode(draw(backbone, photo, [0]), backbone.encode(photo))
    assert image.dtype == torch.float32
    assert bool(image.isfinite().all())


@pytest.mark.parametrize(
    "options", [LoadOptions(quantize="4bit"), LoadOptions(offload="model"), LoadOptions(attention="sliced")]
)
def test_what_this_machine_cannot_do_is_refused_and_not_done_otherwise(folder: Path, options: LoadOptions) -> None:
    parts = {name: folder / name for name in ("base", "controlnet")}
    with pytest.raises(ConfigError, match=r"need a CUDA device|spares the memory|attention must be whole"):
        load_backbone("c-flux", dtype=torch.float32, parts=parts, options=options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_without_weights_says_what_to_get_under_which_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name in ("SR_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        load_backbone(kind, dtype=torch.bfloat16)
    words = str(caught.value)
    for said in ("black-forest-labs/FLUX.1-dev", "gated", "Non-Commercial", f"sr weights {kind} --download"):
        assert said in words
