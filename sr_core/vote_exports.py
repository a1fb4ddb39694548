"""Votes as tables: every vote as it was cast, and the pairs it decides in Pick-a-Pic's columns.

Neither says who voted: a voter's name in a table is another one on every run, and of the time only the day is told.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sr_core.backbones import adapter_label
from sr_core.ballots import still_there
from sr_core.errors import InputError
from sr_core.images import read_output
from sr_core.preference_data.dataset import table_schema
from sr_core.preference_data.pickapic import PICKAPIC_SCHEMA, ComparedImage, model_name, pickapic_row
from sr_core.preference_data.shards import marked_png, plain_png
from sr_core.runs import CandidateRecord, Run
from sr_core.vote_statistics import counted, first_words
from sr_core.votes import Vote

NUM_NAME_DIGITS = 16
"""Hexadecimal digits that name a vote or a voter in a table."""
JOINED = "joined"
"""Stands where a backbone's name stands for a candidate that no backbone of ours drew."""

VOTE_SCHEMA = table_schema(
    [
        ("vote", pa.string()),
        ("voter", pa.string()),
        ("voted_on", pa.date32()),
        ("run", pa.string()),
        ("mode", pa.string()),
        ("shown", pa.list_(pa.struct([("candidate", pa.int32()), ("place", pa.int32()), ("sha256", pa.string())]))),
        ("answer", pa.string()),
        ("best", pa.int32()),
        ("worst", pa.int32()),
        ("num_revealed", pa.int32()),
        ("saw_input", pa.bool_()),
        ("zoom", pa.float32()),
    ]
)
"""One row per vote. `run` names a run without opening it; `best` and `worst` are candidates, null without a choice.

`num_revealed` counts the pictures that the voter had been told about before, 0 for a blind vote; `zoom` is the largest
used, in pixels of the screen per pixel of a picture.
"""


def voter_name(vote: Vote) -> str:
    """Return a name for a voter that holds on one run alone: the tables of two runs cannot be joined by it."""
    return _name(f"{vote.voter} on {vote.ballot.run}")


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:NUM_NAME_DIGITS]


def vote_rows(votes: Iterable[Vote]) -> list[dict[str, Any]]:
    """Return one row per vote that was not taken back, run by run, on each the oldest first."""
    return [
        {
            "vote": _name(vote.ballot.token),
            "voter": voter_name(vote),
            "voted_on": vote.at.astimezone(UTC).date(),
            "run": vote.ballot.run,
            "mode": vote.ballot.mode,
            "shown": [
                {"candidate": picture.candidate, "place": place, "sha256": picture.sha256}
                for place, picture in enumerate(vote.ballot.shown)
            ],
            "answer": vote.answer.kind,
            "best": vote.best,
            "worst": vote.worst,
            "num_revealed": vote.num_revealed,
            "saw_input": vote.viewing.saw_input,
            "zoom": vote.viewing.zoom,
        }
        # Votes of several runs in their common order would tell whose are whose.
        for vote in sorted(counted(votes), key=lambda vote: vote.ballot.run)
    ]


def votes_parquet(votes: Iterable[Vote]) -> bytes:
    """Return the votes as a Parquet file."""
    return _parquet(pa.Table.from_pylist(vote_rows(votes), schema=VOTE_SCHEMA))


def pickapic_parquet(runs: Sequence[Run], votes: Sequence[Vote]) -> bytes:
    """Return the pairs that votes decide on pictures of `runs`, in Pick-a-Pic's columns.

    Only what a voter said blind counts, as `first_words` has it. The candidate with the lower index stands first,
    wherever it stood on screen. A tie is 0.5; where all were bad there is no row. The pairs of one ballot share a
    `ranking_id`. Raises InputError if no vote decides a pair.
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
                created_at=datetime.combine(vote.at.astimezone(UTC).date(), time(), UTC),
            )
            rows.append(row)
    if not rows:
        raise InputError("there must be a vote that prefers a picture or calls two equal; vote on a pair first")
    return _parquet(pa.Table.from_pylist(rows, schema=PICKAPIC_SCHEMA))


def origin_label(run: Run, record: CandidateRecord) -> str:
    """Return what drew a candidate, for people: backbone and adapter, or `joined` and the name of the file or model.

    No backbone is called `joined`, so a file that is named like an adapter is another origin.
    """
    if record.source is not None:
        return f"{JOINED}: {record.source}"
    return f"{run.values['backbone']}: {adapter_label(run.values['adapter'])}"


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
