import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from platformdirs import user_data_path

from sr_core.errors import InputError
from sr_core.votes import (
    Answer,
    Ballot,
    Mode,
    ShownPicture,
    Viewing,
    VoteStore,
    is_fleeting,
    lasting_file,
    new_voter,
    store_files,
    voter_key,
)

FIRST = Answer("choice", 0, 1)
NUM_EACH = 200
PATIENCE_S = 600
"""Nothing waits that long on an idle machine; a busy one may."""
FIRST_VERSION = """
CREATE TABLE ballots(
    token TEXT PRIMARY KEY, run TEXT NOT NULL, mode TEXT NOT NULL, shown TEXT NOT NULL, issued_at TEXT NOT NULL
) STRICT;
CREATE TABLE votes(
    token TEXT PRIMARY KEY REFERENCES ballots(token), voter TEXT NOT NULL, voted_at TEXT NOT NULL,
    kind TEXT NOT NULL, best INTEGER, worst INTEGER, withdrawn INTEGER NOT NULL DEFAULT 0
) STRICT;
"""


def pictures(*indices: int) -> tuple[ShownPicture, ...]:
    return tuple(ShownPicture(index, f"{index:064x}") for index in indices)


def issued(store: VoteStore, *indices: int, run: str = "run") -> Ballot:
    mode: Mode = "pair" if len(indices) == 2 else "four"
    return store.issue(run, mode, pictures(*indices))


@pytest.fixture
def store(tmp_path: Path) -> VoteStore:
    return VoteStore(tmp_path / "votes.sqlite")


def test_a_vote_comes_back_as_it_was_cast(store: VoteStore) -> None:
    voter = new_voter()
    ballot = issued(store, 4, 2, 0, 7)
    vote = store.cast(ballot.token, voter, Answer("choice", 3, 1))
    assert store.votes(["run"]) == [vote]
    assert (vote.ballot, vote.best, vote.worst, vote.voter) == (ballot, 7, 2, voter_key(voter))
    assert abs(datetime.now(UTC) - vote.at) < timedelta(minutes=1)


def test_the_file_keeps_a_write_ahead_log_and_never_a_voters_id(store: VoteStore) -> None:
    voter = new_voter()
    store.cast(issued(store, 0, 1).token, voter, FIRST)
    connection = sqlite3.connect(store.path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    stored = b"".join(path.read_bytes() for path in store_files(store.path) if path.exists())
    assert voter_key(voter).encode() in stored
    assert voter.encode() not in stored


def test_a_vote_sent_twice_is_stored_once(store: VoteStore) -> None:
    voter, ballot = new_voter(), issued(store, 0, 1)
    assert store.cast(ballot.token, voter, FIRST) == store.cast(ballot.token, voter, FIRST)
    assert len(store.votes()) == 1


def test_a_ballot_sent_by_many_threads_at_once_is_stored_once(store: VoteStore) -> None:
    voter, ballot = new_voter(), issued(store, 0, 1)
    threads = [threading.Thread(target=store.cast, args=(ballot.token, voter, FIRST)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.votes()) == 1


def test_a_ballot_is_answered_by_one_voter_in_one_way(store: VoteStore) -> None:
    voter, ballot = new_voter(), issued(store, 0, 1)
    store.cast(ballot.token, voter, FIRST)
    for who, answer in ((new_voter(), FIRST), (voter, Answer("choice", 1, 0)), (voter, Answer("tie"))):
        with pytest.raises(InputError, match="answered once"):
            store.cast(ballot.token, who, answer)
    assert [vote.answer for vote in store.votes()] == [FIRST]


@pytest.mark.parametrize("token", ["", "0" * 32, "'; DROP TABLE votes; --"])
def test_a_forged_ballot_is_refused(store: VoteStore, token: str) -> None:
    issued(store, 0, 1)
    with pytest.raises(InputError, match="one that this server issued"):
        store.cast(token, new_voter(), FIRST)
    assert store.votes() == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer("choice", 0, 0),
        Answer("choice", 0, 2),
        Answer("choice", -1, 0),
        Answer("choice", 0),
        Answer("tie", 0, 1),
        Answer("bad", 1),
    ],
)
def test_an_answer_that_the_ballot_does_not_allow_is_refused(store: VoteStore, answer: Answer) -> None:
    with pytest.raises(InputError, match="must name"):
        store.cast(issued(store, 0, 1).token, new_voter(), answer)
    assert store.votes() == []


@pytest.mark.parametrize("voter", ["", "ab", "A" * 32, "g" * 32, "0" * 33])
def test_a_forged_voter_is_refused(store: VoteStore, voter: str) -> None:
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        store.cast(issued(store, 0, 1).token, voter, FIRST)


@pytest.mark.parametrize("indices", [(0,), (0, 0), (0, 1, 2)])
def test_a_ballot_shows_two_or_four_candidates(store: VoteStore, indices: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="must show 2 candidates"):
        store.issue("run", "pair", pictures(*indices))


