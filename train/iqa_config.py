"""Recipes of IQA-guided training: enhanced targets, how one is chosen, and what is optimised."""

from typing import Literal

from sr_core.degradation_presets import PRESETS
from train.config import OptimConfig, check_pace, section
from train.preference_config import BackboneConfig, DrawConfig, HeldOutConfig, LoraConfig

LONG = ("optim.max_steps=48", "optim.decay_steps=16", "evaluate_every=8")
"""Overrides of an attack's runs, longer than a recipe that means well: what happens after its end is the point."""


@section
class EnhanceConfig:
    """How `python -m train iqa-targets` makes several targets for each crop."""

    crops: str
    """Folder that `python -m train data` made."""
    num_groups: int
    """How many crops are used, drawn without replacement."""
    crop_px: int = 128
    """Side of the square cut from the middle of each packed crop."""
    presets: dict[str, float]
    """Degradation presets with the share of groups that each gets; the LQ is made from the original alone."""
    sources: tuple[str, ...] = ("sharpened", "clarity", "prior", "compact")
    """Enhanced versions beside the original: `sharpened`, `clarity`, `prior`, a backbone with or without an adapter
    (`compact`, `compact/hpo`), or a folder of pictures named as the groups are."""
    reduction: Literal[2, 4] = 2
    """A backbone enhances the original reduced by this factor, and its x4 output is reduced to the original's size."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.presets) - set(PRESETS))
        if unknown or not self.presets:
            raise ValueError(f"presets must be among {sorted(PRESETS)}, got {sorted(self.presets)}")
        if self.crop_px < 32 or self.crop_px % 16:
            raise ValueError(f"crop_px must be a multiple of 16 from 32, got {self.crop_px}")
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources must name enhanced versions, each once, got {self.sources}")


@section
class TargetsConfig:
    """Which of a group's targets the model is shown."""

    strategy: Literal["original", "upos", "sma", "smp", "amo"]
    """`original`: the original; `upos`: uniform over human-positive targets; `sma`, `smp`: softmax of the quality of
    whole targets, over all or over human-positive ones; `amo`: of the same random patch of each target, the best."""
    metric: str = "brisque"
    """Metric that scores targets (a name of the registry; no reference)."""
    temperature: float = 5.0
    """Of the softmax, in the metric's own unit; the paper's is not known."""
    labels: tuple[str, ...] = ()
    """Human labels: the page's votes (SQLite or Parquet), or tables of pairs; see `train.iqa_labels`."""
    runs: tuple[str, ...] = ()
    """Run folders, or folders of them, that votes are about."""
    label_rule: Literal["bradley_terry", "majority"] = "bradley_terry"
    """What makes a target human-positive."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.strategy in ("upos", "smp") and not self.labels:
            raise ValueError(f"{self.strategy} needs `labels`, what people said about the targets")


@section
class QualityConfig:
    """What is lowered: weights of the terms, all on one image, and where that image comes from.

        L = flow F + l1 |I - J| + perceptual LPIPS(J, I) + gan A(J) - quality Q(J)

    Source: Augmenting Perceptual Super-Resolution via Image Quality Predictors, arXiv 2504.18524, section 3.3.
    """

    image: Literal["clean_end", "sampled"] = "clean_end"
    """J of the flow head: the clean end that it predicts at a random noise level, or what it draws in all steps. The
    prior has one output."""
    flow: float = 0.0
    """The flow's own error on the target, as in `sft`; of the head alone."""
    l1: float = 0.0
    perceptual: float = 0.0
    """LPIPS (AlexNet) to the target."""
    gan: float = 0.0
    """A small discriminator, trained beside it."""
    quality: float = 0.0
    """lambda_Q."""
    metric: Literal["brisque", "niqe", "musiq", "topiq_nr", "clipiqa_plus", "maniqa_pipal"] = "brisque"
    """Q: smooth BRISQUE or NIQE, or a network of pyiqa, mapped so that the registry's worst is 0 and its best 1."""

    def __post_init__(self) -> None:
        weights = (self.flow, self.l1, self.perceptual, self.gan, self.quality)
        if min(weights) < 0 or not any(weights):
            raise ValueError("flow, l1, perceptual, gan and quality must be at least 0 and one above it")


@section
class IqaRecipe:
    """IQA-guided training of the flow head or of the prior."""

    seed: int
    output: str
    dataset: str
    """Folder of targets: what `python -m train iqa-targets` made, or any preference dataset: candidates are targets."""
    cache: str
    """Folder for what the frozen prior says about each group; made on first use."""
    enhance: EnhanceConfig | None = None
    """How `dataset` is made; None where it is there already."""
    part: Literal["head", "prior"] = "head"
    """What is trained: the flow head, or the convolutions of the prior (the paper's RESRGAN rows)."""
    backbone: BackboneConfig = BackboneConfig()
    """`adapter` is where training starts, for the head."""
    lora: LoraConfig = LoraConfig()
    targets: TargetsConfig
    quality: QualityConfig
    optim: OptimConfig
    draw: DrawConfig = DrawConfig()
    """How the head draws: `image: sampled`, and when it is judged."""
    held_out: HeldOutConfig | None = None
    window_px: int = 24
    """Side of a training window in LQ pixels."""
    flip: bool = True
    log_every: int = 10
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    evaluate_every: int = 0
    """Steps between looks at the held-out photographs, one seed each; 0 means none."""
    look_photos: int = 6
    """How many of them are looked at."""
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_pace(self)
        if self.window_px < 4 or self.window_px % 4:
            raise ValueError(f"window_px must be a multiple of 4, got {self.window_px}")
        if self.part == "prior" and (self.quality.flow or self.backbone.adapter is not None):
            raise ValueError("part prior has no flow and no adapter to start from; leave quality.flow at 0")
        if self.lora.train == "full" and (self.part == "prior" or self.backbone.adapter is not None):
            raise ValueError("lora.train full is for the head alone and without backbone.adapter; use lora")
