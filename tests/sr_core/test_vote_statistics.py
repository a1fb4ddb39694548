import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_core.runs import Run
from sr_core.vote_statistics import (
    HYBRID,
    JudgedPair,
    Standing,
    Strength,
    Verdict,
    agreement,
    ballot_ranks,
    bradley_terry,
    chance_top_k,
    complementarity,
    decided_pairs,
    judged_pairs,
    standings,
    sure,
    top_k,
    verdicts,
    wilson,
)
from sr_core.votes import Answer, Ballot, Mode, ShownPicture, Vote
from tests.explorer_run import write_run

START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST, SECOND, TIE, BAD = Answer("choice", 0, 1), Answer("choice", 1, 0), Answer("tie"), Answer("bad")
FOUR = Answer("choice", 0, 3)


def vote(
    indices: tuple[int, ...],
    answer: Answer,
    *,
    voter: str = "me",
    minute: int = 0,
    run: str = "run",
    withdrawn: bool = False,
) -> Vote:
    mode: Mode = "pair" if len(indices) == 2 else "four"
    shown = tuple(ShownPicture(index, "sha") for index in indices)
    ballot = Ballot(token="token", run=run, mode=mode, shown=shown)
    at = START + timedelta(minutes=minute)
    return Vote(ballot=ballot, answer=answer, voter=voter, at=at, withdrawn=withdrawn)


def judged(outcome: float | int, **leads: float | int) -> Verdict:
    pair = JudgedPair("run", 0, 1, float(outcome))
    return Verdict(pair, leads, frozenset(key for key, lead in leads.items() if abs(lead) <= 0.1))


@settings(max_examples=60)
@given(st.data())
def test_the_interval_is_the_one_of_wilsons_formula(data: st.DataObject) -> None:
    num = data.draw(st.integers(1, 500))
    count = data.draw(st.integers(0, num))
    z, p = 1.959963984540054, count / num
    centre = (p + z**2 / (2 * num)) / (1 + z**2 / num)
    reach = z / (1 + z**2 / num) * np.sqrt(p * (1 - p) / num + z**2 / (4 * num**2))
    found = wilson(count, num)
    assert (found.hits, found.num, found.share) == (count, num, p)
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=1e-9)


def test_nothing_counted_has_no_share() -> None:
    assert wilson(0, 0) == (0, 0, None, None, None)


def test_a_choice_of_two_decides_one_pair_and_bad_decides_none() -> None:
    assert decided_pairs(vote((3, 1), FIRST)) == [JudgedPair("run", 1, 3, 0.0)]
    assert decided_pairs(vote((3, 1), SECOND)) == [JudgedPair("run", 1, 3, 1.0)]
    assert decided_pairs(vote((3, 1), TIE)) == [JudgedPair("run", 1, 3, 0.5)]
    assert decided_pairs(vote((3, 1), BAD)) == []


def test_best_and_worst_of_four_decide_five_pairs() -> None:
    pairs = {pair[1:] for pair in decided_pairs(vote((5, 2, 7, 0), Answer("choice", 1, 2)))}
    assert pairs == {(2, 5, 1.0), (2, 7, 1.0), (0, 2, 0.0), (5, 7, 1.0), (0, 7, 1.0)}


def test_the_positions_on_screen_change_nothing() -> None:
    for order in itertools.permutations((0, 1, 2, 3)):
        shown = vote(order, Answer("choice", order.index(2), order.index(0)))
        assert set(decided_pairs(shown)) == set(decided_pairs(vote((0, 1, 2, 3), Answer("choice", 2, 0))))
        assert ballot_ranks(shown) == {2: 1, 1: 2, 3: 2, 0: 4}


def test_of_one_voters_words_on_a_pair_the_first_counts() -> None:
    votes = [
        vote((0, 1), SECOND, minute=3),
        vote((0, 1), FIRST, minute=2),
        vote((0, 1), TIE, voter="you", minute=4),
        vote((0, 1), TIE, run="another", minute=5),
    ]
    assert [(pair.run, pair.outcome) for pair in judged_pairs(votes)] == [("run", 1), ("run", 0.5), ("another", 0.5)]


