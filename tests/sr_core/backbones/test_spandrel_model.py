import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SPAN import SPAN
from torch import nn

from sr_core.backbones import spandrel_model
from sr_core.backbones.spandrel_model import load_state, open_network, restore_isolated, restore_tiled
from sr_core.errors import InputError, SRError, WeightsError
from sr_core.images import read_image
from sr_core.tensors import Image

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "RealESRGAN Compact": lambda: Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2),
    "SPAN": lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=3),
    "ESRGAN": lambda: ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4),
}


def saved(network: nn.Module, path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    return {name: saved(make(), folder / f"{name}.safetensors") for name, make in NETWORKS.items()}


@pytest.fixture(scope="module")
def photo(photos: Path) -> Image:
    """Return a photo of two tiles by two at the default side, and of more at the smaller one."""
    return read_image(photos / "eval" / "472_bluebird.png").pixels[..., :250, :236].contiguous()


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_give_what_the_whole_photo_gives(name: str, weights: dict[str, Path], photo: Image) -> None:
    network = open_network(weights[name])
    whole = network.call(photo)
    assert network.architecture == name
    assert tuple(whole.shape[-2:]) == (250 * network.scale, 236 * network.scale)
    for tile in spandrel_model.TILES:
        torch.testing.assert_close(restore_tiled(network, photo, tile=tile), whole, rtol=0, atol=1e-5)


def test_the_child_gives_the_same_pixels_and_tells_how_far_it_is(weights: dict[str, Path], photo: Image) -> None:
    path, steps = weights["SPAN"], list[tuple[int, int]]()
    restored, report = restore_isolated(path, photo, on_step=lambda done, total: steps.append((done, total)))
    torch.testing.assert_close(restored, restore_tiled(open_network(path), photo), rtol=0, atol=1e-6)
    assert (report["architecture"], report["scale"]) == ("SPAN", 3)
    assert report["num_parameters"] == sum(value.numel() for value in load_state(path).values())
    assert steps[-1] == (4, 4)


def test_a_stopped_baseline_ends_its_child(weights: dict[str, Path], photo: Image) -> None:
    with pytest.raises(InputError, match=r"SPAN\.safetensors was stopped before its picture was ready"):
        restore_isolated(weights["SPAN"], photo, stop=lambda: True)


def test_tensors_in_a_pickle_are_read(weights: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "esrgan.pth"
    torch.save({"params_ema": dict(load_state(weights["ESRGAN"]))}, path)
    assert open_network(path).architecture == "ESRGAN"


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_malicious_pickle_is_refused_and_nothing_in_it_runs(suffix: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    plain, zipped = tmp_path / f"plain{suffix}", tmp_path / f"zipped{suffix}"
    plain.write_bytes(pickle.dumps({"body.0.weight": Malicious(trace)}, protocol=2))
    torch.save({"body.0.weight": Malicious(trace), "body.1.weight": torch.zeros(1)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(WeightsError, match="must hold tensors alone"):
            load_state(path)
        assert not trace.exists()
    pickle.loads(plain.read_bytes())
    assert trace.exists(), "the file would have run something"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.jit.trace(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4)).save(str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match="must hold tensors alone"):
        load_state(tmp_path / "script.pt")


@pytest.mark.parametrize("data", [b"", b"no weights", b"PK\x03\x04" + bytes(40), b"\xff" * 64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_files_are_refused_by_name(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        open_network(path)


def test_networks_that_restore_no_rgb_photo_are_refused(tmp_path: Path, weights: dict[str, Path]) -> None:
    grey = saved(Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2), tmp_path / "grey.safetensors")
    with pytest.raises(WeightsError, match="must take and give RGB"):
        open_network(grey)
    save_file({"weight": torch.zeros(3)}, tmp_path / "unknown.safetensors")
    with pytest.raises(WeightsError, match="recognises none"):
        open_network(tmp_path / "unknown.safetensors")
    cut = {name: value for name, value in load_state(weights["ESRGAN"]).items() if "conv3" not in name}
    save_file(cut, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match="does not load"):
        open_network(tmp_path / "cut.safetensors")


def test_a_file_of_another_kind_or_too_large_is_not_opened(tmp_path: Path, photo: Image) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        restore_isolated(tmp_path / "model.onnx", photo)
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(spandrel_model.MAX_WEIGHTS_BYTES + 1)
    with pytest.raises(WeightsError, match="at most 512 MB"):
        restore_isolated(large, photo)
    with pytest.raises(WeightsError, match="readable file"):
        restore_isolated(tmp_path / "absent.pth", photo)


def child_answer(weights: Path, photo: Image, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the child's main in this process and return what it answers."""
    np.save(folder / "photo.npy", photo.numpy())
    monkeypatch.setattr(sys, "argv", ["x", str(weights), str(folder / "photo.npy"), str(folder)])
    monkeypatch.setattr(spandrel_model, "limit_resources", lambda **_: None)
    spandrel_model.main()
    return (folder / "report.json").read_text()


def test_a_network_too_large_for_a_tile_gets_smaller_tiles_and_then_an_answer(
    weights: dict[str, Path], photo: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def starved(*_: object, tile: int, **__: object) -> None:
        tried.append(tile)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(spandrel_model, "restore_tiled", starved)
    assert "needs too much memory" in child_answer(weights["SPAN"], photo, tmp_path, monkeypatch)
    assert tried == list(spandrel_model.TILES)


def test_a_network_that_would_take_too_long_says_so_after_its_first_tile(
    weights: dict[str, Path], photo: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spandrel_model, "TIMEOUT_S", 0.0)
    answer = child_answer(weights["SPAN"], photo, tmp_path, monkeypatch)
    assert "would take about" in answer
    assert '"is_file_at_fault": false' in answer


def test_every_refusal_is_of_a_kind_that_the_page_puts_into_words() -> None:
    assert issubclass(WeightsError, SRError)
    assert issubclass(InputError, SRError)
