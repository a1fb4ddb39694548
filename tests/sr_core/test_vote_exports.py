import hashlib
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from sr_core.backbones import BACKBONES
from sr_core.ballots import run_key, show_pictures, still_there
from sr_core.errors import InputError
from sr_core.preference_data.pickapic import PICKAPIC_SCHEMA
from sr_core.runs import Run
from sr_core.vote_exports import JOINED, VOTE_SCHEMA, origin_label, pickapic_parquet, votes_parquet
from sr_core.votes import Answer, Viewing, VoteStore, new_voter, voter_key
from tests.explorer_run import write_run

FIRST, SECOND, TIE, BAD = Answer("choice", 0, 1), Answer("choice", 1, 0), Answer("tie"), Answer("bad")
DIFFUSERS_COLUMNS = ("jpg_0", "jpg_1", "label_0", "caption")
"""What diffusers' train_diffusion_dpo.py reads."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", num_candidates=4, size=64)


@pytest.fixture
def store(tmp_path: Path) -> VoteStore:
    return VoteStore(tmp_path / "votes.sqlite")


def cast(store: VoteStore, run: Run, indices: Sequence[int], answer: Answer, voter: str | None = None) -> str:
    mode = "pair" if len(indices) == 2 else "four"
    ballot = store.issue(run_key(run), mode, show_pictures(run, indices))
    store.cast(ballot.token, voter or new_voter(), answer)
    return ballot.token


def read(content: bytes) -> pa.Table:
    return pq.read_table(BytesIO(content))


def test_the_raw_table_says_who_saw_what_where_and_chose_which(store: VoteStore, run: Run) -> None:
    voter = new_voter()
    token = cast(store, run, (3, 1), SECOND, voter)
    cast(store, run, (0, 2), BAD)
    table = read(votes_parquet(store.votes()))
    assert table.schema.equals(VOTE_SCHEMA)
    first, second = table.to_pylist()
    assert (first["best"], first["worst"], first["answer"], first["mode"]) == (1, 3, "choice", "pair")
    assert [(p["candidate"], p["place"]) for p in first["shown"]] == [(3, 0), (1, 1)]
    digest = hashlib.sha256(run.path(run.candidates[3]).read_bytes()).hexdigest()
    assert first["shown"][0]["sha256"] == digest
    assert (second["best"], second["worst"], second["answer"]) == (None, None, "bad")
    content = votes_parquet(store.votes())
    for secret in (voter, token, str(run.values["id"])):
        assert secret.encode() not in content
    assert voter_key(voter)[:16].encode() not in content


def test_two_runs_tables_cannot_be_joined_and_tell_the_day_alone(store: VoteStore, run: Run, tmp_path: Path) -> None:
    voter = new_voter()
    other = write_run(tmp_path / "other", num_candidates=2, size=64, seed=1)
    for where in (run, other, run, other):
        cast(store, where, (0, 1), FIRST, voter)
    votes = store.votes()
    rows = read(votes_parquet(votes)).to_pylist()
    names = [{row["voter"] for row in rows if row["run"] == run_key(where)} for where in (run, other)]
    assert [len(found) for found in names] == [1, 1]
    assert not names[0] & names[1]
    assert [row["run"] for row in rows] == sorted(row["run"] for row in rows)
    assert {row["voted_on"] for row in rows} == {vote.at.date() for vote in votes}
    days = {row["created_at"] for row in read(pickapic_parquet([run], votes)).to_pylist()}
    assert {(day.hour, day.minute, day.second, day.microsecond) for day in days} == {(0, 0, 0, 0)}


def test_the_raw_table_says_how_blind_a_vote_was_and_how_it_was_looked_at(store: VoteStore, run: Run) -> None:
    voter = new_voter()
    for viewing in (Viewing(True, 4.0), Viewing()):
        ballot = store.issue(run_key(run), "pair", show_pictures(run, (0, 1)))
        store.cast(ballot.token, voter, FIRST, viewing)
        store.reveal(voter, [run_key(run)])
    columns = read(votes_parquet(store.votes())).to_pydict()
    assert columns["num_revealed"] == [0, 2]
    assert columns["saw_input"] == [True, None]
    assert columns["zoom"] == [4.0, None]


def test_a_vote_taken_back_is_in_no_export(store: VoteStore, run: Run) -> None:
    voter = new_voter()
    store.withdraw(cast(store, run, (0, 1), FIRST, voter), voter)
    assert read(votes_parquet(store.votes())).num_rows == 0
    with pytest.raises(InputError, match="vote on a pair first"):
        pickapic_parquet([run], store.votes())


def test_pickapic_has_the_columns_that_diffusers_reads_and_labels_of_one_half_or_none(
    store: VoteStore, run: Run
) -> None:
    cast(store, run, (2, 0), FIRST)
    cast(store, run, (1, 3), FIRST)
    cast(store, run, (0, 1), TIE)
    cast(store, run, (2, 3), BAD)
    table = read(pickapic_parquet([run], store.votes()))
    assert table.schema.equals(PICKAPIC_SCHEMA)
    assert set(DIFFUSERS_COLUMNS) <= set(table.column_names)
    rows = table.to_pylist()
    assert [(row["label_0"], row["label_1"]) for row in rows] == [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)]
    for row, (a, b) in zip(rows, [(0, 2), (1, 3), (0, 1)], strict=True):
        assert row["jpg_0"] == run.path(run.candidates[a]).read_bytes()
        assert row["jpg_1"] == run.path(run.candidates[b]).read_bytes()
        assert row["num_example_per_prompt"] == 3
        assert row["has_label"]
        assert row["are_different"]


def test_what_was_bad_becomes_no_preference(store: VoteStore, run: Run) -> None:
    cast(store, run, (0, 1), BAD)
    cast(store, run, (0, 1, 2, 3), BAD)
    with pytest.raises(InputError, match="must be a vote that prefers"):
        pickapic_parquet([run], store.votes())


def test_the_pairs_of_one_ballot_share_a_ranking(store: VoteStore, run: Run) -> None:
    cast(store, run, (0, 1, 2, 3), Answer("choice", 3, 0))
    cast(store, run, (0, 1), FIRST)
    rows = read(pickapic_parquet([run], store.votes())).to_pylist()
    assert [row["ranking_id"] for row in rows] == [0] * 5 + [1]
    assert {row["num_example_per_prompt"] for row in rows} == {6}


def test_the_positions_on_screen_change_no_row(tmp_path: Path, run: Run) -> None:
    contents = []
    for name, order, answer in (("a", (1, 2), FIRST), ("b", (2, 1), SECOND)):
        store = VoteStore(tmp_path / f"{name}.sqlite")
        cast(store, run, order, answer)
        rows = read(pickapic_parquet([run], store.votes())).drop_columns("created_at")
        contents.append(rows.to_pylist())
    assert contents[0] == contents[1]


def test_votes_on_pictures_that_the_run_no_longer_holds_are_left_out(store: VoteStore, run: Run) -> None:
    cast(store, run, (0, 1), FIRST)
    cast(store, run, (2, 3), FIRST)
    PillowImage.fromarray(np.zeros((64, 64, 3), np.uint8)).save(run.path(run.candidates[0]))
    assert [vote.best for vote in still_there(run, store.votes())] == [2]
    assert read(pickapic_parquet([run], store.votes())).num_rows == 1


def test_votes_on_other_runs_are_left_out(store: VoteStore, run: Run, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", num_candidates=2, size=64, seed=1)
    cast(store, other, (0, 1), FIRST)
    cast(store, run, (0, 1), FIRST)
    assert read(pickapic_parquet([run], store.votes())).num_rows == 1
    assert read(pickapic_parquet([run, other], store.votes())).num_rows == 2


def test_a_candidate_is_named_by_the_backbone_and_the_adapter_that_drew_it(run: Run) -> None:
    names = {
        origin_label(replace(run, values={**run.values, "backbone": backbone, "adapter": adapter}), run.candidates[0])
        for backbone in BACKBONES
        for adapter in ("sft", "hpo")
    }
    assert len(names) == 2 * len(BACKBONES)
    assert {"compact: SFT", "c-sd2: SFT", "compact: DP2O"} <= names


def test_a_file_that_is_named_like_what_drew_a_candidate_is_another_origin(run: Run) -> None:
    drawn = origin_label(run, run.candidates[0])
    for name in ("SFT", "sft", drawn):
        joined = replace(run.candidates[0], seed=None, source=name)
        assert origin_label(run, joined) == f"joined: {name}" != drawn
    assert JOINED not in BACKBONES
