"""Recipes of one-step training: data, losses, and how the level is chosen."""

from sr_core.degradation_presets import GRADED, PRESETS
from train.config import OptimConfig, check_pace, section

PROMPTS = (
    ("a sharp photo", "a blurry photo"),
    ("a clean photo", "a noisy photo"),
    ("a natural photo", "an artificial photo"),
    ("a high quality photo", "a low quality photo"),
)
"""Antonym pairs of the text-domain loss; the paper's are not published, these are ours."""


@section
class RegionConfig:
    """Which photographs are degraded, and how."""

    photos: tuple[str, ...]
    """Folders of photographs."""
    cache: str
    """Folder for the regions and the prior's features of their windows; made on first use."""
    count: int
    """Regions, spread evenly over the photographs."""
    paired: int = 0
    """Photographs of which one region is degraded at five graded strengths too, for the last fit of the selector."""
    presets: dict[str, float]
    """Degradation presets with their shares; `graded` draws its strength uniformly, so that every strength occurs."""

    def __post_init__(self) -> None:
        known = {*PRESETS, GRADED}
        if not self.presets or not set(self.presets) <= known:
            raise ValueError(f"presets must be among {sorted(known)}, got {sorted(self.presets)}")
        if min(self.presets.values()) <= 0 or min(self.count, self.paired + 1) < 1:
            raise ValueError(f"shares and count must be positive, got {self.presets} and {self.count}")


@section
class OwmsConfig:
    """Weights of the losses; one whose weights are absent is refused by name, never dropped."""

    l2: float = 1.0
    """Mean squared error, of latents for `compact`."""
    lpips: float = 0.0
    image: float = 0.0
    """Image-domain semantic alignment: 1 - cosine of an encoder's features of restoration and ground truth."""
    image_encoder: str = "dinov2"
    """`dinov2`, which a package carries, or a CLIP model of transformers: local folder, or hub id already cached."""
    text: float = 0.0
    """Text-domain perceptual alignment with antonym prompts; needs a CLIP model with a text tower."""
    text_encoder: str | None = None
    """CLIP model of transformers: local folder, or hub id already cached."""
    prompts: tuple[tuple[str, str], ...] = PROMPTS
    text_temperature: float = 0.01

    def __post_init__(self) -> None:
        weights = (self.l2, self.lpips, self.image, self.text)
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"loss weights must be at least 0 and one above it, got {weights}")
        if self.text and not self.prompts:
            raise ValueError("losses.text needs prompts, got none")
        if self.text_temperature <= 0:
            raise ValueError(f"text_temperature must be positive, got {self.text_temperature}")


@section
class SelectorConfig:
    """How the level is chosen in training, and what keeps the choice alive.

    The straight-through gradient alone moves every logit along one ramp, so the most likely level would run to an
    end of the range; guidance says which levels are good. Both are ours: the paper's training is not published.
    """

    share: float = 0.5
    """Part of each batch whose level the selector chooses; the others' are uniform, so that every level is trained."""
    guide: float = 0.0
    """Weight of the cross-entropy towards softmax(-loss / temperature) over the levels."""
    guide_levels: int = 6
    """Levels, evenly spread from 0 to 1, at which the loss is looked at; over all levels it is their parabola."""
    guide_temperature: float = 0.01
    first_steps: int = 0
    """Steps on guidance alone, with the convolutions still random, before everything is trained together."""
    last_steps: int = 0
    """Steps of the same kind on the trained head at the end, after which nothing moves."""
    fit_rate: float = 1.0e-3
    """Learning rate of those steps."""
    entropy: float = 0.0
    """Weight of a bonus on the entropy of the batch's mean choice, against a collapse onto one level."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")
        if (
            self.guide_levels < 2
            or self.guide_temperature <= 0
            or min(self.guide, self.entropy, self.first_steps, self.last_steps) < 0
        ):
            raise ValueError("guide_levels must be at least 2, guide_temperature above 0, weights and steps at least 0")


@section
class OneStepRecipe:
    """One-step training of `compact`."""

    seed: int
    output: str
    data: RegionConfig
    optim: OptimConfig
    losses: OwmsConfig
    selector: SelectorConfig
    head: str | None = None
    """Flow head to begin with; None is the shipped one."""
    velocity_size: float = 0.4
    """Root-mean-square of the correction at level 1, in latent units, to which the velocity is held."""
    velocity_weight: float = 0.3
    """Weight of that hold, which gives the level its meaning: the size of the correction a photo needs."""
    log_every: int = 20
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_pace(self)
        if self.velocity_size <= 0 or self.velocity_weight < 0:
            raise ValueError("velocity_size must be positive and velocity_weight at least 0")
        guided = self.selector.guide or self.selector.first_steps or self.selector.last_steps
        if guided and not (self.losses.l2 or self.losses.lpips):
            raise ValueError("the selector's guidance looks at l2 and lpips alone; give one of them a weight")