@pytest.mark.parametrize(
    "first", [replace(vote((2, 1, 0, 3), FOUR, withdrawn=True), revealed=True), vote((0, 1), BAD), vote((1, 0), FIRST)]
)
def test_an_answer_after_the_first_one_that_was_told_about_counts_for_nothing(first: Vote) -> None:
    informed = vote((0, 1), SECOND, minute=1)
    assert judged_pairs([first, informed]) == judged_pairs([first])
    assert (0, 1, 0.0) in {pair[1:] for pair in judged_pairs([replace(first, voter="you"), informed])}


def test_a_vote_taken_back_blind_is_as_if_it_had_never_been_cast() -> None:
    votes = [vote((0, 1), FIRST, withdrawn=True), vote((0, 1), SECOND, minute=1)]
    assert judged_pairs(votes) == judged_pairs(votes[1:]) != []


def test_a_vote_taken_back_leaves_an_earlier_one_on_the_pair_as_it_was() -> None:
    votes = [vote((0, 1), FIRST), vote((0, 1), SECOND, minute=1, withdrawn=True), vote((0, 1), SECOND, minute=2)]
    assert [pair.outcome for pair in judged_pairs(votes)] == [1.0]


def test_a_vote_on_a_picture_that_its_voter_knew_decides_nothing() -> None:
    told = replace(vote((0, 1), FIRST), num_revealed=1)
    assert judged_pairs([told]) == []
    later = vote((0, 1), SECOND, voter="you", minute=1)
    assert judged_pairs([told, later]) == decided_pairs(later)


def test_a_scores_lead_points_to_the_better_side_whichever_way_its_values_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=4)
    for verdict in verdicts(run, [JudgedPair("run", a, b, 1.0) for a, b in itertools.combinations(range(4), 2)]):
        a, b = (run.candidates[index] for index in verdict.pair[1:3])
        assert a.reward is not None
        assert b.reward is not None
        assert verdict.leads[HYBRID] == pytest.approx(a.reward - b.reward)
        assert (verdict.leads["niqe"] > 0) == (a.scores["niqe"] < b.scores["niqe"])
        assert (verdict.leads["consistency_vsi"] > 0) == (a.scores["consistency_vsi"] > b.scores["consistency_vsi"])
        assert (HYBRID in verdict.indistinct) == (abs(a.reward - b.reward) <= run.values["tie_band"])


def metric_votes(run: Run, key: str) -> list[JudgedPair]:
    """Return the votes of somebody who always agrees with one metric, lower being better."""
    values = {record.index: record.scores[key] for record in run.candidates}
    return [JudgedPair("run", a, b, float(values[a] < values[b])) for a, b in itertools.combinations(values, 2)]


def test_a_metric_is_always_right_with_a_voter_who_follows_it_and_always_wrong_with_the_opposite(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", num_candidates=5)
    votes = metric_votes(run, "niqe")
    by_key = {a.key: a.accuracy for a in agreement(verdicts(run, votes))}
    assert by_key["niqe"][:3] == (10, 10, 1.0)
    opposite = [pair._replace(outcome=1 - pair.outcome) for pair in votes]
    for found in agreement(verdicts(run, opposite)):
        assert found.accuracy.hits == 10 - by_key[found.key].hits


def test_the_reward_is_judged_at_the_weight_that_the_run_is_ranked_with(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=5)
    (vivid, faithful) = (
        next(
            a.accuracy.hits for a in agreement(verdicts(run.reranked(w), metric_votes(run, "niqe"))) if a.key == HYBRID
        )
        for w in (0.0, 1.0)
    )
    assert vivid != faithful


def test_pairs_of_candidates_that_are_not_scored_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=3)
    first = replace(run.candidates[0], scores={}, reward=None, rank=None)
    bare = replace(run, candidates=(first, *run.candidates[1:]))
    found = verdicts(bare, [JudgedPair("run", 0, 1, 1.0), JudgedPair("run", 1, 2, 1.0), JudgedPair("run", 1, 9, 1.0)])
    assert [verdict.pair[1:3] for verdict in found] == [(1, 2)]


