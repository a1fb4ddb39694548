"""Every setting of the main job as one checked value."""

from dataclasses import dataclass

from sr_core.backbones import ONE_STEP, SFT
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
    num_steps: int = 4
    sampler: str = "euler"
    scale: float = 4.0
    """Output factor, 1 to 8; `size` wins over it."""
    size: tuple[int, int] | None = None
    """Exact output (width, height) in px."""
    color: str = "off"
    metric_set: str = "offline"
    fidelity_weight: float = 0.5
    """0 is vivid (no-reference half alone), 1 faithful."""
    backbone: str = "compact"
    adapter: str = SFT
    compare_adapter: str | None = None
    """Draws every seed once more, unscored, to be looked at beside `adapter`'s."""
    dtype: str = "auto"
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
        self._draw(None)

    @property
    def passes(self) -> int:
        """Return how often the model is asked per candidate."""
        if self.adapter == ONE_STEP:
            return 1
        return self.num_steps if self.sampler == "euler" else 2 * self.num_steps - 1

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
            num_steps=self.num_steps,
            sampler=self.sampler,
            color=self.color,
            size=size,
        )
