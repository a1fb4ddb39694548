import sqlite3
import threading
import time
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sr_core.vote_sharing import Repository, VoteSharing, share_votes, shared_repository
from sr_core.votes import Answer, ShownPicture, Vote, VoteStore, new_voter

WHERE = Repository("someone/votes", "a token")
PATIENCE_S = 300.0
"""Nothing waits that long on an idle machine; a busy one may."""


class FakeHub:
    """Keeps what is uploaded in memory."""

    def __init__(self, failures: int = 0) -> None:
        self.files: dict[str, bytes] = {}
        self.num_calls = 0
        self._failures = failures

    def upload(self, repository: Repository, path: str, content: bytes) -> None:
        assert repository == WHERE
        self.num_calls += 1
        if self.num_calls <= self._failures:
            raise ConnectionError("no route")
        self.files[path] = content

    def num_votes(self) -> int:
        return sum(pq.read_table(BytesIO(content)).num_rows for content in self.files.values())

    def wait_for(self, num_votes: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.num_votes() != num_votes:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def cast(store: VoteStore, voter: str) -> None:
    ballot = store.issue("run", "pair", (ShownPicture(0, "a"), ShownPicture(1, "b")))
    store.cast(ballot.token, voter, Answer("tie"))


@pytest.fixture
def store(tmp_path: Path) -> VoteStore:
    return VoteStore(tmp_path / "votes.sqlite")


def test_votes_go_nowhere_unless_a_space_a_repository_and_a_token_are_named() -> None:
    whole = {"SPACE_ID": "a/b", "SR_VOTES_REPO": WHERE.name, "HF_TOKEN": WHERE.token}
    assert shared_repository(whole) == WHERE
    for name in whole:
        words = shared_repository({**whole, name: ""})
        assert isinstance(words, str)
        assert name in words
        assert all(other not in words for other in whole if other != name)


def test_the_copy_is_one_file_per_server_that_follows_what_is_deleted(store: VoteStore, tmp_path: Path) -> None:
    hub, mine, yours = FakeHub(), new_voter(), new_voter()
    for voter in (mine, mine, yours):
        cast(store, voter)
    share_votes(store, WHERE, hub.upload)
    assert hub.num_votes() == 3
    store.forget(mine)
    share_votes(store, WHERE, hub.upload)
    assert hub.num_votes() == 1
    share_votes(VoteStore(tmp_path / "after_a_restart.sqlite"), WHERE, hub.upload)
    assert len(hub.files) == 2


def test_changes_are_copied_in_the_background_and_tried_again_after_a_failure(
    store: VoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    hub = FakeHub(failures=1)
    sharing = VoteSharing(store, WHERE, upload=hub.upload, every_s=0.02)
    cast(store, new_voter())
    sharing.changed()
    hub.wait_for(1)
    assert "no route" in caplog.text
    cast(store, new_voter())
    sharing.changed()
    hub.wait_for(2)
    assert hub.num_calls == 3


def test_nothing_is_copied_before_something_changed(store: VoteStore) -> None:
    hub = FakeHub()
    VoteSharing(store, WHERE, upload=hub.upload, every_s=0.01)
    time.sleep(0.1)
    assert hub.num_calls == 0


class BusyStore(VoteStore):
    """Cannot be read the first few times."""

    num_failures = 0

    def votes(self, runs: Collection[str] | None = None) -> list[Vote]:
        if self.num_failures:
            self.num_failures -= 1
            raise sqlite3.OperationalError("database is locked")
        return super().votes(runs)


def test_a_store_that_cannot_be_read_for_a_while_does_not_end_the_copies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub, store = FakeHub(), BusyStore(tmp_path / "busy.sqlite")
    store.num_failures = 2
    sharing = VoteSharing(store, WHERE, upload=hub.upload, every_s=0.02)
    cast(store, new_voter())
    sharing.changed()
    hub.wait_for(1)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert all("database is locked" in words and "tried again in 0.02 s" in words for words in warnings)
    cast(store, new_voter())
    sharing.changed()
    hub.wait_for(2)


def test_what_is_pending_is_copied_at_the_end_and_nothing_after_it(store: VoteStore) -> None:
    hub = FakeHub()
    sharing = VoteSharing(store, WHERE, upload=hub.upload, every_s=10 * PATIENCE_S)
    cast(store, new_voter())
    sharing.changed()
    hub.wait_for(1)
    cast(store, new_voter())
    sharing.changed()
    sharing.close(within_s=PATIENCE_S)
    assert (hub.num_votes(), hub.num_calls) == (2, 2)
    sharing.changed()
    sharing.close(within_s=PATIENCE_S)
    assert hub.num_calls == 2


def test_the_end_tries_once_more_what_had_failed_and_says_if_that_fails_too(
    store: VoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    for failures, num_copied in ((1, 1), (2, 0)):
        hub = FakeHub(failures=failures)
        sharing = VoteSharing(store, WHERE, upload=hub.upload, every_s=10 * PATIENCE_S)
        if not store.votes():
            cast(store, new_voter())
        sharing.changed()
        deadline = time.monotonic() + PATIENCE_S
        while hub.num_calls == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        caplog.clear()
        sharing.close(within_s=PATIENCE_S)
        assert (hub.num_votes(), hub.num_calls) == (num_copied, 2)
    assert "the server ends: ConnectionError('no route')" in caplog.text


def test_without_changes_the_end_copies_nothing(store: VoteStore) -> None:
    hub = FakeHub()
    VoteSharing(store, WHERE, upload=hub.upload).close(within_s=PATIENCE_S)
    assert hub.num_calls == 0


def test_the_end_waits_no_longer_than_it_is_told(store: VoteStore, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def hang(_repository: Repository, _path: str, _content: bytes) -> None:
        release.wait(2 * PATIENCE_S)

    sharing = VoteSharing(store, WHERE, upload=hang)
    sharing.changed()
    began = time.monotonic()
    sharing.close(within_s=0.05)
    assert time.monotonic() - began < PATIENCE_S
    assert "did not end within 0.05 s" in caplog.text
    release.set()
