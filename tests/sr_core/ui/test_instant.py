import hashlib
import json
from pathlib import Path

import pytest

from sr_core.backbones import ONE_STEP, SFT
from sr_core.backbones.compact_one_step import ONE_STEP_FILE
from sr_core.runs import CandidateRecord, Run
from sr_core.ui import instant
from sr_core.ui.instant import BEST_OF_N, INSTANT, MODES, level_chart, level_words, mode_of
from sr_core.ui.settings import Settings

LEVELS = {
    "strengths": [0.0, 0.5, 1.0],
    "levels": [[0.2, 0.4, 0.8], [0.3, 0.5, 0.9], [0.1, 0.3, 0.7]],
    "kendall": {"tau": 0.8, "low": 0.7, "high": 0.9},
}


def run_of(*levels: float | None) -> Run:
    records = tuple(CandidateRecord(index=k, seed=k, level=level) for k, level in enumerate(levels))
    return Run(folder=Path("run"), values={}, candidates=records)


@pytest.fixture
def _shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instant, "shipped_levels", lambda: LEVELS)


def test_each_mode_is_recognised_by_what_it_sets() -> None:
    for mode, changes in MODES.items():
        assert mode_of(Settings().with_preset(changes)) == mode
    assert mode_of(Settings()) == BEST_OF_N
    assert mode_of(Settings(adapter=ONE_STEP, num_candidates=4)) == BEST_OF_N
    job = Settings().with_preset(MODES[INSTANT]).job()
    assert (job.adapter, job.num_candidates, job.compare_adapter, job.passes) == (ONE_STEP, 1, None, 1)
    assert Settings().with_preset(MODES[INSTANT]).with_preset(MODES[BEST_OF_N]).adapter == SFT


@pytest.mark.usefixtures("_shipped")
def test_the_chart_holds_the_shipped_levels_and_the_photos_own() -> None:
    value = level_chart(run_of(0.37))
    assert value is not None
    by_name = {trace.get("name"): trace for trace in value["figure"]["data"]}
    assert by_name["median"]["y"] == [0.2, 0.4, 0.8]
    assert by_name["this photo"]["y"] == [0.37, 0.37]
    assert "0.37" in value["summary"]
    assert "+0.80 (+0.70 to +0.90); it moves with the strength" in value["note"]
    for words in ("<td>0.15</td>", "<td>0.4</td>", "<td>0.85</td>", "25 %"):
        assert words in value["table"]


@pytest.mark.usefixtures("_shipped")
def test_other_runs_have_no_chart() -> None:
    assert level_chart(None) is None
    assert level_chart(run_of(None, None)) is None


def test_the_shipped_figures_are_of_all_evaluation_photos() -> None:
    found = json.loads(instant.LEVELS_FILE.read_text(encoding="utf-8"))
    assert len(found["strengths"]) == 5
    assert {len(row) for row in found["levels"]} == {5}
    assert len(found["levels"]) == 23
    assert -1 <= found["kendall"]["low"] <= found["kendall"]["tau"] <= found["kendall"]["high"] <= 1
    assert sum(found["histogram"].values()) == 115


def test_the_shipped_figures_are_of_the_shipped_weights() -> None:
    found = json.loads(instant.LEVELS_FILE.read_text(encoding="utf-8"))
    assert found["weights_sha256"] == hashlib.sha256(ONE_STEP_FILE.read_bytes()).hexdigest()
    assert "@@" not in (ONE_STEP_FILE.parent / "one_step.md").read_text(encoding="utf-8")


def test_a_level_is_said_with_its_range() -> None:
    assert level_words(0.4) == "began at level 0.40 of 1"
