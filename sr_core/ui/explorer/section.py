"""The protocol of every view behind the ranking: lay out once, show any run."""

from typing import Any, Protocol, runtime_checkable

from sr_core.ui.visits import Visit, VisitStore

COMPUTE = "compute"
"""Events that use the model or the metrics share one queue: one at a time."""
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""How events are wired that only look at what is there."""
HEAVY: dict[str, Any] = {"concurrency_id": COMPUTE, "concurrency_limit": 1, "api_visibility": "private"}
"""How events are wired that use the model or the metrics."""
FILES: dict[str, Any] = {
    "concurrency_id": "files", "concurrency_limit": 2, "show_progress": "minimal", "api_visibility": "private"
}  # fmt: skip
"""How events are wired that write a file for the visitor: that takes seconds where pictures are large."""


@runtime_checkable
class Section(Protocol):
    """One view of a run."""

    name: str
    """Names its tab and widgets: `sr-tab-NAME`, `sr-NAME-...`."""
    label: str
    """Words on its tab."""

    def build(self, store: VisitStore) -> list[Any]:
        """Lay out widgets inside the open tab, wire their own events, and return those that `show` fills."""

    def show(self, visit: Visit) -> list[Any]:
        """Return one value or update per widget for the run on screen, which may be none."""
