"""What people said about pairs of pictures, read from the page's votes or from a table of pairs."""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sr_core.errors import InputError
from sr_core.votes import Answer, Ballot, ShownPicture, Viewing, Vote, VoteStore

SQLITE = (".sqlite", ".sqlite3", ".db")
TABLES = (".csv", ".parquet")


def is_votes(path: Path) -> bool:
    """Return whether a file holds the page's votes: its SQLite file, or the Parquet that the page exports."""
    if path.suffix in SQLITE:
        return True
    return path.suffix == ".parquet" and {"shown", "answer", "num_revealed"} <= set(pq.read_schema(path).names)


def check_file(path: Path) -> None:
    """Raise InputError unless a path is a file of a kind that is read here."""
    if not path.is_file() or path.suffix not in (*SQLITE, *TABLES):
        raise InputError(f"votes or pairs must be a file {', '.join((*SQLITE, *TABLES))}, got {path}")


def read_votes(path: Path) -> list[Vote]:
    """Return the votes in a file of the page's, oldest first; raises InputError if it is none.

    An exported table has no votes that were taken back, and tells voters apart on each run alone.
    """
    check_file(path)
    if path.suffix in SQLITE:
        return VoteStore(path).votes()
    if not is_votes(path):
        raise InputError(f"{path} must have the columns of the page's exported votes")
    return [_vote(row) for row in pq.read_table(path).to_pylist()]


def _vote(row: dict[str, Any]) -> Vote:
    shown = sorted(row["shown"], key=lambda picture: picture["place"])
    pictures = tuple(ShownPicture(picture["candidate"], picture["sha256"]) for picture in shown)
    place = {picture.candidate: number for number, picture in enumerate(pictures)}
    best, worst = (None if row[name] is None else place[row[name]] for name in ("best", "worst"))
    return Vote(
        ballot=Ballot(token=row["vote"], run=row["run"], mode=row["mode"], shown=pictures),
        answer=Answer(row["answer"], best, worst),
        voter=row["voter"],
        at=datetime.combine(row["voted_on"], time(), UTC),
        num_revealed=row["num_revealed"],
        viewing=Viewing(row["saw_input"], row["zoom"]),
    )


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return a CSV or Parquet table; raises InputError unless it has `columns` and outcomes of 0, 0.5 or 1."""
    check_file(path)
    table = pd.read_csv(path) if path.suffix == ".csv" else pq.read_table(path).to_pandas()
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path.name} must have the columns {', '.join(columns)}; {', '.join(missing)} missing")
    outcome = columns[-1]
    foreign = sorted(set(table[outcome]) - {0, 0.5, 1})
    if foreign:
        raise InputError(f"{outcome} must be 1 (first), 0 (second) or 0.5 (tie), got {foreign[0]} in {path.name}")
    return table
