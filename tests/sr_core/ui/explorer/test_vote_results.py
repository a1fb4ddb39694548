"""What the results of votes say, against counts that are worked out by hand and against the library."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sr_core.ballots import run_key, show_pictures, still_there
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.ballot_view import score_label
from sr_core.ui.explorer.chart import cell_text
from sr_core.ui.explorer.vote_results import results
from sr_core.vote_statistics import (
    Proportion,
    agreement,
    bradley_terry,
    chance_top_k,
    complementarity,
    first_votes,
    judged_pairs,
    standings,
    sure,
    top_k,
    verdicts,
    wilson,
)
from sr_core.votes import Answer, Mode, Vote, VoteStore, new_voter

FIRST, SECOND, TIE, BAD = Answer("choice", 0, 1), Answer("choice", 1, 0), Answer("tie"), Answer("bad")
COMPACT = {"seed 0": (4.0, 28.0), "seed 1": (5.0, 20.0), "seed 2": (6.0, 40.0), "SFT": (7.0, 10.0)}
C_SD2 = {"seed 0": (5.0, 20.0), "seed 1": (5.0, 40.0), "SFT": (3.0, 40.0)}
"""NIQE and BRISQUE, the lower the better, of each candidate; a file named SFT has joined both runs.

The rewards are 0.70, 0.67, 0.17 and 0.50, with a band of 0.008, and 0.5, 0 and 0.5.
"""


def write_run(folder: Path, scores: Mapping[str, tuple[float, float]], *, backbone: str, photo: str = "dome") -> Run:
    folder.mkdir()
    records = []
    for index, (name, (niqe, brisque)) in enumerate(scores.items()):
        (folder / f"{index}.png").write_text(f"picture {index} of {folder.name}")
        origin: dict[str, Any] = {"source": name, "seed": None} if name == "SFT" else {"seed": index}
        records.append(
            CandidateRecord(index=index, file=f"{index}.png", scores={"niqe": niqe, "brisque": brisque}, **origin)
        )
    values = {"id": folder.name, "input": {"sha256": photo}, "backbone": backbone, "adapter": "sft"}
    return Run(folder=folder, values=values, candidates=tuple(records)).reranked(0.5)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Return two runs of one photo."""
    return [
        write_run(tmp_path / "one", COMPACT, backbone="compact"),
        write_run(tmp_path / "two", C_SD2, backbone="c-sd2"),
    ]


class Booth:
    """Where several people vote."""

    def __init__(self, path: Path) -> None:
        self.store = VoteStore(path)
        self._ids: dict[str, str] = {}

    def cast(self, who: str, run: Run, indices: Sequence[int], answer: Answer) -> str:
        mode: Mode = "pair" if len(indices) == 2 else "four"
        ballot = self.store.issue(run_key(run), mode, show_pictures(run, indices))
        self.store.cast(ballot.token, self.id_of(who), answer)
        return ballot.token

    def id_of(self, who: str) -> str:
        return self._ids.setdefault(who, new_voter())


@pytest.fixture
def votes(runs: list[Run], tmp_path: Path) -> list[Vote]:
    """Return ten votes of four people: six choices, two ties, one where all are bad and one that is taken back."""
    (one, two), booth = runs, Booth(tmp_path / "votes.sqlite")
    booth.cast("ann", one, (0, 1), FIRST)
    booth.cast("ann", one, (3, 1), FIRST)
    booth.cast("bob", one, (1, 0), TIE)
    booth.cast("bob", one, (0, 3), BAD)
    booth.cast("cy", one, (2, 0, 1, 3), Answer("choice", 1, 0))
    booth.cast("ann", one, (0, 1), SECOND)
    booth.store.withdraw(booth.cast("cy", one, (0, 3), SECOND), booth.id_of("cy"))
    booth.cast("ann", two, (0, 1), SECOND)
    booth.cast("dan", two, (0, 2), SECOND)
    booth.cast("dan", two, (1, 2), TIE)
    return booth.store.votes()


class Page:
    """What the widgets of the results hold."""

    def __init__(self, runs: Sequence[Run], votes: Sequence[Vote], scope: str) -> None:
        box, self.words, self.accuracy, self.others, self.strengths, self.top = results(runs, votes, scope)
        self.title, self.visible = box.get("label"), box["visible"]


