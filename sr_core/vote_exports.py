"""Votes as tables: every vote as it was cast, and the pairs it decides in Pick-a-Pic's columns."""

import hashlib
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sr_core.backbones import adapter_label
from sr_core.ballots import still_there
from sr_core.errors import InputError
from sr_core.images import read_output
from sr_core.preference_data.dataset import TIME, table_schema
from sr_core.preference_data.pickapic import PICKAPIC_SCHEMA, ComparedImage, model_name, pickapic_row
from sr_core.preference_data.shards import marked_png, plain_png
from sr_core.runs import CandidateRecord, Run
from sr_core.vote_statistics import counted, first_words
from sr_core.votes import Vote

NUM_NAME_DIGITS = 16
"""Hexadecimal digits that name a vote or a voter in a table."""

VOTE_SCHEMA = table_schema(
    [
        ("vote", pa.string()),
        ("voter", pa.string()),
        ("voted_at", TIME),
        ("run", pa.string()),
        ("mode", pa.string()),
        ("shown", pa.list_(pa.struct([("candidate", pa.int32()), ("place", pa.int32()), ("sha256", pa.string())]))),
        ("answer", pa.string()),
        ("best", pa.int32()),
        ("worst", pa.int32()),
    ]
)
"""One row per vote. `run` names a run without opening it; `best` and `worst` are candidates, null without a choice."""


def vote_rows(votes: Iterable[Vote]) -> list[dict[str, Any]]:
    """Return one row per vote that was not taken back, oldest first; no row tells how to act as its voter."""
    return [
        {
            "vote": hashlib.sha256(vote.ballot.token.encode()).hexdigest()[:NUM_NAME_DIGITS],
            "voter": vote.voter[:NUM_NAME_DIGITS],
            "voted_at": vote.at,
            "run": vote.ballot.run,
            "mode": vote.ballot.mode,
            "shown": [
                {"candidate": picture.candidate, "place": place, "sha256": picture.sha256}
                for place, picture in enumerate(vote.ballot.shown)
            ],
            "answer": vote.answer.kind,
            "best": vote.best,
            "worst": vote.worst,
        }
        for vote in counted(votes)
    ]


def votes_parquet(votes: Iterable[Vote]) -> bytes:
    """Return the votes as a Parquet file."""
    return _parquet(pa.Table.from_pylist(vote_rows(votes), schema=VOTE_SCHEMA))


def pickapic_parquet(runs: Sequence[Run], votes: Sequence[Vote]) -> bytes:
    """Return the pairs that votes decide on pictures of `runs`, in Pick-a-Pic's columns.

    Of one voter's words on a pair the first counts. The candidate with the lower index stands first, wherever it stood
    on screen. A tie is 0.5; where all were bad there is no row. The pairs of one ballot share a `ranking_id`. Raises
    InputError if no vote decides a pair.
    """
    rows: list[dict[str, Any]] = []
    ranking_ids: dict[str, int] = {}
    for run in runs:
        records = {record.index: record for record in run.candidates}
        words = first_words(still_there(run, votes))
        sides = {index: _side(run, records[index]) for index in sorted({i for _, pair in words for i in pair[1:3]})}
        for vote, pair in words:
            row = pickapic_row(
                sides[pair.first],
                sides[pair.second],
                label=pair.outcome,
                ranking_id=ranking_ids.setdefault(vote.ballot.token, len(ranking_ids)),
                num_pairs=len(words),
                created_at=vote.at,
            )
            rows.append(row)
    if not rows:
        raise InputError("there must be a vote that prefers a picture or calls two equal; vote on a pair first")
    return _parquet(pa.Table.from_pylist(rows, schema=PICKAPIC_SCHEMA))


def origin_label(run: Run, record: CandidateRecord) -> str:
    """Return what drew a candidate, for people: the adapter, or where it came from."""
    return record.source or adapter_label(run.values["adapter"])


def _side(run: Run, record: CandidateRecord) -> ComparedImage:
    path = run.path(record)
    model = record.source or model_name([run.values["backbone"], run.values["adapter"]])
    if path.suffix == ".png":
        return ComparedImage(path.read_bytes(), model)
    pixels = read_output(path).pixels
    return ComparedImage(marked_png(pixels, {}) if record.source is None else plain_png(pixels), model)


def _parquet(table: pa.Table) -> bytes:
    file = BytesIO()
    pq.write_table(table, file)
    return file.getvalue()