def test_a_vote_taken_back_is_marked_and_stays_answered(store: VoteStore) -> None:
    voter, ballot = new_voter(), issued(store, 0, 1)
    store.cast(ballot.token, voter, FIRST)
    assert not store.withdraw(ballot.token, new_voter())
    assert store.withdraw(ballot.token, voter)
    assert not store.withdraw(ballot.token, voter)
    assert [vote.withdrawn for vote in store.votes()] == [True]
    with pytest.raises(InputError, match="answered once"):
        store.cast(ballot.token, voter, FIRST)


def test_a_voter_who_asks_is_forgotten_to_the_last_byte(store: VoteStore) -> None:
    voter, other = new_voter(), new_voter()
    for who in (voter, voter, voter, other):
        store.cast(issued(store, 0, 1).token, who, FIRST)
    tokens = [vote.ballot.token for vote in store.votes() if vote.voter == voter_key(voter)]
    store.withdraw(tokens[0], voter)
    assert store.forget(voter) == 2
    assert [vote.voter for vote in store.votes()] == [voter_key(other)]
    left = b"".join(path.read_bytes() for path in store_files(store.path) if path.exists())
    assert voter_key(voter).encode() not in left
    assert not any(token.encode() in left for token in tokens)


def test_votes_are_read_for_the_runs_that_are_named(store: VoteStore) -> None:
    for run in ("one", "two", "three"):
        store.cast(issued(store, 0, 1, run=run).token, new_voter(), FIRST)
    assert {vote.ballot.run for vote in store.votes(["one", "three", "none"])} == {"one", "three"}
    assert store.votes([]) == []
    assert len(store.votes()) == 3


def test_a_ballot_that_nobody_answers_is_forgotten_after_a_day(tmp_path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = VoteStore(tmp_path / "votes.sqlite", clock=lambda: now[0])
    forgotten, answered = issued(store, 0, 1), issued(store, 0, 1)
    store.cast(answered.token, new_voter(), FIRST)
    now[0] += timedelta(days=2)
    issued(store, 0, 1)
    assert len(store.votes()) == 1
    with pytest.raises(InputError, match="one that this server issued"):
        store.cast(forgotten.token, new_voter(), FIRST)


def test_a_vote_is_blind_until_its_voter_was_told_about_one_of_its_pictures(store: VoteStore) -> None:
    voter, other = new_voter(), new_voter()
    cast = [store.cast(issued(store, *pair).token, voter, FIRST) for pair in ((0, 1), (0, 2))]
    assert [vote.num_revealed for vote in cast] == [0, 0]
    assert [vote.ballot.token for vote in store.reveal(voter, ["run"])] == [vote.ballot.token for vote in cast]
    assert store.reveal(voter, ["run"]) == []
    for pair, expected in (((0, 1), 2), ((2, 3), 1), ((3, 4), 0)):
        assert store.cast(issued(store, *pair).token, voter, FIRST).num_revealed == expected
        assert store.cast(issued(store, *pair).token, other, FIRST).num_revealed == 0
    assert [vote.num_revealed for vote in store.votes() if vote.voter == voter_key(voter)] == [0, 0, 2, 1, 0]


def test_who_was_who_is_told_only_on_the_runs_that_are_named_and_not_on_votes_taken_back(store: VoteStore) -> None:
    voter = new_voter()
    back = issued(store, 0, 1)
    store.cast(back.token, voter, FIRST)
    store.withdraw(back.token, voter)
    store.cast(issued(store, 2, 3, run="other").token, voter, FIRST)
    assert store.reveal(voter, ["run"]) == []
    assert store.cast(issued(store, 0, 1).token, voter, FIRST).num_revealed == 0
    (told,) = store.reveal(voter, ["run"])
    store.withdraw(told.ballot.token, voter)
    assert store.cast(issued(store, 0, 1).token, voter, FIRST).num_revealed == 2


def test_how_a_ballot_was_looked_at_is_kept_with_its_vote(store: VoteStore) -> None:
    for viewing in (Viewing(True, 4.0), Viewing(False, 0.5), Viewing()):
        vote = store.cast(issued(store, 0, 1).token, new_voter(), FIRST, viewing)
        assert vote.viewing == store.votes()[-1].viewing == viewing
    for zoom in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="zoom must be above 0"):
            store.cast(issued(store, 0, 1).token, new_voter(), FIRST, Viewing(None, zoom))


def test_the_votes_of_one_voter_are_counted_without_those_taken_back(store: VoteStore) -> None:
    voter = new_voter()
    tokens = [store.cast(issued(store, 0, 1, run=run).token, voter, FIRST).ballot.token for run in ("a", "b", "b")]
    store.cast(issued(store, 0, 1).token, new_voter(), FIRST)
    store.withdraw(tokens[0], voter)
    assert (store.num_votes(voter), store.num_votes(new_voter())) == (2, 0)


