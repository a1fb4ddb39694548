"""Voting over several runs, and what becomes of the votes when the server ends."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from sr_core.ballots import run_key
from sr_core.ui.explorer import voting
from sr_core.ui.explorer.voting import VotingEvents
from sr_core.ui.visits import Visit, VisitStore, job_of
from sr_core.vote_sharing import REPOSITORY, SPACE, TOKEN, VoteSharing
from sr_core.votes import VoteStore
from tests.explorer_run import write_run
from tests.sr_core.test_vote_sharing import PATIENCE_S, FakeHub

REQUEST = gr.Request(session_hash="somebody")
ON_A_SPACE = {SPACE: "a/b", REPOSITORY: "someone/votes", TOKEN: "a token"}
NO_ONE: dict[str, str] = {}


class Voter:
    """One page that votes without a browser."""

    def __init__(self, store: VisitStore, environment: dict[str, str]) -> None:
        self.events, self.visit = VotingEvents(store, environment), store.visit(REQUEST.session_hash)
        self.id: str | None = None
        self.ballot: dict[str, Any] = {}
        self.results: list[Any] = []

    def act(self, action: str, **values: object) -> None:
        self.id, self.ballot, *self.results = self.events.act(
            gr.EventData(None, {"act": action, **values}), self.id, REQUEST
        )

    def vote(self) -> None:
        self.act("vote", token=self.ballot["token"], kind="choice", best=0, worst=1)


@pytest.fixture
def store(tmp_path: Path) -> VisitStore:
    return VisitStore(tmp_path / "root")


def open_runs(visit: Visit, num_runs: int) -> None:
    for seed in range(num_runs):
        run = write_run(visit.folder / str(seed), num_candidates=2, size=128, seed=seed)
        visit.put(run, job_of(run), "ranked")


def test_all_photos_in_view_are_voted_on_and_one_on_screen_alone(store: VisitStore) -> None:
    voter = Voter(store, NO_ONE)
    open_runs(voter.visit, 3)
    keys = [run_key(shown.run) for shown in voter.visit.shown]
    voter.act("deal")
    assert voter.ballot["progress"] == "0 votes by you on this photo; 1 pair left"
    voter.act("set", scope="all", mode="pair")
    assert (voter.ballot["scope"], voter.ballot["num_runs"]) == ("all", 3)
    assert voter.ballot["progress"] == "0 votes by you on these photos; 3 pairs left"
    for _ in range(3):
        assert voter.ballot["stage"] == "ballot"
        voter.vote()
    assert voter.ballot["stage"] == "revealed"
    votes = voter.events.store.votes(keys)
    assert sorted(vote.ballot.run for vote in votes) == sorted(keys)
    box, words, *_ = voter.results
    assert box["label"] == "Results of 3 votes"
    assert "3 votes by 1 person on 3 photos:" in words
    voter.act("set", scope="run", mode="pair")
    assert voter.results[0]["label"] == "Results of 1 vote"
    assert voter.ballot["progress"].startswith("1 vote by you on this photo;")


def test_votes_that_were_not_copied_yet_are_before_the_server_deletes_them(
    store: VisitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(voting, "VoteSharing", partial(VoteSharing, upload=hub.upload, every_s=10 * PATIENCE_S))
    voter = Voter(store, ON_A_SPACE)
    open_runs(voter.visit, 2)
    voter.act("set", scope="all", mode="pair")
    voter.vote()
    hub.wait_for(1)
    voter.vote()
    store.clear()
    assert hub.num_votes() == len(VoteStore(store.votes_file).votes()) == 2


def test_a_server_that_copies_no_votes_has_nothing_to_end(store: VisitStore) -> None:
    voter = Voter(store, NO_ONE)
    open_runs(voter.visit, 1)
    voter.act("deal")
    assert store.closing == []
