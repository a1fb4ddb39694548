"""Recipes of curation, preference training, its adversary and online rounds."""

from typing import Literal, NamedTuple

from sr_core.degradation_presets import PRESETS
from train.config import OptimConfig, TrackerName, check_pace, section

OBJECTIVE_NAMES = ("dpo", "hpo", "sobolev_dpo", "as_dpo", "ipo", "hinge", "kto", "simpo", "mapo", "dspo")


@section
class BackboneConfig:
    """The model that draws candidates or is trained."""

    name: Literal["compact", "c-sd2", "sd15", "sdxl", "c-flux", "flux-lora"] = "compact"
    head: str | None = None
    """Weights of a flow head (`compact`); None means the shipped ones."""
    adapter: str | None = None
    """PEFT folder of the model before preference training; None means the backbone's own weights. For backbones with
    a LoRA (flux-lora, sd15, sdxl) it is that LoRA, as a folder or a file."""
    base: str | None = None
    """Local folder of the base model (diffusers backbones); its hub id, or None, means where `sr weights` looks."""
    controlnet: str | None = None
    """Local file or folder of the control branch (diffusers backbones); None means where `sr weights` looks."""
    prompt: str = ""
    """What the text encoders are told of every photo (diffusers backbones)."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """How the frozen base is stored (FLUX)."""

    def __post_init__(self) -> None:
        if self.name == "compact" and (self.base or self.controlnet or self.prompt or self.quantize != "none"):
            raise ValueError("compact has no base, controlnet, prompt or quantize; name another backbone or leave them")


@section
class TrainedBackboneConfig(BackboneConfig):
    """The model that is trained."""

    training_guidance: float | None = None
    """Guidance that the network is told in training (FLUX, which takes it as an input); None is the backbone's own:
    2.5 for c-flux, 0 for flux-lora."""


@section
class DrawConfig:
    """How the current policy draws candidates; the papers train on exactly what they evaluate."""

    num_candidates: int = 16
    """M of DP2O-SR, one seed each."""
    num_steps: int = 4
    sampler: Literal["euler", "heun", "native"] = "euler"
    """`native` is the release's own scheduler (diffusers backbones)."""
    schedule: Literal["geometric", "power", "linear"] = "geometric"
    guidance: float = 1.0
    """Classifier-free or distilled guidance; `compact` has none and asks for 1."""

    def __post_init__(self) -> None:
        if self.num_candidates < 2:
            raise ValueError(f"a group needs at least 2 candidates, got {self.num_candidates}")


@section
class CurateRecipe:
    """Candidates, scores and preference pairs of many photographs."""

    seed: int
    output: str
    """Folder of the dataset."""
    crops: str | None = None
    """Folder that `python -m train data` made; None where only runs are added."""
    runs: tuple[str, ...] = ()
    """Run folders of the page or of `sr upscale`, or folders of them, added as groups."""
    licenses: str | None = None
    """JSON file of the crops' photographs by licence, {licence: [file names]}; the licence of others is unknown."""
    num_groups: int = 0
    """How many crops are used, drawn without replacement; 0 means all."""
    presets: dict[str, float]
    """Degradation presets with the share of groups that each gets."""
    backbone: BackboneConfig = BackboneConfig()
    draw: DrawConfig = DrawConfig()
    metric_set: str = "train_offline"
    fidelity_weight: float = 0.5
    """Share of the full-reference half in the reward."""
    top: int = 4
    """N of DP2O-SR: top-N x bottom-N pairs go into the table of pairs."""
    ddof: Literal[0, 1] = 0
    """0: population standard deviation in the inter-group weight."""
    groups_per_shard: int = 64
    dtype: str = "auto"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.presets) - set(PRESETS))
        if unknown or not self.presets:
            raise ValueError(f"presets must be among {sorted(PRESETS)}, got {sorted(self.presets)}")
        if self.crops is None and not self.runs:
            raise ValueError("name `crops`, `runs` or both; there is nothing to curate")
        if not 1 <= self.top <= self.draw.num_candidates // 2:
            raise ValueError(f"top must lie in 1 to {self.draw.num_candidates // 2} (half of M), got {self.top}")
        if not 0 <= self.fidelity_weight <= 1:
            raise ValueError(f"fidelity_weight must lie in [0, 1], got {self.fidelity_weight}")


