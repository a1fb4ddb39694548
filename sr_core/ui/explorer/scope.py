"""The runs that a view looks at together, and what their candidates are called."""

from typing import NamedTuple

from sr_core.explanation import RankedGroup
from sr_core.runs import CandidateRecord
from sr_core.ui.visits import Shown


class Scope(NamedTuple):
    """The runs that are looked at, each with its group."""

    shown: list[Shown]
    groups: list[RankedGroup]
    titles: list[str]
    """Each run's photo, numbered as in the list of runs."""

    @property
    def photos(self) -> list[str]:
        """Return what tells each run's photo from others."""
        return [entry.run.photo for entry in self.shown]


def record_of(scope: Scope, group: int, place: int) -> CandidateRecord:
    """Return the candidate at a place of a group."""
    index = scope.groups[group].indices[place]
    return next(record for record in scope.shown[group].run.candidates if record.index == index)


def name_of(scope: Scope, group: int, place: int) -> str:
    """Return a candidate's name, with its photo where several runs are looked at."""
    name = record_of(scope, group, place).name
    return f"{name} of {scope.titles[group]}" if len(scope.shown) > 1 else name
