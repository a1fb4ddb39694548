"""Blind votes of people in SQLite: who saw which pictures where, when, and what they answered.

A ballot is issued before anything is shown and answered once; its token cannot be guessed. A voter's random id stays in
their browser: only its SHA-256 is stored. Who was who is told later, by `reveal`; every vote after it says how many of
its pictures its voter knew by then. Several threads and processes may write (write-ahead log).
"""

import hashlib
import json
import math
import re
import secrets
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from platformdirs import user_data_path

from sr_core.errors import InputError

Mode = Literal["pair", "four"]
"""Two pictures, of which the better is chosen; or four, of which the best and the worst are."""
Kind = Literal["choice", "tie", "bad"]
"""A picture was preferred; all are equally good; all are bad, which prefers none."""
VOTES_FILE, RUN_ROOT = "SR_VOTES_FILE", "SR_RUN_ROOT"
"""Environment variables: the file of votes; the folder for runs."""
NUM_SHOWN: dict[Mode, int] = {"pair": 2, "four": 4}
OPEN_FOR = timedelta(days=1)
"""A ballot that nobody answered for so long is forgotten."""
BUSY_S = 30.0
"""How long a writer waits for another one."""
BUSY_PAUSE_S = 0.01
"""How long it waits where SQLite itself would not, before it asks again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ballots(
    token TEXT PRIMARY KEY, run TEXT NOT NULL, mode TEXT NOT NULL, shown TEXT NOT NULL, issued_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS votes(
    token TEXT PRIMARY KEY REFERENCES ballots(token), voter TEXT NOT NULL, voted_at TEXT NOT NULL,
    kind TEXT NOT NULL, best INTEGER, worst INTEGER, withdrawn INTEGER NOT NULL DEFAULT 0,
    revealed INTEGER NOT NULL DEFAULT 0, num_revealed INTEGER NOT NULL DEFAULT 0,
    saw_input INTEGER, zoom REAL
) STRICT;
CREATE INDEX IF NOT EXISTS ballots_of_run ON ballots(run);
CREATE INDEX IF NOT EXISTS votes_of_voter ON votes(voter);
CREATE TABLE IF NOT EXISTS store(name TEXT PRIMARY KEY) STRICT;
"""
_LATER_COLUMNS = {
    "revealed": "INTEGER NOT NULL DEFAULT 0",
    "num_revealed": "INTEGER NOT NULL DEFAULT 0",
    "saw_input": "INTEGER",
    "zoom": "REAL",
}
"""Columns that files of the first version lack."""
_COLUMNS = (
    "token, run, mode, shown, voter, voted_at, kind, best, worst, withdrawn, revealed, num_revealed, saw_input, zoom"
)


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


class Viewing(NamedTuple):
    """How the pictures of a ballot were looked at before it was answered; None where that is not known."""

    saw_input: bool | None = None
    """Whether the input was shown in their place."""
    zoom: float | int | None = None
    """The largest zoom, in pixels of the screen per pixel of a picture."""


NOT_SAID = Viewing()


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A ballot with its answer."""

    ballot: Ballot
    answer: Answer
    voter: str
    """SHA-256 of the voter's random id."""
    at: datetime
    withdrawn: bool = False
    """Taken back by the voter: it counts nowhere, but what was revealed of it stays seen."""
    revealed: bool = False
    """Its voter has been told who was who on it."""
    num_revealed: int = 0
    """How many of its pictures its voter had been told about before answering: blind is 0."""
    viewing: Viewing = NOT_SAID

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


def is_fleeting(environment: Mapping[str, str]) -> bool:
    """Return whether the votes go with the server: on a Space where nobody chose a place for them or for runs."""
    return bool(environment.get("SPACE_ID")) and not (environment.get(VOTES_FILE) or environment.get(RUN_ROOT))


def lasting_file(environment: Mapping[str, str]) -> Path | None:
    """Return where votes lie that outlast the server; None leaves them with the runs.

    That is the file that SR_VOTES_FILE names, else one in the user's data folder. Where SR_RUN_ROOT chooses a place for
    runs they stay with those, and on a Space nothing outlasts but what was chosen.
    """
    if environment.get(VOTES_FILE):
        return Path(environment[VOTES_FILE]).expanduser().resolve()
    if environment.get("SPACE_ID") or environment.get(RUN_ROOT):
        return None
    return user_data_path("sr-reward-explorer", appauthor=False) / "votes.sqlite"


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


def check_viewing(viewing: Viewing) -> None:
    """Raise InputError unless pictures can have been looked at so."""
    saw_input, zoom = viewing
    if saw_input not in (None, True, False) or isinstance(zoom, bool) or not isinstance(zoom, int | float | None):
        raise InputError(f"a viewing must be a yes or no and a zoom, got {saw_input!r} and {zoom!r}")
    if zoom is not None and not (math.isfinite(zoom) and zoom > 0):
        raise InputError(f"a zoom must be above 0, got {zoom}")