@section
class PairsConfig:
    """Which pairs of the curated groups are trained on, and with which weight."""

    source: Literal["scores", "table", "supervised"] = "scores"
    """`scores`: made anew from the stored raw scores; `table`: the table of pairs as it stands (human votes, the page's
    export); `supervised`: the ground truth against each candidate."""
    num_candidates: int = 0
    """M: only the first M seeds of each group, normalised anew among themselves; 0 means all."""
    top: int = 4
    """N: top-N x bottom-N."""
    fidelity_weight: float = 0.5
    """1 is full-reference only, 0 no-reference only."""
    intra: bool = True
    """Weight by the reward gap inside the group (objective `hpo`)."""
    inter: bool = True
    """Weight by the spread of the group (objective `hpo`)."""
    ddof: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        if self.top < 1 or (self.num_candidates and self.top > self.num_candidates // 2):
            raise ValueError(f"top must lie in 1 to half of the candidates, got {self.top} of {self.num_candidates}")


class BetaUnit(NamedTuple):
    """How a source writes beta."""

    factor: float | None
    """Its beta over this project's; None where the recipe alone gives no number."""
    note: str

    def text(self, beta: float) -> str:
        """Return this project's `beta` as the source writes it, with the note."""
        return f"not a number ({self.note})" if self.factor is None else f"{self.factor * beta:g} ({self.note})"


class BetaUnits(NamedTuple):
    """How an objective's paper and its released code write beta."""

    paper: BetaUnit
    release: BetaUnit


_DIFFUSION_DPO = BetaUnit(2.0, "Diffusion-DPO's code multiplies the mean difference by -0.5 beta")
_ASASR = BetaUnit(2.0, "ASASR's code multiplies the difference by -0.5 beta_dpo")
BETA_UNITS: dict[str, BetaUnits] = {
    "dpo": BetaUnits(BetaUnit(None, "Diffusion-DPO sums errors over D elements: beta / D"), _DIFFUSION_DPO),
    "hpo": BetaUnits(
        BetaUnit(2.0, "DP2O-SR does not state its units; its 5000 is read in those of Diffusion-DPO's code"),
        _DIFFUSION_DPO,
    ),
    "sobolev_dpo": BetaUnits(BetaUnit(1.0, "ASASR's Eq. 15 multiplies the difference itself"), _ASASR),
    "as_dpo": BetaUnits(BetaUnit(1.0, "ASASR's Eq. 18 multiplies the difference itself"), _ASASR),
    "ipo": BetaUnits(
        BetaUnit(1.0, "tau of IPO's Eq. 17, mean errors standing for log-likelihoods"),
        BetaUnit(1.0, "diffusers' code takes the mean difference itself"),
    ),
    "hinge": BetaUnits(
        BetaUnit(None, "SLiC-HF has no such factor"),
        BetaUnit(1.0, "diffusers' code multiplies the mean difference itself"),
    ),
    "kto": BetaUnits(*[BetaUnit(None, "whether Diffusion-KTO sums or averages errors was not read")] * 2),
    "simpo": BetaUnits(*[BetaUnit(None, "SimPO's beta is of mean log-likelihoods; no source has it for errors")] * 2),
    "mapo": BetaUnits(*[BetaUnit(1.0, "MaPO's beta multiplies the preference term")] * 2),
    "dspo": BetaUnits(
        BetaUnit(1.0, "DSPO's beta multiplies the pull"),
        BetaUnit(None, "this beta before the pull and half of it in the sigmoid, where one serves here"),
    ),
}
"""Units of beta by objective, as the sources named have them."""


@section
class ObjectiveConfig:
    """How preference pairs turn into a loss."""

    name: Literal["dpo", "hpo", "sobolev_dpo", "as_dpo", "ipo", "hinge", "kto", "simpo", "mapo", "dspo"]
    beta: float
    """Multiplies the difference of per-element mean errors directly (no hidden 0.5)."""
    exponent: float | None = None
    """Sobolev exponent s of the error norm, 0 the mean squared error; None is the objective's own (1.5 for the two of
    ASASR, 0 for dspo). The others measure mean squared errors and take none."""
    frequency_unit: float = 32.0
    """omega = frequency_unit * k / n per axis; 32 is k/2 on a side of 64."""
    sobolev_scaling: Literal["mean_one", "raw"] = "mean_one"
    """`raw` leaves the weights undivided, as the paper prints them."""
    sobolev_transform: Literal["dct", "rfft"] = "dct"
    """`rfft` is the released code's one-sided form."""
    anchor: float = 0.0
    """Weight of the policy's own error on winners, added to the loss (unmasked even where a mask is used)."""
    kl_weight: float = 0.0
    """Weight of the mean square between the predictions of policy and reference, added to the loss.

    Around margin 0 the optimum is the reference moved by beta / (2 kl_weight) along the mean winner-minus-loser
    difference that the noisy state and the photo foretell; directions that no pair speaks of stay where they are."""
    mask_power: float = 0.0
    """Above 0, the preference term looks where winner and loser differ: mask = |difference|^power, mean one."""
    label_smoothing: float = 0.0
    """cDPO's share of wrong labels, for the sigmoid losses."""
    simpo_gamma: float = 0.0
    """Target margin of `simpo`."""
    adversary_strength: float = 0.1
    """lambda of AS-DPO: 1 is eq. 16-17 of the paper, 0.1 the released code."""
    lq_loser_weight: float = 0.0
    """Weight of a further pair against the enlarged LQ, 1 in the released code, absent from eq. 18."""
    guidance: Literal["sobolev", "euclidean"] = "sobolev"
    """Norm in which AS-DPO compares with the adversarial loser."""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        if self.exponent is not None and self.exponent < 0:
            raise ValueError(f"exponent must be at least 0, got {self.exponent}")
        if self.exponent and self.name not in ("sobolev_dpo", "as_dpo", "dspo"):
            raise ValueError(f"{self.name} measures mean squared errors; exponent {self.exponent} would do nothing")
        if min(self.anchor, self.kl_weight, self.mask_power, self.lq_loser_weight) < 0:
            raise ValueError("anchor, kl_weight, mask_power and lq_loser_weight must be at least 0")
        if self.kl_weight and self.name in ("simpo", "mapo"):
            raise ValueError(f"{self.name} has no reference for kl_weight to pull to")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")

    @property
    def beta_paper(self) -> str:
        """Return beta in the units of the paper, with where they are read."""
        return BETA_UNITS[self.name].paper.text(self.beta)

    @property
    def beta_release(self) -> str:
        """Return beta in the units of the released code, with where they are read."""
        return BETA_UNITS[self.name].release.text(self.beta)


@section
class LoraConfig:
    """What of the backbone is trained."""

    rank: int = 8
    alpha: float = 8.0
    target_modules: tuple[str, ...] = ()
    """Layers by name ending; empty means every convolution (`compact`), ASASR's list (FLUX) or a UNet's projections."""
    train: Literal["lora", "full"] = "lora"
    """`full` trains all weights of the head (`compact`, which then gives no adapter) or of the control branch, against
    a frozen copy of these alone."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"rank and alpha must be positive, got {self.rank} and {self.alpha}")


@section
class AdversaryConfig:
    """A LoRA that imitates the failures of baseline restorers (ASASR's AMG)."""

    output: str
    """Folder of the adversary's run; its PEFT folder is `adapter` in it."""
    baselines: tuple[str, ...] = ("prior", "few_steps", "over_sharpened", "over_smoothed")
    """Sources of failures; any other name is a folder of outputs named as the groups are."""
    optim: OptimConfig
    rank: int = 16
    alpha: float = 16.0
    trust_radius: float = 0.0
    """Limit on how far the adversary's velocity leaves the SFT model's: root mean over elements, in the objective's
    norm, so that it does not depend on the window's size; 0 means none."""

    def __post_init__(self) -> None:
        if self.trust_radius < 0:
            raise ValueError(f"trust_radius must be at least 0, got {self.trust_radius}")


@section
class RoundsConfig:
    """Online rounds: curate from the newest policy, prefer, judge on photographs that never train."""

    count: int = 3
    curate: str
    """Recipe of curation; its output, backbone and seed are set anew each round."""
    tolerance: float = 0.0
    """The hold-outs count as fallen once the mean of their changes, each in units of its spread over photographs, is
    below minus this."""


@section
class HeldOutConfig:
    """Photographs that judge; keep them apart from those that train."""

    photos: tuple[str, ...]
    presets: tuple[str, ...] = ("bicubic", "real-esrgan", "resshift-1st")
    num_candidates: int = 16
    limit: int = 0
    """Use only this many photographs; 0 means all."""
    seed: int = 900_000
    """First of the fresh seeds."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.presets) - set(PRESETS))
        if unknown or not self.presets:
            raise ValueError(f"presets must be among {sorted(PRESETS)}, got {sorted(self.presets)}")


@section
class PreferRecipe:
    """Preference training of an adapter."""

    seed: int
    output: str
    dataset: str
    """Folder that `python -m train curate` made."""
    cache: str
    """Folder for what the frozen prior says about each group; made on first use."""
    backbone: TrainedBackboneConfig = TrainedBackboneConfig()
    lora: LoraConfig = LoraConfig()
    pairs: PairsConfig = PairsConfig()
    objective: ObjectiveConfig
    optim: OptimConfig
    draw: DrawConfig = DrawConfig()
    """How candidates are drawn for samples and judging."""
    levels: Literal["uniform", "logit_normal", "steps"] = "uniform"
    """Distribution of the noise level: `uniform` but for the share `optim.pure_noise_share` of each batch, which is at
    sigma = 1 exactly; `logit_normal`; `steps` draws among those of the backbone's diffusion schedule."""
    levels_min: float = 0.0
    """Noise levels are drawn above this one."""
    adversary: AdversaryConfig | None = None
    rounds: RoundsConfig | None = None
    held_out: HeldOutConfig | None = None
    """What `evaluate` and `rounds` judge on."""
    window_px: int = 0
    """Side of a training window in LQ pixels; 0 means the whole crop."""
    flip: bool = True
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    sample_every: int = 0
    """Steps between sample grids at fixed seeds, of the adversary too; 0 means none."""
    trackers: tuple[TrackerName, ...] = ()
    dtype: str = "auto"
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass instead of keeping them (diffusers backbones)."""

    def __post_init__(self) -> None:
        check_pace(self)
        if self.backbone.training_guidance is not None and self.backbone.name not in ("c-flux", "flux-lora"):
            raise ValueError(f"backbone.training_guidance is of c-flux and flux-lora, {self.backbone.name} takes none")
        if self.backbone.name == "compact":
            if self.lora.train == "full" and (self.objective.name == "as_dpo" or self.backbone.adapter is not None):
                raise ValueError(
                    "lora.train full of compact knows neither an adversary nor a backbone.adapter; use lora"
                )
            if self.levels == "steps" or self.gradient_checkpointing:
                raise ValueError("compact has no diffusion schedule and no gradient_checkpointing; leave both out")
        if self.objective.name == "as_dpo" and self.adversary is None:
            raise ValueError("as_dpo needs the section `adversary`")
        if self.window_px % 4:
            raise ValueError(f"window_px must be a multiple of 4, got {self.window_px}")
        if not 0 <= self.levels_min < 1:
            raise ValueError(f"levels_min must lie in [0, 1), got {self.levels_min}")
