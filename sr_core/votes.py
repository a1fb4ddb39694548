"""Blind votes of people in SQLite: who saw which pictures where, when, and what they answered.

A ballot is issued before anything is shown and answered once; its token cannot be guessed. A voter's random id stays in
their browser: only its SHA-256 is stored. Several threads and processes may write (write-ahead log).
"""

import hashlib
import json
import re
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sr_core.errors import InputError

Mode = Literal["pair", "four"]
"""Two pictures, of which the better is chosen; or four, of which the best and the worst are."""
Kind = Literal["choice", "tie", "bad"]
"""A picture was preferred; all are equally good; all are bad, which prefers none."""
NUM_SHOWN: dict[Mode, int] = {"pair": 2, "four": 4}
OPEN_FOR = timedelta(days=1)
"""A ballot that nobody answered for so long is forgotten."""
BUSY_S = 30.0
"""How long a writer waits for another one."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ballots(
    token TEXT PRIMARY KEY, run TEXT NOT NULL, mode TEXT NOT NULL, shown TEXT NOT NULL, issued_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS votes(
    token TEXT PRIMARY KEY REFERENCES ballots(token), voter TEXT NOT NULL, voted_at TEXT NOT NULL,
    kind TEXT NOT NULL, best INTEGER, worst INTEGER, withdrawn INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS ballots_of_run ON ballots(run);
CREATE INDEX IF NOT EXISTS votes_of_voter ON votes(voter);
CREATE TABLE IF NOT EXISTS store(name TEXT PRIMARY KEY) STRICT;
"""
_COLUMNS = "token, run, mode, shown, voter, voted_at, kind, best, worst, withdrawn"


class ShownPicture(NamedTuple):
    """One picture of a ballot."""

    candidate: int
    """Its index in its run."""
    sha256: str
    """Of the candidate's file."""


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """What one voter was shown."""

    token: str
    run: str
    """Key of the run, as `run_key` gives it."""
    mode: Mode
    shown: tuple[ShownPicture, ...]
    """In the order on screen: from left to right, from top to bottom."""


class Answer(NamedTuple):
    """What a voter said about a ballot; `best` and `worst` are places on screen from 0, None without a choice."""

    kind: Kind
    best: int | None = None
    worst: int | None = None


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A ballot with its answer."""

    ballot: Ballot
    answer: Answer
    voter: str
    """SHA-256 of the voter's random id."""
    at: datetime
    withdrawn: bool = False
    """Taken back by the voter: it counts nowhere, but what it revealed was seen."""

    @property
    def best(self) -> int | None:
        """Index of the candidate that was chosen; None without a choice."""
        return None if self.answer.best is None else self.ballot.shown[self.answer.best].candidate

    @property
    def worst(self) -> int | None:
        """Index of the candidate that was turned down; None without a choice."""
        return None if self.answer.worst is None else self.ballot.shown[self.answer.worst].candidate


def new_voter() -> str:
    """Return a random id for somebody's browser."""
    return secrets.token_hex(16)


def voter_key(voter: str) -> str:
    """Return what is stored of a voter's random id; raises InputError if it is not one of `new_voter`."""
    if not re.fullmatch(r"[0-9a-f]{32}", voter):
        raise InputError(f"a voter's id must be 32 hexadecimal digits, got {voter[:40]!r}")
    return hashlib.sha256(voter.encode()).hexdigest()