class VoteStore:
    """The votes of one server in one SQLite file; made where there is none."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open the file; raises InputError if it is none of ours or its disk has no write-ahead log."""
        self.path = path
        self._clock = clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connected() as connection:
                journal = _write_ahead(connection)
                if journal != "wal":
                    raise InputError(f"votes must lie on a disk that allows a write-ahead log, got {journal} in {path}")
                connection.executescript(_SCHEMA)
            with self._writing() as connection:
                _migrate(connection)
                connection.execute(
                    "INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT 1 FROM store)", [secrets.token_hex(8)]
                )
        except (OSError, sqlite3.DatabaseError) as error:
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
            with connection:
                yield connection

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

    def cast(self, token: str, voter: str, answer: Answer, viewing: Viewing = NOT_SAID) -> Vote:
        """Store an answer and return the vote; the same answer sent again is stored once.

        Raises InputError for a ballot that was never issued, an answer it does not allow, or one already answered
        otherwise.
        """
        who = voter_key(voter)
        check_viewing(viewing)
        with self._writing() as connection:
            row = connection.execute("SELECT token, run, mode, shown FROM ballots WHERE token = ?", [token]).fetchone()
            if row is None:
                raise InputError("a ballot must be one that this server issued; ask for the next one")
            ballot = _ballot(*row)
            check_answer(ballot, answer)
            known = _known(connection, who)
            num_revealed = sum(picture.sha256 in known for picture in ballot.shown)
            connection.execute(
                "INSERT OR IGNORE INTO votes(token, voter, voted_at, kind, best, worst, num_revealed, saw_input, zoom) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [token, who, self._clock().isoformat(), *answer, num_revealed, *viewing],
            )
            stored = connection.execute(
                f"SELECT {_COLUMNS} FROM votes JOIN ballots USING (token) WHERE token = ?", [token]
            ).fetchone()
        vote = _vote(*stored)
        if (vote.voter, vote.answer, vote.withdrawn) != (who, answer, False):
            raise InputError("a ballot must be answered once, and this one was; ask for the next one")
        return vote

    def reveal(self, voter: str, runs: Collection[str]) -> list[Vote]:
        """Note that a voter is told who was who on all their votes on some runs; return those told for the first time.

        Oldest first; votes that were taken back are not told.
        """
        who, told = voter_key(voter), []
        with self._writing() as connection:
            for vote in _read(connection, "voter = ? AND withdrawn = 0 AND revealed = 0", [who]):
                if vote.ballot.run in runs:
                    connection.execute("UPDATE votes SET revealed = 1 WHERE token = ?", [vote.ballot.token])
                    told.append(replace(vote, revealed=True))
        return told

    def withdraw(self, token: str, voter: str) -> bool:
        """Take a vote back and return whether there was one; the ballot stays answered."""
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
        with self._connected() as connection:
            if runs is None:
                return _read(connection, "TRUE", [])
            return _read(connection, f"run IN ({', '.join('?' * len(runs))})", list(runs))

    def num_votes(self, voter: str) -> int:
        """Return how many votes of somebody count, on whatever run."""
        with self._connected() as connection:
            row = connection.execute(
                "SELECT COUNT(*) FROM votes WHERE voter = ? AND withdrawn = 0", [voter_key(voter)]
            ).fetchone()
        return int(row[0])


def _write_ahead(connection: sqlite3.Connection) -> str:
    """Ask for a write-ahead log and return the kind of journal that the file has then.

    SQLite does not let this one change wait for another connection: it gives up at once, so it is asked again.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_PAUSE_S)


def _read(connection: sqlite3.Connection, where: str, values: list[str]) -> list[Vote]:
    """Return the votes that a condition holds for, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM votes JOIN ballots USING (token) WHERE {where} ORDER BY voted_at, votes.rowid", values
    )
    return [_vote(*row) for row in rows]


def _known(connection: sqlite3.Connection, who: str) -> set[str]:
    """Return the SHA-256 of every picture that a voter has been told about."""
    return {
        picture.sha256
        for vote in _read(connection, "voter = ? AND revealed = 1", [who])
        for picture in vote.ballot.shown
    }


def _migrate(connection: sqlite3.Connection) -> None:
    """Add what the first version lacks; there every answer was followed at once by who was who."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(votes)")}
    if present.issuperset(_LATER_COLUMNS):
        return
    for name, kind in _LATER_COLUMNS.items():
        connection.execute(f"ALTER TABLE votes ADD COLUMN {name} {kind}")
    known: dict[str, set[str]] = defaultdict(set)
    for vote in _read(connection, "TRUE", []):
        pictures = {picture.sha256 for picture in vote.ballot.shown}
        connection.execute(
            "UPDATE votes SET revealed = 1, num_revealed = ? WHERE token = ?",
            [len(pictures & known[vote.voter]), vote.ballot.token],
        )
        known[vote.voter] |= pictures


def _ballot(token: str, run: str, mode: Mode, shown: str) -> Ballot:
    pictures = tuple(ShownPicture(*picture) for picture in json.loads(shown))
    return Ballot(token=token, run=run, mode=mode, shown=pictures)


def _vote(
    token: str, run: str, mode: Mode, shown: str, voter: str, voted_at: str, kind: Kind, best: int | None,
    worst: int | None, withdrawn: int, revealed: int, num_revealed: int, saw_input: int | None, zoom: float | None,
) -> Vote:  # fmt: skip
    return Vote(
        ballot=_ballot(token, run, mode, shown),
        answer=Answer(kind, best, worst),
        voter=voter,
        at=datetime.fromisoformat(voted_at),
        withdrawn=bool(withdrawn),
        revealed=bool(revealed),
        num_revealed=num_revealed,
        viewing=Viewing(None if saw_input is None else bool(saw_input), zoom),
    )