def test_ties_stay_out_of_the_accuracy_and_are_counted_beside_it() -> None:
    (found,) = agreement([judged(1, m=1), judged(0.5, m=0.05), judged(0.5, m=3), judged(0, m=0.02)])
    assert found.accuracy[:2] == (1, 2)
    assert found.num_indistinct == 1
    assert found.ties[:2] == (1, 2)


def test_a_metric_that_sees_no_difference_is_not_right() -> None:
    (found,) = agreement([judged(1, m=0), judged(0, m=0)])
    assert found.accuracy[:2] == (0, 2)


def test_complementarity_asks_the_others_where_the_best_one_errs() -> None:
    votes = [judged(1, hybrid=1, a=1, b=-1, c=-1)] * 6 + [
        judged(1, hybrid=1, a=-1, b=1, c=-1),
        judged(0, hybrid=-1, a=1, b=-1, c=1),
        judged(0.5, hybrid=1, a=-1, b=-1, c=1),
        judged(0, hybrid=1, a=1, b=1, c=-1),
    ]
    found = complementarity(votes)
    assert found is not None
    assert (found.best.key, found.best.accuracy[:2], found.num_errors) == ("a", (6, 9), 3)
    assert {other.key: other.accuracy[:2] for other in found.others} == {HYBRID: (2, 3), "b": (2, 3), "c": (1, 3)}
    assert [other.key for other in found.others][-1] == "c"


def test_a_metric_that_was_judged_on_one_pair_is_not_the_best_before_one_judged_on_many() -> None:
    votes = [judged(1, niqe=1)] * 17 + [judged(1, niqe=-1)] * 3 + [judged(1, niqe=1, lpips=1)]
    found = complementarity(votes)
    assert found is not None
    assert (found.best.key, found.best.accuracy[:2], found.num_errors) == ("niqe", (18, 21), 3)
    assert [sure(a) for a in agreement(votes)] == [wilson(18, 21).low, wilson(1, 1).low]


def test_complementarity_needs_a_decided_pair() -> None:
    assert complementarity([judged(0.5, a=1)]) is None
    assert complementarity([]) is None


def simulated(strengths: Sequence[float], rounds: int, seed: int = 0) -> list[tuple[int, int, float]]:
    random = np.random.default_rng(seed)
    wins = {
        (a, b): 1 / (1 + np.exp(strengths[b] - strengths[a]))
        for a, b in itertools.combinations(range(len(strengths)), 2)
    }
    return [(a, b, float(random.random() < p)) for _ in range(rounds) for (a, b), p in wins.items()]


def values(strengths: Sequence[Strength]) -> list[float]:
    return [strength.value for strength in strengths]


def test_strengths_are_found_again_from_simulated_votes() -> None:
    true = [-1.5, -0.5, 0.0, 0.6, 1.4]
    found = bradley_terry(5, simulated(true, 80))
    assert np.argsort(values(found)).tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(values(found), true, atol=0.35)
    assert [strength.num for strength in found] == [320] * 5
    assert sum(values(found)) == pytest.approx(0, abs=1e-9)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    true = np.array([-0.8, -0.2, 0.1, 0.9])
    inside = [
        found.low <= truth <= found.high
        for seed in range(60)
        for found, truth in zip(bradley_terry(4, simulated(list(true), 12, seed)), true, strict=True)
    ]
    assert 0.9 < np.mean(inside) < 0.99


def test_renaming_the_items_renames_their_strengths_and_nothing_else() -> None:
    votes = simulated([0.0, 1.0, -1.0, 0.4], 6)
    votes += [(0, 1, 0.5), (2, 3, 0.5)]
    found, new = bradley_terry(4, votes), [2, 0, 3, 1]
    renamed = bradley_terry(4, [(new[a], new[b], outcome) for a, b, outcome in votes])
    for item, strength in enumerate(found):
        assert renamed[new[item]] == pytest.approx(strength, abs=1e-6)


def test_the_side_that_a_comparison_names_first_changes_nothing() -> None:
    votes = [*simulated([0.0, 1.0, -1.0], 4), (0, 2, 0.5)]
    turned = [(b, a, 1 - outcome) for a, b, outcome in votes]
    for there, back in zip(bradley_terry(3, votes), bradley_terry(3, turned), strict=True):
        assert there == pytest.approx(back, abs=1e-6)


