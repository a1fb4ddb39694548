import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sr_core.errors import InputError
from sr_core.rewards.group import hybrid_reward, score_term
from sr_core.runs import CandidateRecord, Run, reference_file, with_scores

SCORES = {"consistency_lpips": [0.1, 0.2, 0.3, 0.4], "niqe": [6.0, 3.0, 4.0, 5.0]}
"""The first candidate is the most faithful, the second the most vivid."""


def drawn_run(folder: Path, count: int = 4, *, failed: tuple[int, ...] = ()) -> Run:
    records = tuple(
        CandidateRecord(index=k, seed=10 + k, file=None, problem="it is flat", dtype="float32")
        if k in failed
        else CandidateRecord(index=k, seed=10 + k, file=f"photo_seed{10 + k}.png", dtype="bfloat16")
        for k in range(count)
    )
    return Run(folder=folder, values={"version": "1", "notices": [], "size": [4, 4]}, candidates=records)


def scored_run(folder: Path, fidelity_weight: float = 0.5) -> Run:
    return with_scores(drawn_run(folder), SCORES, range(4), fidelity_weight)


numbers = st.floats(allow_nan=False, allow_infinity=False)
records = st.builds(
    CandidateRecord,
    index=st.integers(0, 15),
    seed=st.integers(0, 2**63 - 1),
    rank=st.none() | st.integers(1, 16),
    reward=st.none() | st.floats(0, 1),
    scores=st.dictionaries(st.text(max_size=9), numbers, max_size=3),
    file=st.none() | st.sampled_from(["a.png", "b c.webp", "ä.tif"]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    problem=st.none() | st.text(max_size=9),
    before=st.none() | st.sampled_from(["a_sft.png"]),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tops = st.dictionaries(st.text(max_size=9).filter(lambda key: key != "candidates"), json_values, max_size=4)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(values=tops, candidates=st.lists(records, max_size=4))
def test_a_saved_run_opens_as_it_was(tmp_path: Path, values: dict[str, Any], candidates: list[CandidateRecord]) -> None:
    run = Run(folder=tmp_path / "run", values=values, candidates=tuple(candidates))
    run.save()
    assert Run.open(run.folder) == run
    assert [p.name for p in run.folder.iterdir()] == ["run.json"]


def stored(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def record(**changes: Any) -> dict[str, Any]:
    return {"index": 0, "seed": 1, "file": "a.png", **changes}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[]",
        b"5",
        b"null",
        b"[" * 100_000,
        {},
        {"candidates": 5},
        {"candidates": None},
        {"candidates": ["a"]},
        {"candidates": [{}]},
        {"candidates": [record(unknown=1)]},
        {"candidates": [record(index="0")]},
        {"candidates": [record(seed=1.5)]},
        {"candidates": [record(rank="first")]},
        {"candidates": [record(reward="high")]},
        {"candidates": [record(scores=[1])]},
        {"candidates": [record(scores={"niqe": "low"})]},
        {"candidates": [record(file=5)]},
        {"candidates": [record(dtype=None)]},
        {"candidates": [record(before=5)]},
        b'{"candidates": [{"index": 0, "seed": 1, "reward": NaN}]}',
        b'{"candidates": [{"index": 0, "seed": 1, "scores": {"niqe": Infinity}}]}',
    ],
    ids=str,
)
def test_a_damaged_run_is_refused_by_path(tmp_path: Path, content: Any) -> None:
    folder = stored(tmp_path / "run", content)
    with pytest.raises(InputError, match=re.escape(str(folder / "run.json"))):
        Run.open(folder)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match=r"must be a folder with run\.json"):
            Run.open(folder)


def test_a_run_of_a_version_without_comparisons_opens(tmp_path: Path) -> None:
    old = record(rank=1, reward=0.5, scores={"niqe": 3.0}, dtype="float32", problem=None)
    run = Run.open(stored(tmp_path / "run", {"version": "0.1.0", "adapter": "sft", "candidates": [old]}))
    (candidate,) = run.candidates
    assert (candidate.file, candidate.rank, candidate.before) == ("a.png", 1, None)


def naming(kind: str, file: object) -> dict[str, Any]:
    """Return the content of a run file that names a picture of one kind."""
    named = {"input": {"input": {"file": file}}, "prior": {"prior": file}, "reference": {"reference": True}}
    return {"candidates": [record(**({} if kind in named else {kind: file}))], **named.get(kind, {})}