def store_files(path: Path) -> list[Path]:
    """Return every file that a store at `path` may consist of; none of them may ever be served."""
    return [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm", "-journal")]


def check_answer(ballot: Ballot, answer: Answer) -> None:
    """Raise InputError unless a ballot can be answered so."""
    places = range(len(ballot.shown))
    if answer.kind not in get_args(Kind):
        raise InputError(f"an answer must be {', '.join(get_args(Kind))}, got {answer.kind!r}")
    if answer.kind != "choice":
        if (answer.best, answer.worst) != (None, None):
            raise InputError(f"{answer.kind} must name no picture, got {answer.best} and {answer.worst}")
    elif not all(type(place) is int and place in places for place in answer[1:]) or answer.best == answer.worst:
        raise InputError(
            f"a choice must name two of the {len(places)} pictures, got {answer.best!r} and {answer.worst!r}"
        )


class VoteStore:
    """The votes of one server in one SQLite file; made where there is none."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open the file; raises InputError if it is none of ours or its disk has no write-ahead log."""
        self.path = path
        self._clock = clock
        try:
            with self._connected() as connection:
                (journal,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
                if journal != "wal":
                    raise InputError(f"votes must lie on a disk that allows a write-ahead log, got {journal} in {path}")
                connection.executescript(_SCHEMA)
                connection.execute(
                    "INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT 1 FROM store)", [secrets.token_hex(8)]
                )
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} must be a file of votes, got: {error}") from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one call: a connection of SQLite belongs to one thread."""
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Do everything inside the block or nothing, one writer at a time."""
        with self._connected() as connection:
            # Taking the lock first is what makes another writer wait instead of failing half-way.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @property
    def name(self) -> str:
        """A random name of this file, which tells its copies apart from those of other servers."""
        with self._connected() as connection:
            return str(connection.execute("SELECT name FROM store").fetchone()[0])

    def issue(self, run: str, mode: Mode, shown: tuple[ShownPicture, ...]) -> Ballot:
        """Return a new ballot over pictures in their order on screen; raises InputError if their number is wrong."""
        if len({picture.candidate for picture in shown}) != NUM_SHOWN[mode] or len(shown) != NUM_SHOWN[mode]:
            raise InputError(f"a ballot must show {NUM_SHOWN[mode]} candidates, got {[p.candidate for p in shown]}")
        ballot = Ballot(token=secrets.token_hex(16), run=run, mode=mode, shown=shown)
        now = self._clock()
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM ballots WHERE issued_at < ? AND token NOT IN (SELECT token FROM votes)",
                [(now - OPEN_FOR).isoformat()],
            )
            connection.execute(
                "INSERT INTO ballots VALUES (?, ?, ?, ?, ?)",
                [ballot.token, run, mode, json.dumps(shown), now.isoformat()],
            )
        return ballot

    def cast(self, token: str, voter: str, answer: Answer) -> Vote:
        """Store an answer and return the vote; the same answer sent again is stored once.

        Raises InputError for a ballot that was never issued, an answer it does not allow, or one already answered
        otherwise.
        """
        who = voter_key(voter)
        with self._writing() as connection:
            row = connection.execute("SELECT token, run, mode, shown FROM ballots WHERE token = ?", [token]).fetchone()
            if row is None:
                raise InputError("a ballot must be one that this server issued; ask for the next one")
            check_answer(_ballot(*row), answer)
            connection.execute(
                "INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?, ?, ?, 0)",
                [token, who, self._clock().isoformat(), *answer],
            )
            stored = connection.execute(
                f"SELECT {_COLUMNS} FROM votes JOIN ballots USING (token) WHERE token = ?", [token]
            ).fetchone()
        vote = _vote(*stored)
        if (vote.voter, vote.answer, vote.withdrawn) != (who, answer, False):
            raise InputError("a ballot must be answered once, and this one was; ask for the next one")
        return vote

    def withdraw(self, token: str, voter: str) -> bool:
        """Take a vote back and return whether there was one; the ballot stays answered, for it was revealed."""
        with self._writing() as connection:
            changed = connection.execute(
                "UPDATE votes SET withdrawn = 1 WHERE token = ? AND voter = ? AND withdrawn = 0",
                [token, voter_key(voter)],
            )
            return changed.rowcount == 1

    def forget(self, voter: str) -> int:
        """Delete everything that a voter has left, its bytes too, and return how many votes that were."""
        who = voter_key(voter)
        with self._connected() as connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("BEGIN IMMEDIATE")
            tokens = connection.execute("SELECT token, withdrawn FROM votes WHERE voter = ?", [who]).fetchall()
            connection.execute("DELETE FROM votes WHERE voter = ?", [who])
            connection.executemany("DELETE FROM ballots WHERE token = ?", [(token,) for token, _ in tokens])
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(not withdrawn for _, withdrawn in tokens)

    def votes(self, runs: Collection[str] | None = None) -> list[Vote]:
        """Return the votes on some runs, or on all, oldest first; those taken back are among them, marked."""
        chosen = None if runs is None else list(runs)
        where = "" if chosen is None else f"WHERE run IN ({', '.join('?' * len(chosen))})"
        with self._connected() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM votes JOIN ballots USING (token) {where} ORDER BY voted_at, votes.rowid",
                chosen or [],
            ).fetchall()
        return [_vote(*row) for row in rows]


def _ballot(token: str, run: str, mode: Mode, shown: str) -> Ballot:
    pictures = tuple(ShownPicture(*picture) for picture in json.loads(shown))
    return Ballot(token=token, run=run, mode=mode, shown=pictures)


def _vote(
    token: str, run: str, mode: Mode, shown: str, voter: str, voted_at: str, kind: Kind, best: int | None,
    worst: int | None, withdrawn: int,
) -> Vote:  # fmt: skip
    return Vote(
        ballot=_ballot(token, run, mode, shown),
        answer=Answer(kind, best, worst),
        voter=voter,
        at=datetime.fromisoformat(voted_at),
        withdrawn=bool(withdrawn),
    )
