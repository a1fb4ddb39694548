"""The table of metrics and the named sets of them; every metric is loaded through here."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from sr_core.errors import ConfigError
from sr_core.tensors import Image, PerSample

Json = str | int | float | bool | None
"""What one provenance entry may hold."""

Reference = Float[Tensor, "1 3 h w"]
"""What all images of a batch are compared with: pixels as in `Image`, of the same size, batch 1."""

Half = Literal["reference", "no_reference"]
"""The two halves of the hybrid reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A quality measure and how to read its raw value."""

    name: str
    """Key in the table, in `run.json` and on the command line."""
    label: str
    """Name for people."""
    full_reference: bool
    """Whether it compares against another image."""
    worst: float
    """Nominal raw value of a bad image; values beyond it occur."""
    best: float
    """Nominal raw value of the best image; below `worst` when lower is better."""
    tolerance: float
    """Raw difference that means nothing; how it was measured: assets/metrics/README.md."""
    min_side: int
    """Smallest image side in pixels at which the value is trusted."""
    source: Literal["offline", "pyiqa"]
    """Which loader makes it."""
    note: str
    """What it is, in a few words."""

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller raw value is the better one."""
        return self.best < self.worst


@runtime_checkable
class Metric(Protocol):
    """A loaded metric: a batch of candidates goes in, one raw score per candidate comes out."""

    @property
    def spec(self) -> MetricSpec:
        """Its row of the table."""

    @property
    def provenance(self) -> Mapping[str, Json]:
        """Source package and version, weights file and SHA-256, colour, dtype, device."""

    def __call__(self, images: Image, reference: Reference | None) -> PerSample:
        """Score `images`; the reference's features are computed once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSet:
    """Which metrics make the two halves of a hybrid reward."""

    full_reference: tuple[str, ...]
    """Reference half when a reference is given."""
    no_reference: tuple[str, ...]
    """No-reference half."""
    consistency: tuple[str, ...]
    """Full-reference metrics between the reduced candidate and the LQ, when no reference is given."""


_ROWS = (
    MetricSpec(
        name="lpips",
        label="LPIPS (alex)",
        full_reference=True,
        worst=1.0,
        best=0.0,
        tolerance=0.0001,
        min_side=32,
        source="offline",
        note="distance of AlexNet features, arXiv 1801.03924",
    ),
    MetricSpec(
        name="ssimulacra2",
        label="SSIMULACRA 2",
        full_reference=True,
        worst=0.0,
        best=100.0,
        tolerance=0.01,
        min_side=32,
        source="offline",
        note="multi-scale structure and artefacts, fitted to human ratings; negative for very bad images",
    ),
    MetricSpec(
        name="vsi",
        label="VSI",
        full_reference=True,
        worst=0.5,
        best=1.0,
        tolerance=0.000003,
        min_side=32,
        source="offline",
        note="saliency-weighted similarity, doi 10.1109/TIP.2014.2346028",
    ),
    MetricSpec(
        name="psnr",
        label="PSNR (dB)",
        full_reference=True,
        worst=10.0,
        best=100.0,
        tolerance=0.002,
        min_side=1,
        source="offline",
        note="pixel error, capped at 100 dB; a hold-out",
    ),
    MetricSpec(
        name="st_lpips",
        label="ST-LPIPS (alex)",
        full_reference=True,
        worst=1.0,
        best=0.0,
        tolerance=0.00005,
        min_side=64,
        source="pyiqa",
        note="shift-tolerant LPIPS, arXiv 2207.13686; a hold-out",
    ),
    MetricSpec(
        name="brisque",
        label="BRISQUE",
        full_reference=False,
        worst=100.0,
        best=0.0,
        tolerance=0.15,
        min_side=64,
        source="offline",
        note="support vector regression on scene statistics, doi 10.1109/TIP.2012.2214050",
    ),
    MetricSpec(
        name="niqe",
        label="NIQE",
        full_reference=False,
        worst=15.0,
        best=0.0,
        tolerance=0.03,
        min_side=192,
        source="offline",
        note="distance to the statistics of good photographs, doi 10.1109/LSP.2012.2227726",
    ),
    MetricSpec(
        name="piqe",
        label="PIQE",
        full_reference=False,
        worst=100.0,
        best=0.0,
        tolerance=0.5,
        min_side=64,
        source="offline",
        note="share of visibly distorted blocks, doi 10.1109/NCC.2015.7084843",
    ),
    MetricSpec(
        name="lpips_vgg",
        label="LPIPS (vgg)",
        full_reference=True,
        worst=1.0,
        best=0.0,
        tolerance=0.0001,
        min_side=32,
        source="pyiqa",
        note="distance of VGG-16 features, arXiv 1801.03924",
    ),
    MetricSpec(
        name="dists",
        label="DISTS",
        full_reference=True,
        worst=1.0,
        best=0.0,
        tolerance=0.0001,
        min_side=32,
        source="pyiqa",
        note="structure and texture of VGG-16 features, arXiv 2004.07728",
    ),
    MetricSpec(
        name="topiq_fr",
        label="TOPIQ-FR",
        full_reference=True,
        worst=0.0,
        best=1.0,
        tolerance=0.0002,
        min_side=64,
        source="pyiqa",
        note="top-down semantics, KADID weights, arXiv 2308.03060",
    ),
    MetricSpec(
        name="afine_fr",
        label="A-FINE fidelity",
        full_reference=True,
        worst=2.0,
        best=-2.0,
        tolerance=0.001,
        min_side=32,
        source="pyiqa",
        note="CLIP features, fidelity term, arXiv 2503.11221",
    ),
    MetricSpec(
        name="maniqa_pipal",
        label="MANIQA (PIPAL)",
        full_reference=False,
        worst=0.0,
        best=1.0,
        tolerance=0.0005,
        min_side=225,
        source="pyiqa",
        note="transformer, arXiv 2204.08958",
    ),
    MetricSpec(
        name="musiq",
        label="MUSIQ",
        full_reference=False,
        worst=0.0,
        best=100.0,
        tolerance=0.05,
        min_side=32,
        source="pyiqa",
        note="multi-scale transformer, KonIQ weights, arXiv 2108.05997",
    ),
    MetricSpec(
        name="clipiqa_plus",
        label="CLIP-IQA+",
        full_reference=False,
        worst=0.0,
        best=1.0,
        tolerance=0.0005,
        min_side=224,
        source="pyiqa",
        note="tuned CLIP prompts, arXiv 2207.12396",
    ),
    MetricSpec(
        name="topiq_nr",
        label="TOPIQ-NR",
        full_reference=False,
        worst=0.0,
        best=1.0,
        tolerance=0.0005,
        min_side=64,
        source="pyiqa",
        note="top-down semantics, KonIQ weights, arXiv 2308.03060",
    ),
    MetricSpec(
        name="afine_nr",
        label="A-FINE naturalness",
        full_reference=False,
        worst=2.0,
        best=-2.0,
        tolerance=0.001,
        min_side=32,
        source="pyiqa",
        note="CLIP features, naturalness term, arXiv 2503.11221",
    ),
    MetricSpec(
        name="qalign",
        label="Q-Align",
        full_reference=False,
        worst=1.0,
        best=5.0,
        tolerance=0.005,
        min_side=32,
        source="pyiqa",
        note="large multi-modal model, arXiv 2312.17090",
    ),
)

METRICS: dict[str, MetricSpec] = {spec.name: spec for spec in _ROWS}

METRIC_SETS: dict[str, MetricSet] = {
    "paper": MetricSet(
        full_reference=("lpips_vgg", "topiq_fr", "afine_fr"),
        no_reference=("maniqa_pipal", "musiq", "clipiqa_plus", "topiq_nr", "afine_nr", "qalign"),
        consistency=("lpips_vgg", "topiq_fr", "afine_fr"),
    ),
    "standard": MetricSet(
        full_reference=("lpips", "dists", "topiq_fr"),
        no_reference=("musiq", "clipiqa_plus", "topiq_nr"),
        consistency=("lpips", "dists", "topiq_fr"),
    ),
    "offline": MetricSet(
        full_reference=("lpips", "ssimulacra2", "vsi"),
        no_reference=("brisque", "niqe", "piqe"),
        consistency=("lpips", "vsi"),
    ),
    "train_offline": MetricSet(
        full_reference=("lpips", "ssimulacra2", "vsi"),
        no_reference=("brisque", "niqe"),
        consistency=("lpips", "vsi"),
    ),
}
"""`paper` is DP2O-SR's (arXiv 2510.18851, section 4.1); `train_offline` keeps PIQE out for honest checks."""

_LOADERS = {"offline": "sr_core.rewards.offline", "pyiqa": "sr_core.rewards.iqa"}


def metric_spec(name: str) -> MetricSpec:
    """Look up a metric; raises ConfigError naming the nearest known ones."""
    if name not in METRICS:
        raise ConfigError(f"metric must be a known one, got {name!r}; did you mean {_nearest(name, METRICS)}?")
    return METRICS[name]


def metric_set(name: str) -> MetricSet:
    """Look up a metric set; raises ConfigError naming the nearest known ones."""
    if name not in METRIC_SETS:
        raise ConfigError(f"metric set must be a known one, got {name!r}; did you mean {_nearest(name, METRIC_SETS)}?")
    return METRIC_SETS[name]


def load_metric(name: str, device: str = "cpu") -> Metric:
    """Load one metric from local files only.

    Raises ConfigError if the name is not known, WeightsError naming the missing file and where to put it.
    """
    spec = metric_spec(name)
    metric: Metric = import_module(_LOADERS[spec.source]).load(spec, device)
    return metric


def _nearest(name: str, known: Mapping[str, object]) -> str:
    return ", ".join(get_close_matches(name, known) or sorted(known))