def cells(table: str) -> dict[str, list[str]]:
    """Return the rows of a table by their heads, with the names of the columns under an empty one."""
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    named = [[html.unescape(cell) for cell in row] for row in rows]
    return {"" if place == 0 else row[0]: row[1:] for place, row in enumerate(named)}


def plain(words: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", words))


def shares(found: Proportion) -> list[str]:
    return [cell_text(value) for value in (found.share, found.low, found.high)]


def in_view(runs: list[Run], scope: str) -> list[Run]:
    return runs if scope == "all" else runs[:1]


@pytest.mark.parametrize(
    ("scope", "title", "lead", "decided"),
    [
        (
            "run",
            "Results of 6 votes",
            "6 votes by 3 people on 1 photo: 4 choices, 1 tie, 1 with nothing good.",
            "They decide 7 pairs",
        ),
        (
            "all",
            "Results of 9 votes",
            "9 votes by 4 people on 1 photo: 6 choices, 2 ties, 1 with nothing good.",
            "They decide 9 pairs",
        ),
    ],
)
def test_the_lead_counts_votes_people_photos_and_answers(
    runs: list[Run], votes: list[Vote], scope: str, title: str, lead: str, decided: str
) -> None:
    page = Page(in_view(runs, scope), votes, scope)
    assert (page.visible, page.title) == (True, title)
    assert plain(page.words).startswith(f"{lead} {decided};")


def test_runs_of_two_photos_are_two_photos_and_one_without_votes_is_none(tmp_path: Path) -> None:
    places = [("one", "dome"), ("two", "bluebird"), ("three", "bluebird"), ("four", "quiet")]
    runs = [write_run(tmp_path / name, C_SD2, backbone="compact", photo=photo) for name, photo in places]
    booth = Booth(tmp_path / "votes.sqlite")
    for run in runs[:3]:
        booth.cast("ann", run, (0, 1), FIRST)
    assert "3 votes by 1 person on 2 photos:" in plain(Page(runs, booth.store.votes(), "all").words)


def test_votes_that_enter_nothing_are_counted_in_the_lead(runs: list[Run], tmp_path: Path) -> None:
    (one, _), booth = runs, Booth(tmp_path / "votes.sqlite")
    booth.cast("ann", one, (0, 1), FIRST)
    booth.cast("ann", one, (2, 3), FIRST)
    booth.store.reveal(booth.id_of("ann"), [run_key(one)])
    booth.cast("ann", one, (0, 2), FIRST)
    (one.folder / "3.png").write_text("another picture")
    page = Page(runs[:1], booth.store.votes(), "run")
    words = plain(page.words)
    assert words.startswith("2 votes by 1 person on 1 photo: 2 choices, 0 ties, 0 with nothing good.")
    assert "They decide 1 pair;" in words
    assert " 1 vote by people who had been told who was who on a picture left out." in words
    assert " 1 vote on pictures that are no longer in a run left out." in words


def test_there_is_nothing_to_see_before_a_vote(runs: list[Run]) -> None:
    page = Page(runs, [], "all")
    assert not page.visible
    assert (page.words, page.accuracy, page.others, page.strengths, page.top) == ("", None, "", None, "")


ACCURACY = {
    # By score: right, decided pairs, too close to tell, ties seen as ties.
    "run": {"Reward": (6, 7, 0, "0 of 1"), "NIQE": (5, 7, 0, "0 of 1"), "BRISQUE": (4, 7, 0, "0 of 1")},
    "all": {"Reward": (6, 9, 1, "0 of 2"), "NIQE": (6, 9, 1, "0 of 2"), "BRISQUE": (4, 9, 0, "1 of 2")},
}


@pytest.mark.parametrize("scope", ["run", "all"])
def test_accuracies_are_those_of_the_library_and_of_a_count_by_hand(
    runs: list[Run], votes: list[Vote], scope: str
) -> None:
    seen = in_view(runs, scope)
    page = Page(seen, votes, scope)
    said = [verdict for run in seen for verdict in verdicts(run, judged_pairs(still_there(run, votes)))]
    library = {score_label(a.key): a for a in agreement(said)}
    rows = cells(page.accuracy["table"])
    columns = ["Right", "Of", "Accuracy", "95 % from", "to", "Too close to tell", "Ties seen as ties"]
    assert rows.pop("") == columns
    assert set(rows) == set(library) == set(ACCURACY[scope])
    for name, (hits, num, close, ties) in ACCURACY[scope].items():
        assert library[name].accuracy == wilson(hits, num)
        assert library[name].num_indistinct == close
        assert f"{library[name].ties.hits} of {library[name].ties.num}" == ties
        assert rows[name] == [str(hits), str(num), *shares(wilson(hits, num)), str(close), ties]
    assert page.accuracy["figure"]["data"][0]["x"] == [library[name].accuracy.share for name in rows]
    best = max(library, key=lambda name: sure(library[name]))
    hits, num, *_ = ACCURACY[scope][best]
    assert page.accuracy["summary"] == f"{best} agrees the most surely: with {hits} of {num} decided pairs."


ERRORS = {
    # NIQE is the best metric: its hits and pairs, then who is right where it errs.
    "run": ((5, 7), {"BRISQUE": (2, 2), "Reward": (1, 2)}),
    "all": ((6, 9), {"BRISQUE": (2, 3), "Reward": (1, 3)}),
}


@pytest.mark.parametrize("scope", ["run", "all"])
def test_who_is_right_where_the_best_metric_errs_is_that_of_the_library_and_of_a_count_by_hand(
    runs: list[Run], votes: list[Vote], scope: str
) -> None:
    seen = in_view(runs, scope)
    page = Page(seen, votes, scope)
    found = complementarity([v for run in seen for v in verdicts(run, judged_pairs(still_there(run, votes)))])
    (hits, num), others = ERRORS[scope]
    assert found is not None
    assert (found.best.key, found.best.accuracy) == ("niqe", wilson(hits, num))
    rows = cells(page.others)
    assert rows.pop("") == ["Right", "Of", "Share", "95 % from", "to"]
    assert list(rows) == [score_label(a.key) for a in found.others] == list(others)
    for name, row in rows.items():
        assert row == [str(others[name][0]), str(others[name][1]), *shares(wilson(*others[name]))]
    assert "Who is right where NIQE errs" in page.others
    assert f"NIQE agrees with {hits} of {num} decided pairs:" in page.others


def test_a_best_metric_that_never_errs_is_said_to(runs: list[Run], tmp_path: Path) -> None:
    booth = Booth(tmp_path / "votes.sqlite")
    booth.cast("ann", runs[0], (0, 1), FIRST)
    page = Page(runs[:1], booth.store.votes(), "run")
    assert "nowhere yet, NIQE agrees with 1 of 1 decided pair." in plain(page.others)


COMPARED = {
    # By hand: each comparison between two different items, and in how many each took part.
    "run": (
        [("seed 0", "seed 1", 1), ("seed 1", "SFT", 0), ("seed 0", "seed 1", 0.5), ("seed 0", "seed 1", 1),
         ("seed 0", "seed 2", 1), ("seed 0", "SFT", 1), ("seed 1", "seed 2", 1), ("SFT", "seed 2", 1)],
        {"seed 0": 5, "seed 1": 5, "seed 2": 3, "SFT": 3},
    ),
    "all": (
        [("compact: SFT", "joined: SFT", 0), ("compact: SFT", "joined: SFT", 1), ("compact: SFT", "joined: SFT", 0),
         ("c-sd2: SFT", "joined: SFT", 0), ("c-sd2: SFT", "joined: SFT", 0.5)],
        {"compact: SFT": 3, "joined: SFT": 5, "c-sd2: SFT": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("scope", ["run", "all"])
def test_strengths_are_those_of_the_library_on_comparisons_listed_by_hand(
    runs: list[Run], votes: list[Vote], scope: str
) -> None:
    chart = Page(in_view(runs, scope), votes, scope).strengths
    listed, counts = COMPARED[scope]
    names = list(counts)
    found = bradley_terry(len(names), [(names.index(a), names.index(b), float(won)) for a, b, won in listed])
    strengths = dict(zip(names, found, strict=True))
    rows = cells(chart["table"])
    assert rows.pop("") == ["Strength", "95 % from", "to", "Comparisons"]
    assert list(rows) == sorted(names, key=lambda name: -strengths[name].value)
    for name, row in rows.items():
        assert row[3] == str(counts[name]) == str(strengths[name].num)
        assert [float(value) for value in row[:3]] == pytest.approx(strengths[name][:3], rel=1e-3)
    assert chart["figure"]["data"][0]["x"] == pytest.approx([strengths[name].value for name in rows], abs=1e-6)
    assert chart["summary"].startswith(f"{next(iter(rows))} is the strongest by the votes")


def test_the_strengths_of_two_items_are_those_worked_out_by_hand(runs: list[Run], tmp_path: Path) -> None:
    booth = Booth(tmp_path / "votes.sqlite")
    booth.cast("ann", runs[0], (0, 3), FIRST)
    chart = Page(runs[:1], booth.store.votes(), "run").strengths
    # One win and theta ~ N(0, 2^2): the most probable lead d solves 1 / (1 + e^d) = d / 8, so d = 1.4815.
    assert {name: row[0] for name, row in cells(chart["table"]).items() if name} == {
        "seed 0": "0.7408",
        "SFT": "-0.7408",
    }


RANKED: dict[str, dict[str, tuple[int, list[tuple[int, int, float] | None]]]] = {
    # By hand: ballots, then in how many of how many among the first K, with chance; ballots that rank nobody are out.
    "run": {
        "seed 0": (3, [(3, 3, 7 / 12), (1, 1, 0.75), (1, 1, 0.75)]),
        "seed 1": (4, [(1, 4, 9 / 16), (1, 1, 0.75), (1, 1, 0.75)]),
        "SFT": (2, [(1, 2, 3 / 8), (1, 1, 0.75), (1, 1, 0.75)]),
        "seed 2": (1, [(0, 1, 1 / 4), (0, 1, 0.75), (0, 1, 0.75)]),
    },
    "all": {
        "joined: SFT": (4, [(3, 4, 9 / 16), (1, 1, 0.75), (1, 1, 0.75)]),
        "c-sd2: SFT": (2, [(1, 2, 3 / 4), None, None]),
        "compact: SFT": (1, [(0, 1, 1 / 2), None, None]),
    },
}


@pytest.mark.parametrize("scope", ["run", "all"])
def test_top_k_and_chance_are_those_of_the_library_and_of_a_count_by_hand(
    runs: list[Run], votes: list[Vote], scope: str
) -> None:
    seen = in_view(runs, scope)
    top = Page(seen, votes, scope).top
    rows = cells(top)
    assert rows.pop("") == ["Ballots", "Top-1", "Top-2", "Top-3"]
    names = [{record.index: record.name for record in seen[0].candidates}]
    if scope == "all":
        names = [{0: "compact: SFT", 1: "compact: SFT", 2: "compact: SFT", 3: "joined: SFT"},
                 {0: "c-sd2: SFT", 1: "c-sd2: SFT", 2: "joined: SFT"}]  # fmt: skip
    ballots = [
        (vote, items)
        for run, items in zip(seen, names, strict=True)
        for vote, _ in first_votes(still_there(run, votes))
    ]
    library = standings(ballots)
    assert set(rows) == set(library) == set(RANKED[scope])
    assert list(rows) == sorted(library, key=lambda name: -(top_k(library[name], 1).low or 0.0))
    for name, (num_ballots, ratios) in RANKED[scope].items():
        assert rows[name][0] == str(num_ballots) == str(len(library[name]))
        for k, ratio in enumerate(ratios, start=1):
            larger = [standing for standing in library[name] if len(standing.among) > k]
            if ratio is None:
                assert (rows[name][k], larger) == ("\u2013", [])
                continue
            hits, num, chance = ratio
            expected = wilson(hits, num)
            assert top_k(larger, k) == expected
            assert chance_top_k(larger, k) == pytest.approx(chance)
            share, low, high = expected[2:]
            assert rows[name][k] == f"{share:.2f} ({low:.2f} to {high:.2f}), chance {chance:.2f}"


def test_the_words_beside_top_k_say_which_ballots_it_leaves_out(runs: list[Run], votes: list[Vote]) -> None:
    for scope in ("run", "all"):
        assert "Ballots with nothing good rank nobody and are left out" in Page(in_view(runs, scope), votes, scope).top


def test_origins_that_met_only_themselves_have_neither_strength_nor_top_k(runs: list[Run], tmp_path: Path) -> None:
    booth = Booth(tmp_path / "votes.sqlite")
    for run in runs:
        booth.cast("ann", run, (0, 1), FIRST)
    page = Page(runs, booth.store.votes(), "all")
    assert page.strengths is None
    assert "no ballot yet on which an origin has exactly one picture" in page.top
    assert cells(page.accuracy["table"])["NIQE"][:2] == ["1", "2"]
