"""Metrics of pyiqa, from local files only; the one module that imports pyiqa (PolyForm Noncommercial)."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sr_core.errors import WeightsError
from sr_core.rewards.brisque import BrisqueModel
from sr_core.rewards.local_files import checked_weights, find_in_package, package_source, sha256_of
from sr_core.rewards.niqe import NiqeModel
from sr_core.rewards.registry import Json, MetricSpec, Reference
from sr_core.tensors import Image, PerSample

Network = Callable[[Image, Reference | None], Tensor]
"""A few images and their reference go in, one number per image comes out, in whatever shape."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A checkpoint below the folder of torch's hub (`torch.hub.get_dir()`)."""

    path: str
    sha256: str | None
    """Start of its SHA-256 as its publisher states it; None: not stated, and read without pickle."""


@dataclass(frozen=True, kw_only=True)
class PyiqaEntry:
    """How pyiqa knows a metric, what it needs and what it can take."""

    name: str
    files: tuple[WeightsFile, ...] = ()
    repository: str | None = None
    """Model hub repository whose snapshot must lie in the hub's cache."""
    batch: int = 8
    """Most images per call."""
    multiple: int = 1
    """Sides must be a multiple of this many pixels; the rest is cut off evenly."""


def _published(name: str) -> WeightsFile:
    """Return a file of pyiqa's whose name ends in the start of its SHA-256, as torch's hub names files."""
    return WeightsFile(path=f"pyiqa/{name}", sha256=Path(name).stem.rpartition("-")[2])


_VGG16 = WeightsFile(path="checkpoints/vgg16-397923af.pth", sha256="397923af")
_CLIP_VIT = WeightsFile(
    path="clip/ViT-B-32.pt", sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
)
_CLIP_RN50 = WeightsFile(path="clip/RN50.pt", sha256="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762")
_AFINE = (WeightsFile(path="pyiqa/afine.pth", sha256=None), _CLIP_VIT)

ENTRIES: dict[str, PyiqaEntry] = {
    "lpips_vgg": PyiqaEntry(name="lpips-vgg", files=(_published("LPIPS_v0.1_vgg-a78928a0.pth"), _VGG16)),
    "dists": PyiqaEntry(name="dists", files=(_published("DISTS_weights-f5e65c96.pth"), _VGG16)),
    "topiq_fr": PyiqaEntry(name="topiq_fr", files=(_published("cfanet_fr_kadid_res50-2c4cc61d.pth"),)),
    "topiq_nr": PyiqaEntry(name="topiq_nr", files=(_published("cfanet_nr_koniq_res50-9a73138b.pth"),)),
    "maniqa_pipal": PyiqaEntry(name="maniqa-pipal", files=(_published("MANIQA_PIPAL-ae6d356b.pth"),), batch=1),
    "musiq": PyiqaEntry(name="musiq", files=(_published("musiq_koniq_ckpt-e95806b9.pth"),)),
    "clipiqa_plus": PyiqaEntry(
        name="clipiqa+", files=(_published("CLIP-IQA+_learned_prompts-603f3273.pth"), _CLIP_RN50)
    ),
    "afine_fr": PyiqaEntry(name="afine_fr", files=_AFINE, batch=1, multiple=32),
    "afine_nr": PyiqaEntry(name="afine_nr", files=_AFINE, batch=1, multiple=32),
    "qalign": PyiqaEntry(name="qalign", repository="q-future/one-align", batch=1),
    "st_lpips": PyiqaEntry(name="stlpips"),
}
"""By our name. `maniqa_pipal` and `lpips_vgg` are the paper's variants as far as its numbers tell."""

_ST_LPIPS_SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"


@dataclass(frozen=True, kw_only=True)
class PyiqaMetric:
    """A network of pyiqa behind our contract."""

    spec: MetricSpec
    provenance: Mapping[str, Json]
    network: Network
    batch: int
    multiple: int

    def __call__(self, images: Image, reference: Reference | None) -> PerSample:
        """Score `images` a few at a time; the network gets copies, because A-FINE normalises in place."""
        shown = _cut(images, self.multiple)
        target = None if reference is None else _cut(reference, self.multiple)
        parts = [
            self.network(part.clone(), None if target is None else target.clone())
            for part in torch.split(shown, self.batch)
        ]
        return torch.cat([part.reshape(-1) for part in parts]).float()


def load(spec: MetricSpec, device: str) -> PyiqaMetric:
    """Load one of pyiqa's metrics; raises WeightsError naming the files that are missing and their folder."""
    if find_spec("pyiqa") is None:
        raise WeightsError(f"{spec.label} needs the package pyiqa: run `pip install pyiqa`")
    entry = ENTRIES[spec.name]
    if spec.name == "st_lpips":
        network, weights = _load_st_lpips(device)
    else:
        weights = check_files(spec.label, entry.files) | _check_repository(spec.label, entry.repository)
        network = partial(_call, spec.full_reference, _build(entry, device))
    provenance: dict[str, Json] = {
        **package_source("pyiqa"),
        **weights,
        "colour": "sRGB in [0, 1]",
        "dtype": "float32",
        "device": device,
        "multiple": entry.multiple,
    }
    return PyiqaMetric(spec=spec, provenance=provenance, network=network, batch=entry.batch, multiple=entry.multiple)


def load_differentiable(spec: MetricSpec, device: str) -> Callable[[Image], PerSample]:
    """Load one of pyiqa's no-reference networks with a gradient to its input; raises WeightsError as `load` does."""
    if find_spec("pyiqa") is None:
        raise WeightsError(f"{spec.label} needs the package pyiqa: run `pip install pyiqa`")
    entry = ENTRIES[spec.name]
    check_files(spec.label, entry.files)
    _check_repository(spec.label, entry.repository)
    metric = _build(entry, device, as_loss=True)
    return lambda images: torch.cat([metric(part).reshape(-1) for part in torch.split(images, entry.batch)])