def test_ties_pull_strengths_together_and_ties_alone_leave_them_equal() -> None:
    decided = [(0, 1, 1.0)] * 4
    apart = values(bradley_terry(2, decided))
    closer = values(bradley_terry(2, decided + [(0, 1, 0.5)] * 4))
    assert apart[0] > closer[0] > 0
    assert values(bradley_terry(2, [(0, 1, 0.5)] * 3)) == pytest.approx([0, 0], abs=1e-9)


def test_a_tie_counts_as_half_a_win_for_each() -> None:
    assert values(bradley_terry(2, [(0, 1, 0.5)] * 2 + [(0, 1, 1.0)] * 3)) == pytest.approx(
        values(bradley_terry(2, [(0, 1, 1.0)] * 4 + [(0, 1, 0.0)])), abs=1e-6
    )


def test_an_item_that_always_wins_stays_finite_and_more_votes_narrow_the_interval() -> None:
    few, many = (bradley_terry(2, [(0, 1, 1.0)] * count) for count in (2, 40))
    assert 0 < few[0].value < many[0].value < 10
    assert many[0].high - many[0].value < few[0].high - few[0].value
    assert few[1].value == pytest.approx(-few[0].value, abs=1e-6)


def test_top_k_is_the_share_of_ballots_with_a_rank_among_the_first_k() -> None:
    found = [Standing(rank, (1, 2, 2, 4)) for rank in (1, 2, 2, 4, 1)]
    assert [top_k(found, k).hits for k in (1, 2, 3, 4)] == [2, 4, 4, 5]
    assert top_k(found, 1) == wilson(2, 5)
    assert [chance_top_k(found, k) for k in (1, 2, 3, 4)] == [0.25, 0.75, 0.75, 1]
    assert (top_k([], 1).share, chance_top_k([], 1)) == (None, None)


def test_methods_that_met_only_themselves_stand_nowhere() -> None:
    one, other = dict.fromkeys(range(4), "SFT"), dict.fromkeys(range(4), "HPO")
    alone = [(vote((0, 1), FIRST), one)] * 20 + [(vote((0, 1), FIRST), other)] * 20
    mixed = (vote((0, 1, 2, 3), FOUR), {0: "SFT", 1: "HPO", 2: "SFT", 3: "own"})
    assert standings(alone) == {}
    ranks = ballot_ranks(mixed[0])
    among = tuple(sorted(ranks.values()))
    only = {"HPO": [Standing(ranks[1], among)], "own": [Standing(ranks[3], among)]}
    assert standings([*alone, mixed]) == only
    met = (vote((0, 1), SECOND), {0: "SFT", 1: "HPO"})
    assert standings([*alone, met]) == {"SFT": [Standing(2, (1, 2))], "HPO": [Standing(1, (1, 2))]}


@settings(max_examples=30)
@given(st.lists(st.sampled_from([FIRST, SECOND, TIE, BAD, FOUR]), min_size=1, max_size=12))
def test_chance_is_the_mean_of_top_k_over_what_is_shown(answers: list[Answer]) -> None:
    shown = [(0, 1, 2, 3) if answer is FOUR else (0, 1) for answer in answers]
    found = standings((vote(s, a), {i: str(i) for i in s}) for s, a in zip(shown, answers, strict=True))
    everyone = [standing for standings_of in found.values() for standing in standings_of]
    for k in (1, 2, 3):
        assert chance_top_k(everyone, k) is None or chance_top_k(everyone, k) >= min(k, 2) / 4
        hits = sum(top_k(standings_of, k).hits for standings_of in found.values())
        assert hits == pytest.approx(sum(sum(r <= k for r in s.among) / len(s.among) for s in everyone))


def test_equals_share_a_rank_and_where_all_are_bad_there_is_none() -> None:
    assert ballot_ranks(vote((0, 1, 2, 3), TIE)) == dict.fromkeys(range(4), 1)
    assert ballot_ranks(vote((4, 1), SECOND)) == {1: 1, 4: 2}
    assert ballot_ranks(vote((0, 1), BAD)) == {}
