from pathlib import Path

import pytest

from sr_core.errors import ConfigError, InputError
from sr_core.preference_data.run_groups import run_digest
from sr_core.runs import Run
from sr_core.vote_exports import votes_parquet
from sr_core.vote_statistics import judged_pairs
from sr_core.votes import VoteStore
from tests.explorer_run import write_run
from tests.sr_core.test_vote_exports import BAD, FIRST, SECOND, TIE, cast
from train.human_pairs import is_votes, read_votes
from train.iqa_labels import read_comparisons
from train.iqa_study import num_foreign_votes, read_verdicts, study


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "runs" / "one", num_candidates=4, size=64)


@pytest.fixture
def store(tmp_path: Path, run: Run) -> VoteStore:
    store = VoteStore(tmp_path / "votes.sqlite")
    for indices, answer in (((3, 1), SECOND), ((0, 2), TIE), ((1, 2), BAD), ((0, 1, 2, 3), FIRST), ((2, 3), FIRST)):
        cast(store, run, indices, answer)
    return store


def test_the_exported_table_decides_what_the_store_decides(tmp_path: Path, store: VoteStore) -> None:
    path = tmp_path / "votes.parquet"
    path.write_bytes(votes_parquet(store.votes()))
    assert is_votes(path)
    assert sorted(judged_pairs(read_votes(path))) == sorted(judged_pairs(read_votes(store.path)))
    assert [vote.ballot.shown for vote in read_votes(path)] == [vote.ballot.shown for vote in store.votes()]


def test_votes_on_a_run_are_labels_of_the_group_that_curation_makes_of_it(store: VoteStore, run: Run) -> None:
    group = f"run-{run_digest(run)[:16]}"
    names = {group: {str(record.index): record.index for record in run.candidates}}
    found = read_comparisons([str(store.path)], [str(run.folder)], names)
    assert (1, 3, 1.0) in found[group]
    assert (0, 2, 0.5) in found[group]
    with pytest.raises(ConfigError, match=r"targets\.runs"):
        read_comparisons([str(store.path)], [], names)


def test_a_study_of_votes_needs_the_runs_that_hold_the_scores(store: VoteStore, run: Run) -> None:
    result = study(read_verdicts([store.path], [str(run.folder.parent)], ()))
    assert result.num_pairs + result.num_ties == len(judged_pairs(store.votes()))
    assert all(metric.names[0] in run.candidates[0].scores for metric in result.metrics)
    with pytest.raises(InputError, match="--runs"):
        read_verdicts([store.path], [], ())


def test_votes_on_runs_that_nobody_named_are_counted(store: VoteStore, run: Run) -> None:
    assert num_foreign_votes([store.path], [str(run.folder)]) == 0
    assert num_foreign_votes([store.path], []) == len(store.votes()) > 0


def test_what_is_no_file_of_votes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a file"):
        read_votes(tmp_path / "missing.sqlite")
    table = tmp_path / "pairs.csv"
    table.write_text("outcome\n1\n")
    with pytest.raises(InputError, match="exported votes"):
        read_votes(table)