@pytest.mark.parametrize("kind", ["file", "before", "input", "prior"])
@pytest.mark.parametrize("file", ["../a.png", "/etc/passwd", "in/../../a.png", "..", "a\0b"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, kind: str, file: str) -> None:
    folder = stored(tmp_path / "run", naming(kind, file))
    with pytest.raises(InputError, match="must lie in the run's folder"):
        Run.open(folder)


@pytest.mark.parametrize("kind", ["file", "before", "input", "prior", "reference"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    folder = stored(tmp_path / "run", naming(kind, "reference.png"))
    (tmp_path / "secret").touch()
    (folder / "reference.png").touch()
    Run.open(folder)
    (folder / "reference.png").unlink()
    (folder / "reference.png").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="must lie in the run's folder"):
        Run.open(folder)


def test_a_reference_counts_where_the_run_says_so_and_its_loss_is_said(tmp_path: Path) -> None:
    run = Run.open(stored(tmp_path / "run", {"reference": True, "candidates": [record()]}))
    with pytest.raises(InputError, match="must hold one file named reference, got 0"):
        reference_file(run)
    (run.folder / "reference.jpg").touch()
    assert reference_file(run) == run.folder / "reference.jpg"
    assert reference_file(replace(run, values={"reference": False})) is None


def test_numbers_that_are_not_json_are_never_written(tmp_path: Path) -> None:
    run = drawn_run(tmp_path)
    run.save()
    before = (tmp_path / "run.json").read_bytes()
    broken = replace(run, candidates=(replace(run.candidates[0], reward=float("nan")),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.save()
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("fidelity_weight", [0.0, 0.5, 1.0])
def test_reranking_is_the_hybrid_reward_at_that_weight(tmp_path: Path, fidelity_weight: float) -> None:
    run = scored_run(tmp_path).reranked(fidelity_weight)
    expected = hybrid_reward(SCORES, {key: score_term(key) for key in SCORES}, fidelity_weight=fidelity_weight)
    assert [r.reward for r in run.candidates] == pytest.approx(expected.reward.tolist())
    assert tuple(r.rank for r in run.candidates) == expected.ranks
    assert run.values["fidelity_weight"] == fidelity_weight
    assert run.values["tie_band"] == expected.tie_band
    assert [r.scores for r in run.candidates] == [
        dict(zip(SCORES, v, strict=True)) for v in zip(*SCORES.values(), strict=True)
    ]


def test_the_most_faithful_wins_at_one_and_the_most_vivid_at_zero(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    faithful, vivid = run.reranked(1.0).best, run.reranked(0.0).best
    assert faithful is not None
    assert vivid is not None
    assert (faithful.index, vivid.index) == (0, 1)


def test_reranking_twice_is_reranking_once(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    assert run.reranked(0.2).reranked(0.8) == run.reranked(0.8)
    assert scored_run(tmp_path, 0.8) == run.reranked(0.8)


def test_reranking_writes_nothing(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run")
    run.save()
    before = (tmp_path / "run" / "run.json").read_bytes()
    run.reranked(0.0)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_failed_candidates_are_unranked_and_come_last(tmp_path: Path) -> None:
    run = drawn_run(tmp_path, failed=(0, 2))
    run = with_scores(run, {key: values[:2] for key, values in SCORES.items()}, [1, 3], 1.0)
    assert [r.index for r in run.ranked] == [1, 3, 0, 2]
    assert [r.rank for r in run.ranked] == [1, 2, None, None]
    assert [r.reward for r in run.ranked] == [1.0, 0.0, None, None]
    assert run.best is not None
    assert run.worst is not None
    assert (run.best.index, run.worst.index) == (1, 3)
    with pytest.raises(InputError, match="candidate 1 has no image: it is flat"):
        run.path(run.candidates[0])
    assert run.path(run.candidates[1]) == tmp_path / "photo_seed11.png"


def test_one_candidate_is_best_without_a_rank(tmp_path: Path) -> None:
    run = with_scores(drawn_run(tmp_path, 2, failed=(0,)), {"niqe": [4.0]}, [1], 0.5)
    assert run.best == run.candidates[1]
    assert run.worst is None
    assert (run.candidates[1].rank, run.candidates[1].reward) == (None, None)
    assert run.candidates[1].scores == {"niqe": 4.0}
    assert run.group_reward(0.5) is None


def test_before_scoring_candidates_stand_as_drawn(tmp_path: Path) -> None:
    run = drawn_run(tmp_path, failed=(1,))
    assert [r.index for r in run.ranked] == [0, 2, 3, 1]
    assert run.reranked(0.3).candidates == run.candidates
    assert drawn_run(tmp_path, 2, failed=(0, 1)).best is None


def test_a_label_says_what_a_picture_shows(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    assert run.candidates[0].label.startswith("Candidate 1, seed 10, rank ")
    assert "failed: it is flat" in drawn_run(tmp_path, failed=(0,)).candidates[0].label


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_ranks_follow_rewards(scores: list[float]) -> None:
    run = with_scores(drawn_run(Path(), len(scores)), {"niqe": scores}, range(len(scores)), 0.5)
    ranked = run.ranked
    assert [r.rank for r in ranked] == sorted(r.rank or 0 for r in ranked)
    assert bool((np.diff([r.reward or 0 for r in ranked]) <= 0).all())
