"""What a run will cost, per photo and in words, before it is started."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sr_core.errors import SRError
from sr_core.estimate import Estimate, estimate
from sr_core.images import read_size
from sr_core.job import Job

CM_PER_INCH = 2.54


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One photo with its size and cost, or why it cannot be restored."""

    name: str
    size: tuple[int, int] | None
    """(width, height) in px; None where the file cannot be read."""
    cost: Estimate | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All photos of one press on the button."""

    photos: tuple[Planned, ...]
    problem: str | None = None
    """What is wrong with the settings themselves."""

    @property
    def ready(self) -> bool:
        """Whether at least one photo can be restored."""
        return self.problem is None and any(photo.problem is None for photo in self.photos)


def plan_run(photos: Sequence[Path], job: Job) -> Plan:
    """Return what `job` costs for each photo; only headers are read."""
    planned = []
    for path in photos:
        try:
            size = read_size(path)
        except SRError as error:
            planned.append(Planned(name=path.name, size=None, cost=None, problem=str(error)))
            continue
        cost = estimate(*size, job)
        planned.append(Planned(name=path.name, size=size, cost=cost, problem=cost.problem))
    return Plan(photos=tuple(planned))


def duration(seconds: float | int) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def print_size(width: int, height: int, dpi: float | int) -> str:
    """Return the size on paper."""
    return f"{width / dpi * CM_PER_INCH:.1f} x {height / dpi * CM_PER_INCH:.1f} cm"


def describe_plan(plan: Plan, job: Job | None, *, pace: float = 1.0) -> str:
    """Return the plan as HTML: size, time and memory, and in words what does not work.

    `pace` is how many times longer this machine takes than the estimate's.
    """
    if plan.problem is not None:
        return _alert("Settings", plan.problem)
    if not plan.photos:
        return '<p class="sr-plan sr-muted">Size, time and memory appear here once there is a photo.</p>'
    good = [photo.cost for photo in plan.photos if photo.problem is None and photo.cost is not None]
    lines = [_alert(photo.name, photo.problem) for photo in plan.photos if photo.problem is not None]
    if good:
        assert job is not None
        first = good[0]
        facts = [f"<strong>{first.width} &times; {first.height} px</strong>"]
        if len(good) > 1:
            facts = [f"<strong>{len(good)} photos</strong>"]
        elif job.dpi:
            facts.append(print_size(first.width, first.height, job.dpi))
        facts.append(f"about {duration(pace * sum(cost.seconds for cost in good))}")
        facts.append(f"{max(cost.memory_bytes for cost in good) / 2**30:.1f} GB memory")
        lines.append(f'<p class="sr-plan">{" &middot; ".join(facts)}</p>')
    return "".join(lines)


def _alert(title: str, words: str) -> str:
    return f'<p class="sr-alert" role="alert"><strong>{escape(title)}</strong> {escape(words)}</p>'