def statistics_formulas(model: BrisqueModel, pristine: NiqeModel) -> dict[str, Callable[[Image], Tensor]]:
    """Return pyiqa's BRISQUE, NIQE and PIQE as it writes them, fed our numbers: to compare values and gradients."""
    from pyiqa.archs.brisque_arch import brisque
    from pyiqa.archs.niqe_arch import niqe
    from pyiqa.archs.piqe_arch import piqe
    from pyiqa.utils.color_util import to_y_channel

    def scored_blocks(images: Image) -> Tensor:
        outcome = piqe(images)
        return outcome[0] if isinstance(outcome, tuple) else outcome

    return {
        "pyiqa brisque": lambda x: brisque(x, sv_coef=model.coefficients, sv=model.vectors, rho=model.rho),
        "pyiqa niqe": lambda x: niqe(to_y_channel(x, 255.0), pristine.mean[None], pristine.covariance[None]),
        "pyiqa piqe": scored_blocks,
    }


def check_files(label: str, files: tuple[WeightsFile, ...]) -> dict[str, Json]:
    """Return the provenance of checkpoints below torch's hub folder.

    Raises WeightsError if one is missing, with the place it belongs to, or has another content than published.
    """
    folder = Path(torch.hub.get_dir())
    missing = [file.path for file in files if not (folder / file.path).is_file()]
    if missing:
        raise WeightsError(f"{label} needs {' and '.join(missing)} in {folder}; nothing is downloaded here")
    sums = {file.path: sha256_of(folder / file.path) for file in files}
    for file in files:
        if file.sha256 is not None and not sums[file.path].startswith(file.sha256):
            raise WeightsError(
                f"{folder / file.path} must have a SHA-256 that starts with {file.sha256}, "
                f"got {sums[file.path]}; fetch it again"
            )
    return {"weights": ", ".join(sums), "sha256": ", ".join(sums.values())} if sums else {}


def _check_repository(label: str, repository: str | None) -> dict[str, Json]:
    if repository is None:
        return {}
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    if not isinstance(found, str):
        raise WeightsError(
            f"{label} needs a snapshot of {repository} in {constants.HF_HUB_CACHE}; nothing is downloaded here"
        )
    return {"weights": repository, "revision": Path(found).parent.name}


def _build(entry: PyiqaEntry, device: str, *, as_loss: bool = False) -> nn.Module:
    import pyiqa

    # Else A-FINE would look for CLIP in another folder than everything else.
    clip = {"clip_backbone": str(Path(torch.hub.get_dir()) / _CLIP_VIT.path)}
    options: dict[str, str] = clip if _CLIP_VIT in entry.files else {}
    if as_loss:
        options |= {"loss_reduction": "none"}
    with without_network():
        metric: nn.Module = pyiqa.create_metric(entry.name, device=torch.device(device), as_loss=as_loss, **options)
    return metric


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Refuse downloads while pyiqa builds a network, keep timm's weights out and pyiqa's prints off stdout."""
    import huggingface_hub.constants
    import pyiqa.utils.download_util
    import timm

    def refuse(_url: str, target: str, *_rest: object, **_settings: object) -> None:
        raise WeightsError(f"{Path(target).name} must lie in {Path(target).parent}; nothing is downloaded here")

    create_model: Callable[..., nn.Module] = timm.create_model

    def untrained(name: str, **settings: object) -> nn.Module:
        # pyiqa's own checkpoint holds the trained backbone and is loaded strictly afterwards.
        return create_model(name, **(settings | {"pretrained": False}))

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_replaced(torch.hub, "download_url_to_file", refuse))
        stack.enter_context(_replaced(pyiqa.utils.download_util, "download_url_to_file", refuse))
        stack.enter_context(_replaced(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        stack.enter_context(_replaced(timm, "create_model", untrained))
        yield


@contextlib.contextmanager
def _replaced(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _call(full_reference: bool, metric: nn.Module, images: Image, reference: Reference | None) -> Tensor:
    if not full_reference:
        return metric(images)
    assert reference is not None
    return metric(images, reference.expand_as(images).clone())


def _cut(images: Image, multiple: int) -> Float[Tensor, "b 3 y x"]:
    """Cut sides to a multiple, the same at both ends."""
    height, width = (side - side % multiple for side in images.shape[-2:])
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def _load_st_lpips(device: str) -> tuple[Network, dict[str, Json]]:
    path = find_in_package("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth")
    if path is None:
        raise WeightsError("ST-LPIPS needs a file of a package: run `pip install stlpips-pytorch==0.0.2`")
    weights = checked_weights("stlpips-pytorch", path, _ST_LPIPS_SHA256)
    import pyiqa

    with without_network():
        net = pyiqa.create_metric("stlpips", device=torch.device(device), pretrained_model_path=str(path)).net

    def features(images: Image) -> list[Tensor]:
        layers = net.net(net.scaling_layer(2 * images - 1))
        return [x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in layers]

    @torch.no_grad()
    def score(images: Image, reference: Reference | None) -> PerSample:
        # pyiqa would compute the reference's features again for every candidate.
        assert reference is not None
        total = images.new_zeros(len(images))
        for x, y, weigh in zip(features(images), features(reference), net.lins, strict=True):
            total = total + weigh((x - y).square()).mean(dim=(1, 2, 3))
        return total

    return score, weights
