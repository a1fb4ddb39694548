import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_core.adapter_comparison import AdapterComparison, compare_adapters, reward_curves
from sr_core.audit import Degradation, make_pair
from sr_core.runs import CandidateRecord, Run
from sr_core.ui.explorer.audit_view import (
    change_chart,
    curves_chart,
    render_findings,
    render_pair,
    render_photos,
    views,
)
from sr_core.ui.visits import Shown, job_of
from tests.explorer_run import write_run

CANDIDATES = 3


def shown_run(run: Run, **values: Any) -> Shown:
    run = replace(run, values={**run.values, **values})
    return Shown(run=run, job=job_of(run), message="ranked")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Return a run of two adapters with its reference and stored distances."""
    folder = tmp_path_factory.mktemp("run") / "run"
    run = write_run(folder, num_candidates=CANDIDATES, size=128, reference=True, before=True)
    distances = {
        "candidates": [{"psnr": 25.0 + k, "lsd": 3.0 + k} for k in range(CANDIDATES)],
        "before": [{"psnr": 20.0 + k, "lsd": 4.0 + k} for k in range(CANDIDATES)],
    }
    recipe = {"degradation": {"preset": "seesr", "seed": 5}, "distances": distances}
    return shown_run(run, audit=recipe)


def comparison_of(shown: Shown) -> AdapterComparison:
    found = compare_adapters(shown.run)
    assert found is not None
    return found


def test_the_words_give_the_change_its_interval_and_the_reward(shown: Shown) -> None:
    found = comparison_of(shown)
    words = render_findings(shown.run, found)
    assert found.interval is not None
    for part in (
        f"{found.mean_change:+.4f}</strong> mean reward change from SFT to DP2O over {CANDIDATES} seeds",
        f"{found.interval.low:+.4f} to {found.interval.high:+.4f}",
        "this one photo",
        "Full hybrid reward",
        "LPIPS (alex)",
        "fidelity weight 0.5",
        f"over the {2 * CANDIDATES} candidates of both adapters",
        "No metric was left out",
    ):
        assert part in words


def test_what_is_left_out_is_named_with_its_reason(shown: Shown) -> None:
    left_out = [{"name": "niqe", "reason": "needs at least 192 px a side, got 128 x 128"}]
    words = render_findings(shown_run(shown.run, left_out=left_out).run, None)
    assert "<strong>Left out:</strong> NIQE: needs at least 192 px a side, got 128 x 128" in words


def test_a_run_without_a_reference_is_not_called_a_full_hybrid(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128, before=True)
    words = render_findings(run, compare_adapters(run))
    assert "Reward without a reference" in words
    assert "Full hybrid" not in words
    assert render_photos(shown_run(run)) == ""


def test_the_charts_hold_the_comparisons_numbers(shown: Shown) -> None:
    found = comparison_of(shown)
    change, curves = change_chart(shown.run, found), curves_chart(shown.run, found)
    assert change is not None
    assert curves is not None
    (bars,) = change["figure"]["data"]
    assert list(bars["y"]) == [seed.change for seed in found.seeds]
    assert [list(pair) for pair in bars["customdata"]] == [[f"before-{k}", f"candidate-{k}"] for k in range(CANDIDATES)]
    drawn = {trace["name"]: list(trace["y"]) for trace in curves["figure"]["data"]}
    for name, by_kind in (("DP2O", found.after_curves), ("SFT", found.before_curves)):
        for kind in ("best", "mean", "worst"):
            assert drawn[f"{name}, {kind}"] == list(by_kind[kind].values())
    for chart in (change, curves):
        assert chart["summary"].endswith(".")
        assert "<table" in chart["table"]


def test_one_adapter_has_curves_and_no_change(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=4, size=128, reference=True)
    photos, words, seeds, change, curves = views(shown_run(run))
    assert change is None
    assert curves is not None
    rewards = [record.reward for record in run.candidates]
    wanted = reward_curves([np.array(rewards)], range(1, 5))
    assert {t["name"]: list(t["y"]) for t in curves["figure"]["data"]}["SFT, best"] == list(wanted["best"].values())
    assert re.findall(r'data-key="reward" data-value="(.*?)"', seeds["table"]) == [repr(reward) for reward in rewards]
    assert 'data-pin-left="reference"' in seeds["table"]
    assert "Full hybrid" in words
    assert "as given" in photos


def joined_by(run: Run, **scores: float) -> Run:
    """Return the run with the output of another tool in its ranking."""
    raw = {**run.candidates[0].scores, **scores}
    other = CandidateRecord(index=9, seed=None, source="other tool", file=run.candidates[0].file, scores=raw)
    return replace(run, candidates=(*run.candidates, other)).reranked(0.5)


def test_what_joined_is_not_among_the_candidates_that_an_adapter_draws(tmp_path: Path) -> None:
    """However good it is: no number of further seeds gives it."""
    run = write_run(tmp_path / "run", num_candidates=4, size=128, reference=True)
    joined = joined_by(run, lpips=0.0, niqe=0.0, vsi=1.0, ssimulacra2=90.0, brisque=0.0, piqe=0.0)
    assert joined.best is not None
    assert joined.best.source == "other tool"
    before, after = curves_chart(run, None), curves_chart(joined, None)
    assert before is not None
    assert after is not None
    drawn = [record.reward for record in joined.candidates if record.seed is not None]
    assert len(drawn) == 4
    wanted = reward_curves([np.array(drawn)], range(1, 5))
    for old, new in zip(before["figure"]["data"], after["figure"]["data"], strict=True):
        assert list(new["x"]) == list(old["x"]) == [1, 2, 3, 4]
        assert list(new["y"]) == list(wanted[new["name"].removeprefix("SFT, ")].values())
    assert "Candidates that joined" in after["note"]
    assert "Candidates that joined" not in before["note"]


def test_one_seed_and_what_joined_have_no_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=1, size=128, reference=True)
    joined = joined_by(run, lpips=0.1)
    assert all(record.reward is not None for record in joined.candidates)
    assert curves_chart(joined, None) is None


@pytest.mark.parametrize("compared", [True, False])
def test_no_metric_is_called_used_and_left_out_at_once(shown: Shown, compared: bool) -> None:
    """A metric that a joined candidate lacks is left out of the run's order, not of what the adapters drew."""
    gap = {"name": "niqe", "reason": "gives no value for other tool", "members": 1}
    metrics = [{"key": key} for key in shown.run.candidates[0].scores]
    run = shown_run(shown.run, left_out=[gap], metrics=metrics).run
    used, left = render_findings(run, compare_adapters(run) if compared else None).split("at fidelity weight")
    assert ("NIQE" in used) == compared
    assert ("Left out:</strong> NIQE" in left) == (not compared)
    assert ("No metric was left out" in left) == compared


