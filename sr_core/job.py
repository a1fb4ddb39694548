"""Every setting of the main job as one checked value."""

from dataclasses import dataclass

from sr_core.backbones import BACKBONES, ONE_STEP, SFT, drawing_of
from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.drawing import SETTINGS, Drawing
from sr_core.errors import ConfigError
from sr_core.images import FORMATS
from sr_core.limits import check_output_size
from sr_core.resampling import output_size
from sr_core.restorer import RestoreRequest
from sr_core.rewards.registry import metric_set


@dataclass(frozen=True, kw_only=True)
class Job:
    """Every setting of the main job; page, API and command line share it and its defaults."""

    num_candidates: int = 8
    seed: int = 0
    scale: float = 4.0
    """Output factor, 1 to 8; `size` wins over it."""
    size: tuple[int, int] | None = None
    """Exact output (width, height) in px."""
    num_steps: int | None = None
    """None, here and below, asks for the backbone's own setting, which takes its place (see `Drawing`)."""
    sampler: str | None = None
    color: str | None = None
    guidance: float | int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    start: str | None = None
    strength: float | int | None = None
    tile: int | None = None
    metric_set: str = "offline"
    fidelity_weight: float = 0.5
    """0 is vivid (no-reference half alone), 1 faithful."""
    backbone: str = "compact"
    adapter: str = SFT
    compare_adapter: str | None = None
    """Draws every seed once more, unscored, to be looked at beside `adapter`'s."""
    dtype: str = "auto"
    weights: LoadOptions = LoadOptions()  # noqa: RUF009 - frozen
    """Where parts lie beside the usual places, and how they are kept in memory."""
    format: str = "png"
    bit_depth: int = 8
    dpi: float | None = None
    """Print resolution; None keeps the photo's."""
    keep_gps: bool = False

    def __post_init__(self) -> None:
        metric_set(self.metric_set)
        if not 0 <= self.fidelity_weight <= 1:
            raise ConfigError(f"the fidelity weight must lie in [0, 1], got {self.fidelity_weight}")
        if self.format not in FORMATS:
            raise ConfigError(f"the format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.bit_depth not in FORMATS[self.format].bit_depths:
            raise ConfigError(f"{self.format} cannot hold {self.bit_depth} bits a channel; choose png or tiff for 16")
        if self.compare_adapter == self.adapter:
            raise ConfigError(f"the adapter to compare with must be another one than {self.adapter}, which draws")
        if self.size is None:
            output_size(64, 64, scale=self.scale)
        if self.backbone in BACKBONES:  # an unknown one is refused where it is loaded
            for name, value in vars(self.drawing).items():
                if name in vars(self):
                    object.__setattr__(self, name, value)
        self._draw(None)

    @property
    def drawing(self) -> Drawing:
        """Return the settings that draw, with the backbone's own where the job leaves them open."""
        return drawing_of(self.backbone, vars(self))

    @property
    def passes(self) -> int:
        """Return how often a network that sees tiles is asked per candidate and tile."""
        if self.adapter == ONE_STEP:
            return 1
        steps = self.drawing.num_steps
        return 2 * steps - 1 if self.drawing.sampler == "heun" else steps

    def request(self, photo_size: tuple[int, int]) -> RestoreRequest:
        """Return what to draw for a photo of (width, height).

        Raises InputError, naming the nearest that fits, if the output is impossible.
        """
        size = output_size(*photo_size, size=self.size) if self.size else output_size(*photo_size, scale=self.scale)
        check_output_size(*size, source=photo_size)
        return self._draw(size)

    def _draw(self, size: tuple[int, int] | None) -> RestoreRequest:
        return RestoreRequest(
            num_candidates=self.num_candidates,
            seed=self.seed,
            size=size,
            **{name: getattr(self, name) for name in SETTINGS if name != "schedule"},
        )
