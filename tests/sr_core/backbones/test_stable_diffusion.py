from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sr_core.backbones import load_backbone
from sr_core.backbones.configurations import SD2_UNET
from sr_core.backbones.latent import LatentBackbone
from sr_core.backbones.stable_diffusion import StableDiffusion, load_controlnet
from sr_core.errors import WeightsError
from sr_core.images import to_uint8
from sr_core.restorer import Candidate, Restorer, RestoreRequest
from tests.tiny_models import save_unet_lora, tiny_sd2, tiny_sd15, tiny_sdxl

KINDS = ["c-sd2", "c-sd2-v", "sd15", "sdxl"]
QUICK = {"num_steps": 2, "num_candidates": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {
        "c-sd2": tiny_sd2(root / "sd2"), "c-sd2-v": tiny_sd2(root / "sd2v", "v_prediction"),
        "sd15": tiny_sd15(root / "sd15"), "sdxl": tiny_sdxl(root / "sdxl"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Callable[[str], StableDiffusion]:
    loaded: dict[str, StableDiffusion] = {}

    def get(kind: str) -> StableDiffusion:
        if kind not in loaded:
            parts = {name: folders[kind] / name for name in ("base", "controlnet")}
            backbone = load_backbone(kind.removesuffix("-v"), dtype=torch.float32, parts=parts)(torch.float32)
            assert isinstance(backbone, StableDiffusion)
            loaded[kind] = backbone
        return loaded[kind]

    return get


@pytest.fixture
def photo() -> torch.Tensor:
    return torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def pixels(candidate: Candidate) -> torch.Tensor:
    assert candidate.pixels is not None, candidate.problem
    return torch.from_numpy(to_uint8(candidate.pixels))


def restorer(backbone: LatentBackbone) -> Restorer:
    return Restorer(lambda _: backbone, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_restored_in_a_stream_and_each_seed_is_its_own(
    load: Callable[[str], StableDiffusion], photo: torch.Tensor, kind: str
) -> None:
    steps: list[tuple[int, int]] = []
    request = RestoreRequest(**QUICK, seed=4)
    drawn = list(restorer(load(kind)).restore(photo, request, on_step=lambda *done: steps.append(done)))
    assert [candidate.seed for candidate in drawn] == [4, 5]
    assert all(pixels(candidate).shape == (64, 80, 3) for candidate in drawn)
    assert not torch.equal(pixels(drawn[0]), pixels(drawn[1]))
    assert steps[-1] == (len(steps), len(steps))
    (alone,) = restorer(load(kind)).restore(photo, RestoreRequest(num_steps=2, num_candidates=1, seed=5))
    assert torch.equal(pixels(alone), pixels(drawn[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_its_prediction_is_the_schedulers(load: Callable[[str], StableDiffusion], kind: str) -> None:
    assert load(kind).prediction == ("v" if kind == "c-sd2-v" else "epsilon")


def test_stopping_keeps_what_is_finished(load: Callable[[str], StableDiffusion], photo: torch.Tensor) -> None:
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 4

    drawn = list(restorer(load("c-sd2")).restore(photo, RestoreRequest(**QUICK), stop=stop))
    assert [candidate.index for candidate in drawn] == [0]


def test_a_photo_of_many_tiles_is_one_picture(load: Callable[[str], StableDiffusion]) -> None:
    photo = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    request = RestoreRequest(num_steps=1, num_candidates=1, tile=16, sampler="euler")
    seen: list[tuple[int, int]] = []
    (candidate,) = restorer(load("c-sd2")).restore(photo, request, on_step=lambda *done: seen.append(done))
    assert pixels(candidate).shape == (96, 160, 3)
    assert seen[-1][1] > 4


def test_the_photo_reaches_the_network_through_the_controlnet(
    load: Callable[[str], StableDiffusion], photo: torch.Tensor
) -> None:
    backbone = load("c-sd2")
    condition = backbone.encode(photo)
    x, time = torch.randn(1, *backbone.latent_shape(photo)), torch.tensor([500.0])
    said = backbone.forward(x, time, condition)
    other = backbone.forward(x, time, condition._replace(lq=condition.lq.flip(-1)))
    assert not torch.allclose(said, other)
    assert backbone.controlnet is not None
    network, backbone.controlnet = backbone.controlnet, None
    try:
        assert not torch.allclose(said, backbone.forward(x, time, condition))
    finally:
        backbone.controlnet = network


@pytest.mark.parametrize("kind", ["c-sd2", "sdxl"])
def test_prompts_reach_the_network(load: Callable[[str], StableDiffusion], photo: torch.Tensor, kind: str) -> None:
    backbone = load(kind)
    bird, empty = backbone.text("a red bird"), backbone.text("")
    assert not torch.allclose(bird.embedding, empty.embedding)
    assert (bird.pooled is None) == (kind == "c-sd2")
    request = RestoreRequest(num_steps=1, num_candidates=1, sampler="euler")
    (plain,) = restorer(backbone).restore(photo, request)
    words = RestoreRequest(num_steps=1, num_candidates=1, sampler="euler", prompt="a red bird", guidance=20.0)
    (asked,) = restorer(backbone).restore(photo, words)
    assert plain.pixels is not None
    assert asked.pixels is not None
    assert not torch.equal(plain.pixels, asked.pixels)


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_a_lora_takes_the_place_of_a_controlnet(
    folders: dict[str, Path], tmp_path: Path, photo: torch.Tensor, form: str
) -> None:
    base = folders["sd15"] / "base"
    nothing, lora = tmp_path / "nothing", tmp_path / "lora"
    save_unet_lora(base, nothing, spread=0.0, form=form)
    save_unet_lora(base, lora, spread=0.5, form=form)
    backbones = [
        load_backbone("sd15", dtype=torch.float32, parts={"base": base, "lora": path})(torch.float32)
        for path in (nothing, lora)
    ]
    for backbone in backbones:
        assert isinstance(backbone, StableDiffusion)
        assert backbone.controlnet is None
        assert not any("lora" in name for name, _ in backbone.unet.named_parameters())
    plain = UNet2DConditionModel.from_pretrained(str(base / "unet"))
    same, moved = (backbone.unet.state_dict() for backbone in backbones)
    assert all(torch.equal(value, same[name]) for name, value in plain.state_dict().items())
    assert any(not torch.equal(value, moved[name]) for name, value in plain.state_dict().items())
    (candidate,) = restorer(backbones[1]).restore(photo, RestoreRequest(num_steps=2, num_candidates=1))
    assert pixels(candidate).shape == (64, 80, 3)


def test_the_full_size_controlnet_has_the_keys_of_the_encoders_copy() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD2_UNET)
        expected = ControlNetModel.from_unet(unet).state_dict()
    ours = {key: tuple(value.shape) for key, value in expected.items()}
    tiny = {key.split(".")[0] for key in ours}
    assert sum(value.numel() for value in expected.values()) == pytest.approx(364e6, rel=0.01)
    assert sum(value.numel() for value in unet.state_dict().values()) == pytest.approx(866e6, rel=0.01)
    assert {"controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"} <= tiny
    assert len([key for key in ours if key.startswith("controlnet_down_blocks")]) == 24


def test_a_release_at_full_size_fits_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader is given the release's keys at full size, on the meta device; one renamed key is named."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD2_UNET)
        release = dict(ControlNetModel.from_unet(unet).state_dict())
    reads = "sr_core.backbones.stable_diffusion.read_tensors"
    monkeypatch.setattr(reads, lambda path, names: release)  # noqa: ARG005
    network = load_controlnet(tmp_path, unet, dtype=torch.float32)
    assert network.state_dict().keys() == release.keys()
    release["mid_block.renamed"] = release.pop("mid_block.resnets.0.conv1.weight")
    with pytest.raises(WeightsError, match=r"lacks mid_block\.resnets\.0\.conv1\.weight and has mid_block\.renamed"):
        load_controlnet(tmp_path, unet, dtype=torch.float32)


@pytest.mark.parametrize("fault", ["dropped", "renamed", "reshaped"])
def test_a_faulty_release_is_refused_by_the_keys_name(folders: dict[str, Path], tmp_path: Path, fault: str) -> None:
    tensors = load_file(folders["c-sd2"] / "controlnet" / "model.safetensors")
    value = tensors.pop("conv_in.weight")
    if fault == "renamed":
        tensors["conv_in.kernel"] = value
    elif fault == "reshaped":
        tensors["conv_in.weight"] = value[:, :2].contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    parts = {"base": folders["c-sd2"] / "base", "controlnet": tmp_path / "model.safetensors"}
    with pytest.raises(WeightsError, match=r"conv_in\.weight") as caught:
        load_backbone("c-sd2", dtype=torch.float32, parts=parts)
    if fault == "renamed":
        assert "conv_in.kernel" in str(caught.value)


def test_a_pickle_is_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    (base / "unet" / "config.json").write_bytes((folders["c-sd2"] / "base" / "unet" / "config.json").read_bytes())
    (base / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    parts = {"base": base, "controlnet": folders["c-sd2"] / "controlnet"}
    with pytest.raises(WeightsError, match="must hold UNet2DConditionModel as safetensors"):
        load_backbone("c-sd2", dtype=torch.float32, parts=parts)