def test_the_photos_come_with_their_recipe_and_can_be_downloaded(shown: Shown) -> None:
    html = render_photos(shown)
    assert "seesr, seed 5" in html
    assert "SeeSR, arXiv 2311.16518" in html
    assert "manual_seed(5)" in html
    assert html.count(" download=") == 2
    assert "reference.png" in html


def test_a_pair_is_shown_before_it_is_restored(shown: Shown, tmp_path: Path) -> None:
    pair = make_pair(shown.run.folder / "reference.png", tmp_path, Degradation(preset="bicubic"))
    html = render_pair(pair)
    assert pair.hq.name in html
    assert pair.lq.name in html
    assert "bicubic, seed 0" in html


@pytest.mark.parametrize(
    "recipe",
    [
        "words",
        {"degradation": "words"},
        {"degradation": {"preset": "<b>", "seed": "<i>"}},
        {"degradation": {"preset": "seesr", "seed": "<i>"}},
        {
            "degradation": {
                "preset": "seesr",
                "seed": 1,
                "drawn": [{"stage": "<b>", "step": 3, "values": {"<i>": "<b>"}}],
            }
        },
        {"degradation": {"preset": "seesr", "seed": 1, "drawn": [{"values": 3}, "<b>"]}},
        {"distances": 3},
        {"distances": {"candidates": [3], "before": [{"psnr": "<b>"}]}},
    ],
    ids=str,
)
def test_a_foreign_run_json_is_shown_without_trust(shown: Shown, recipe: object) -> None:
    foreign = shown_run(shown.run, audit=recipe)
    photos, words, seeds, _, _ = views(foreign)
    assert "<b>" not in photos + words + seeds["table"]
    assert "<i>" not in photos + words + seeds["table"]


def test_an_unfinished_run_shows_its_pictures_and_no_reward(shown: Shown) -> None:
    bare = tuple(replace(r, scores={}, before_scores={}, reward=None, rank=None) for r in shown.run.candidates)
    drawing = shown_run(replace(shown.run, candidates=bare), status="drawing")
    _, words, seeds, change, curves = views(drawing)
    assert (words, change, curves) == ("", None, None)
    assert seeds["table"].count("<img") == 2 * CANDIDATES
    for key in ("change", "reward-before", "reward-after"):
        assert seeds["table"].count(f'<td data-key="{key}">\u2013</td>') == CANDIDATES
