import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.ballots import History, Pool, balanced_order, draw, history, pairs_left, pairs_of, pool, run_key
from sr_core.rewards.group import score_term
from sr_core.votes import Answer, Ballot, Mode, ShownPicture, Vote
from tests.explorer_run import write_run

PLAIN = Pool("run", (0, 1, 2, 3, 4, 5), {})


def vote(indices: tuple[int, ...], *, run: str = "run", voter: str = "me", withdrawn: bool = False) -> Vote:
    mode: Mode = "pair" if len(indices) == 2 else "four"
    shown = tuple(ShownPicture(index, "sha") for index in indices)
    ballot = Ballot(token="token", run=run, mode=mode, shown=shown)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Vote(ballot=ballot, answer=Answer("choice", 0, 1), voter=voter, at=at, withdrawn=withdrawn)


def session(pools: list[Pool], count: int, mode: Mode = "pair", seed: str = "seed") -> list[Vote]:
    """Return the votes of one voter who answers every ballot."""
    votes: list[Vote] = []
    for _ in range(count):
        drawn = draw(pools, history(votes, "me"), mode, seed)
        assert drawn is not None
        votes.append(vote(drawn.indices, run=drawn.run))
    return votes


def seen(votes: list[Vote]) -> list[tuple[str, tuple[int, int]]]:
    return [(v.ballot.run, pair) for v in votes for pair in pairs_of(p.candidate for p in v.ballot.shown)]


@settings(max_examples=15)
@given(count=st.integers(2, 8), seed=st.text(max_size=3))
def test_each_pair_comes_once_before_any_comes_again(count: int, seed: str) -> None:
    pools = [Pool("one", tuple(range(count)), {(0, 1): 0.9}), Pool("two", (3, 5), {})]
    num_pairs = count * (count - 1) // 2 + 1
    votes = session(pools, 2 * num_pairs, seed=seed)
    assert len(set(seen(votes[:num_pairs]))) == num_pairs
    assert set(Counter(seen(votes)).values()) == {2}


def test_the_pairs_left_count_down_to_none() -> None:
    votes = session([PLAIN], 15)
    left = [pairs_left([PLAIN], history(votes[:k], "me")) for k in range(16)]
    assert left == list(range(15, -1, -1))
    assert pairs_left([PLAIN], history(votes, "another")) == 15


@settings(max_examples=15)
@given(count=st.integers(2, 9), seed=st.text(max_size=3))
def test_each_candidate_stands_left_as_often_as_right(count: int, seed: str) -> None:
    votes = session([Pool("run", tuple(range(count)), {})], count * (count - 1) // 2, seed=seed)
    left = Counter(v.ballot.shown[0].candidate for v in votes)
    right = Counter(v.ballot.shown[1].candidate for v in votes)
    assert max(abs(left[k] - right[k]) for k in range(count)) <= 2


@settings(max_examples=15)
@given(seed=st.text(max_size=3))
def test_each_candidate_of_four_stands_at_each_place_about_as_often(seed: str) -> None:
    votes = session([PLAIN], 24, "four", seed)
    places = Counter((p.candidate, place) for v in votes for place, p in enumerate(v.ballot.shown))
    counts = [places[index, place] for index in PLAIN.indices for place in range(4)]
    assert max(counts) - min(counts) <= 2


def test_a_pair_shown_again_stands_the_other_way_round() -> None:
    first, second = session([Pool("run", (0, 1), {})], 2)
    assert first.ballot.shown == second.ballot.shown[::-1]


def test_without_history_the_seed_alone_decides_the_order_and_its_sides_are_fair() -> None:
    orders = [balanced_order("run", (0, 1), History(), str(seed)) for seed in range(400)]
    assert orders == [balanced_order("run", (1, 0), History(), str(seed)) for seed in range(400)]
    assert 150 < orders.count((0, 1)) < 250
    assert len({draw([PLAIN], History(), "pair", str(seed)) for seed in range(50)}) > 10


def test_the_least_voted_pair_comes_first_whoever_voted() -> None:
    votes = [vote(pair, voter=f"voter {k}") for k, pair in enumerate(pairs_of(PLAIN.indices)) if pair != (2, 4)]
    drawn = draw([PLAIN], history(votes, "me"), "pair", "seed")
    assert drawn is not None
    assert set(drawn.indices) == {2, 4}


def test_of_equally_voted_pairs_the_most_informative_comes_first() -> None:
    interest = dict.fromkeys(pairs_of(PLAIN.indices), 0.2) | {(1, 3): 0.95}
    for seed in range(20):
        drawn = draw([Pool("run", PLAIN.indices, interest)], History(), "pair", str(seed))
        assert drawn is not None
        assert set(drawn.indices) == {1, 3}


@pytest.mark.parametrize("revealed", [False, True])
def test_a_pair_whose_vote_was_taken_back_is_left_only_while_it_is_blind(revealed: bool) -> None:
    votes = [replace(vote((0, 1), withdrawn=True), revealed=revealed)]
    while pairs_left([PLAIN], history(votes, "me")):
        drawn = draw([PLAIN], history(votes, "me"), "pair", "seed")
        assert drawn is not None
        votes.append(vote(drawn.indices))
    assert (("run", (0, 1)) in seen(votes[1:])) is not revealed


def test_four_cover_pairs_that_were_not_seen_before_those_that_were() -> None:
    votes = session([Pool("run", tuple(range(8)), {})], 3, "four")
    assert max(Counter(seen(votes[:2])).values()) == 1
    assert {p.candidate for v in votes[:2] for p in v.ballot.shown} >= set(range(7))


@pytest.mark.parametrize(("indices", "mode"), [((), "pair"), ((0,), "pair"), ((0, 1, 2), "four")])
def test_too_few_candidates_give_no_ballot(indices: tuple[int, ...], mode: Mode) -> None:
    assert draw([Pool("run", indices, {})], History(), mode, "seed") is None


def test_a_run_with_too_few_candidates_does_not_hide_another() -> None:
    drawn = draw([Pool("few", (0, 1), {}), Pool("enough", (0, 1, 2, 3), {})], History(), "four", "seed")
    assert drawn is not None
    assert drawn.run == "enough"


def test_close_rewards_and_contradicting_metrics_are_the_informative_ones(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=5)
    interest = pool(run).interest
    reward = run.group_reward(0.5)
    assert reward is not None
    spread = np.ptp(reward.reward)
    for a, b in itertools.combinations(range(5), 2):
        prefer_a = sum(
            weight
            for key, weight in reward.weights.items()
            if (run.candidates[a].scores[key] > run.candidates[b].scores[key]) != score_term(key).lower_is_better
        )
        expected = (1 - abs(reward.reward[a] - reward.reward[b]) / spread + 1 - abs(2 * prefer_a - 1)) / 2
        assert interest[a, b] == pytest.approx(expected)


def test_failed_candidates_are_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=4)
    failed = replace(run.candidates[2], file=None, problem="flat", scores={})
    assert pool(replace(run, candidates=(*run.candidates[:2], failed, run.candidates[3]))).indices == (0, 1, 3)


def test_votes_are_kept_under_a_name_that_does_not_open_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2)
    old = replace(run, values={key: value for key, value in run.values.items() if key != "id"})
    other = replace(old, values={**old.values, "steps": 99})
    assert run.values["id"] not in run_key(run)
    assert len({run_key(run), run_key(old), run_key(other)}) == 3
    assert run_key(run) == run_key(run.reranked(0.9))
    assert run_key(old) == run_key(old.reranked(0.9))