def test_a_file_of_the_first_version_gains_what_was_known_by_each_vote(tmp_path: Path) -> None:
    path, voter = tmp_path / "votes.sqlite", new_voter()
    connection = sqlite3.connect(path)
    connection.executescript(FIRST_VERSION)
    for number, pair in enumerate(((0, 1), (1, 2), (0, 2))):
        shown = json.dumps(pictures(*pair))
        connection.execute("INSERT INTO ballots VALUES (?, 'run', 'pair', ?, '')", [str(number), shown])
        when = datetime(2026, 1, 1 + number, tzinfo=UTC).isoformat()
        values = [str(number), voter_key(voter), when]
        connection.execute("INSERT INTO votes VALUES (?, ?, ?, 'tie', NULL, NULL, 0)", values)
    connection.commit()
    connection.close()
    for _ in range(2):
        votes = VoteStore(path).votes()
        assert [(vote.num_revealed, vote.revealed) for vote in votes] == [(0, True), (1, True), (2, True)]
        assert {vote.viewing for vote in votes} == {Viewing()}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(InputError, match="file of votes"):
        VoteStore(path)


def test_every_store_has_a_name_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    first, second = VoteStore(tmp_path / "a.sqlite"), VoteStore(tmp_path / "b.sqlite")
    assert first.name == VoteStore(first.path).name != second.name


def vote_often(path: Path, count: int) -> None:
    store, voter = VoteStore(path), new_voter()
    for _ in range(count):
        store.cast(issued(store, 0, 1).token, voter, FIRST)


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path, context = tmp_path / "votes.sqlite", multiprocessing.get_context("spawn")
    writers = [context.Process(target=vote_often, args=(path, NUM_EACH)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(PATIENCE_S)
    assert [writer.exitcode for writer in writers] == [0, 0]
    votes = VoteStore(path).votes()
    voters = [vote.voter for vote in votes]
    assert {voters.count(voter) for voter in set(voters)} == {NUM_EACH}
    assert len(set(voters)) == 2
    assert len({vote.ballot.token for vote in votes}) == 2 * NUM_EACH
    assert integrity(path) == "ok"


def open_at_once(path: Path, start: "multiprocessing.synchronize.Barrier") -> None:
    start.wait(PATIENCE_S)
    VoteStore(path)


def test_processes_that_make_the_file_at_once_all_open_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for turn in range(4):
        path, start = tmp_path / f"{turn}.sqlite", context.Barrier(4)
        openers = [context.Process(target=open_at_once, args=(path, start)) for _ in range(4)]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join(PATIENCE_S)
        assert [opener.exitcode for opener in openers] == [0] * 4


def test_a_file_that_another_one_holds_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE other(x)")
    holder.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.5, lambda: holder.execute("COMMIT"))
    release.start()
    VoteStore(path)
    release.join()
    holder.close()


CAST_AND_SAY = """
import sys
from pathlib import Path
from sr_core.votes import Answer, ShownPicture, VoteStore, new_voter
store, voter = VoteStore(Path(sys.argv[1])), new_voter()
while True:
    ballot = store.issue("run", "pair", (ShownPicture(0, "a"), ShownPicture(1, "b")))
    store.cast(ballot.token, voter, Answer("choice", 0, 1))
    print(ballot.token, flush=True)
"""


def test_a_killed_writer_leaves_a_sound_file_with_every_vote_that_it_confirmed(tmp_path: Path) -> None:
    path, confirmed = tmp_path / "votes.sqlite", list[str]()
    for wait in (0.0, 0.013, 0.031):
        writer = subprocess.Popen([sys.executable, "-c", CAST_AND_SAY, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        confirmed += [writer.stdout.readline().strip() for _ in range(5)]
        time.sleep(wait)
        os.kill(writer.pid, signal.SIGKILL)
        confirmed += writer.stdout.read().split()
        writer.wait(PATIENCE_S)
        assert integrity(path) == "ok"
    stored = {vote.ballot.token for vote in VoteStore(path).votes()}
    assert {token for token in confirmed if len(token) == 32} <= stored
    vote_often(path, 3)
    assert len(VoteStore(path).votes()) == len(stored) + 3


def test_votes_lie_where_they_outlast_the_server_unless_somebody_chose_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    default = lasting_file({})
    assert default == user_data_path("sr-reward-explorer", appauthor=False) / "votes.sqlite"
    assert lasting_file({"SR_RUN_ROOT": "runs"}) is None
    assert lasting_file({"SPACE_ID": "a/b"}) is None
    for others in ({}, {"SR_RUN_ROOT": "runs"}, {"SPACE_ID": "a/b"}):
        named = {"SR_VOTES_FILE": str(tmp_path / "v.sqlite"), **others}
        assert lasting_file(named) == tmp_path / "v.sqlite"
        assert not is_fleeting(named)
    assert [is_fleeting(e) for e in ({}, {"SPACE_ID": "a/b"}, {"SPACE_ID": "a/b", "SR_RUN_ROOT": "/data"})] == [
        False, True, False,
    ]  # fmt: skip


def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="must be a file of votes"):
        VoteStore(tmp_path / "file" / "votes.sqlite")
