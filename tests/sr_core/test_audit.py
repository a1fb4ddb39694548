import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sr_core.adapter_comparison import compare_adapters
from sr_core.audit import (
    AuditPair,
    Degradation,
    audit,
    audit_job,
    degraded,
    distances_to,
    make_pair,
    plan_audit,
    smallest_side,
    too_small_for,
)
from sr_core.degradations import PRESETS, degrade
from sr_core.errors import ConfigError, InputError
from sr_core.images import read_image, read_marker, write_image
from sr_core.job import Job
from sr_core.resampling import resize_clamped
from sr_core.rewards.registry import METRIC_SETS
from sr_core.runs import Run
from sr_core.scoring import score_files
from tests.lora import installed

TINY: dict[str, Any] = {"num_candidates": 2, "num_steps": 1, "dtype": "float32", "metric_set": "train_offline"}


@pytest.fixture(scope="module")
def hq(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a photograph whose sides are no multiples of 4."""
    path = tmp_path_factory.mktemp("photo") / "bird.png"
    write_image(path, read_image(photos / "eval" / "472_bluebird.png").pixels[..., 128:259, 180:323], format="png")
    return path


def resized(photo: Path, folder: Path, width: int, height: int) -> Path:
    path = folder / f"{width}x{height}.png"
    write_image(path, resize_clamped(read_image(photo).pixels, height, width), format="png")
    return path


def finished(pair: AuditPair, folder: Path, job: Job) -> Run:
    *_, last = audit(pair, folder, job)
    return last.run


@pytest.mark.parametrize("preset", PRESETS)
def test_a_degradation_is_a_function_of_its_seed(hq: Path, preset: str) -> None:
    pixels = read_image(hq).pixels[..., :128, :140]
    first, again, other = (degraded(pixels, Degradation(preset=preset, seed=seed)).lq for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert tuple(first.shape) == (1, 3, 32, 35)
    # The plain bicubic reduction draws nothing.
    assert torch.equal(first, other) == (preset == "bicubic")


def test_the_pair_on_disk_makes_itself_again(hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path, Degradation(preset="seesr", seed=5))
    reference, lq = (read_image(path).pixels for path in (pair.hq, pair.lq))
    made = degrade(reference, "seesr", generator=torch.Generator().manual_seed(5))
    assert torch.equal(lq, made)
    recipe = pair.recipe["degradation"]
    assert (recipe["preset"], recipe["seed"], recipe["scale"]) == ("seesr", 5, 4)
    assert json.loads(json.dumps(recipe["parameters"]))["first"]["jpeg_range"] == [60.0, 95.0]


def test_the_photo_is_cut_to_multiples_of_four_and_says_so(hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path, Degradation())
    assert pair.size == (140, 128)
    assert pair.recipe["window"] == [1, 1, 140, 128]
    assert "middle 140 x 128 px of 143 x 131" in pair.notices[0]
    whole = read_image(hq).pixels
    assert torch.equal(read_image(pair.hq).pixels, whole[..., 1:129, 1:141])


def test_a_side_limits_the_part_that_is_used(hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path, Degradation(side=128))
    assert (pair.size, pair.recipe["window"]) == ((128, 128), [7, 1, 128, 128])
    assert "at most 128 px" in pair.notices[0]


def test_neither_photo_is_marked_as_made_with_a_model(hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path, Degradation())
    assert read_marker(pair.hq) is read_marker(pair.lq) is None


def test_a_plan_says_what_the_pair_will_be(hq: Path, tmp_path: Path) -> None:
    for degradation in (Degradation(), Degradation(side=128)):
        plan, pair = plan_audit(hq, degradation), make_pair(hq, tmp_path / str(degradation.side), degradation)
        lq = read_image(pair.lq)
        assert (plan.hq_size, plan.lq_size) == (pair.size, (lq.width, lq.height))
        assert pair.notices[: len(plan.words)] == plan.words


def test_a_photo_that_is_too_small_is_refused_with_numbers(hq: Path, tmp_path: Path) -> None:
    small = resized(hq, tmp_path, 200, 120)
    with pytest.raises(InputError, match=r"at least 128 px a side, got 200 x 120 .*quarter.*32 px"):
        plan_audit(small, Degradation())
    # Given an LQ, the least side is what the metrics need.
    lq = resized(hq, tmp_path, 50, 30)
    assert plan_audit(small, Degradation(), lq=resized(hq, tmp_path, 100, 60)).hq_size == (200, 120)
    tiny = resized(hq, tmp_path, 60, 36)
    with pytest.raises(InputError, match=r"at least 64 px a side, got 60 x 36 \(the metric set offline is trusted"):
        plan_audit(tiny, Degradation(), lq=lq)


@pytest.mark.parametrize("name", METRIC_SETS)
def test_at_the_least_side_both_halves_have_a_trusted_metric(name: str) -> None:
    chosen, least = METRIC_SETS[name], smallest_side(name)
    count = len(chosen.full_reference) + len(chosen.no_reference)
    assert len(too_small_for((least, least), name)) <= count - 2
    assert too_small_for((4096, 4096), name) == {}
    assert all(side > least for side in too_small_for((least, 4096), name).values())


@pytest.mark.parametrize("size", [(70, 65), (71, 66), (143, 131), (36, 33)])
def test_a_given_lq_of_the_photos_shape_is_taken_as_it_is(hq: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    lq = resized(hq, tmp_path, *size)
    pair = make_pair(hq, tmp_path / "pair", Degradation(), lq=lq)
    assert (pair.lq, pair.size) == (lq, (143, 131))
    assert torch.equal(read_image(pair.hq).pixels, read_image(hq).pixels)
    assert pair.recipe["lq"]["name"] == lq.name
    assert "degradation" not in pair.recipe


def test_a_given_lq_of_another_shape_is_refused_with_numbers(hq: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="143 x 131 px reduced to 70 px across is 70 x 64, got 70 x 50"):
        plan_audit(hq, Degradation(), lq=resized(hq, tmp_path, 70, 50))
    with pytest.raises(InputError, match="were they swapped"):
        plan_audit(hq, Degradation(), lq=resized(hq, tmp_path, 286, 262))


@pytest.mark.parametrize(
    "settings", [{"preset": "nothing"}, {"seed": -1}, {"side": 130}, {"side": 64}], ids=lambda s: "-".join(s)
)
def test_a_degradation_that_cannot_be_drawn_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Degradation(**settings)


@pytest.fixture(scope="module", autouse=True)
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install `hpo`, a LoRA that changes the head, and `nothing`, one at zero."""
    with installed(tmp_path_factory.mktemp("assets"), hpo=0.1, nothing=0.0):
        yield


@pytest.fixture(scope="module")
def compared(hq: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished audit of two adapters on two seeds."""
    folder = tmp_path_factory.mktemp("audit")
    pair = make_pair(hq, folder / "pair", Degradation(preset="bicubic"))
    return finished(pair, folder / "run", Job(**TINY, adapter="hpo", compare_adapter="sft"))


def test_the_reward_is_the_full_hybrid_and_the_run_reopens_with_its_recipe(compared: Run) -> None:
    run = Run.open(compared.folder)
    assert run.candidates == compared.candidates
    assert run.values == json.loads(json.dumps(compared.values))
    assert run.values["reference"] is True
    assert run.values["size"] == [140, 128]
    assert {metric["half"] for metric in run.values["metrics"]} == {"reference", "no_reference"}
    assert run.values["audit"]["degradation"]["preset"] == "bicubic"
    assert any("middle 140 x 128" in notice for notice in run.values["notices"])


def test_scoring_the_files_alone_gives_the_same_raw_numbers(compared: Run) -> None:
    found = compare_adapters(compared)
    assert found is not None
    reference = compared.folder / "reference.png"
    for files, scores in (
        ([record.file for record in compared.candidates], [record.scores for record in compared.candidates]),
        ([record.before for record in compared.candidates], [record.before_scores for record in compared.candidates]),
    ):
        paths = [compared.folder / str(file) for file in files]
        answer = score_files(paths, reference=reference, metric_set="train_offline")
        assert [row["scores"] for row in answer["images"]] == [dict(entry) for entry in scores]
    # All images of both adapters scored as one group are the union.
    union = [compared.folder / str(r.file) for r in compared.candidates]
    union += [compared.folder / str(r.before) for r in compared.candidates]
    rows = score_files(union, reference=reference, metric_set="train_offline")["images"]
    rewards = [seed.after for seed in found.seeds] + [seed.before for seed in found.seeds]
    np.testing.assert_allclose([row["reward"] for row in rows], rewards)


def test_distances_are_those_of_the_files_to_the_reference(compared: Run) -> None:
    reference = read_image(compared.folder / "reference.png").pixels
    stored = compared.values["audit"]["distances"]
    for record, own, other in zip(compared.candidates, stored["candidates"], stored["before"], strict=True):
        assert own == distances_to(reference, compared.folder / str(record.file))
        assert other == distances_to(reference, compared.folder / str(record.before))
        assert own != other
        error = (read_image(compared.folder / str(record.file)).pixels - reference).square().mean().double()
        assert own["psnr"] == pytest.approx(float(-10 * torch.log10(error)), abs=1e-4)
    itself = distances_to(reference, compared.folder / "reference.png")
    assert itself == {"psnr": 100.0, "lsd": 0.0}


def test_an_adapter_at_zero_changes_no_seed(hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path / "pair", Degradation(preset="bicubic"))
    run = finished(pair, tmp_path / "run", Job(**TINY, adapter="nothing", compare_adapter="sft"))
    found = compare_adapters(run)
    assert found is not None
    assert [seed.change for seed in found.seeds] == [0.0, 0.0]


def test_swapping_the_adapters_negates_the_change_of_every_seed(compared: Run, hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path / "pair", Degradation(preset="bicubic"))
    run = finished(pair, tmp_path / "run", Job(**TINY, adapter="sft", compare_adapter="hpo"))
    there, back = compare_adapters(compared), compare_adapters(run)
    assert there is not None
    assert back is not None
    assert any(seed.change for seed in there.seeds)
    np.testing.assert_allclose([s.change for s in there.seeds], [-s.change for s in back.seeds])


def test_without_a_second_adapter_an_audit_is_a_ranked_run(hq: Path, tmp_path: Path) -> None:
    lq = resized(hq, tmp_path, 60, 55)
    pair = make_pair(hq, tmp_path / "pair", Degradation(), lq=lq)
    run = finished(pair, tmp_path / "run", Job(**TINY))
    assert run.values["size"] == [143, 131]
    assert (run.folder / "input.png").read_bytes() == lq.read_bytes()
    assert all(record.rank is not None for record in run.candidates)
    assert compare_adapters(run) is None
    assert run.values["audit"]["distances"]["before"] == [None, None]


def test_a_stopped_audit_keeps_its_recipe(hq: Path, tmp_path: Path) -> None:
    pair = make_pair(hq, tmp_path / "pair", Degradation())
    drawn: list[int] = []
    steps = audit(
        pair,
        tmp_path / "run",
        Job(**{**TINY, "num_candidates": 8}, adapter="hpo", compare_adapter="sft"),
        stop=lambda: len(drawn) >= 2,
    )
    for progress in steps:
        drawn[:] = range(len(progress.run.candidates))
        assert progress.run.values["audit"]["degradation"]["preset"] == "real-esrgan"
    stored = Run.open(tmp_path / "run")
    assert stored.values["status"] == "stopped"
    assert len(stored.values["audit"]["distances"]["candidates"]) == len(stored.candidates) < 8


def test_the_job_gets_the_references_size(hq: Path) -> None:
    plan = plan_audit(hq, Degradation())
    assert audit_job(Job(scale=2.0), plan) == replace(Job(scale=2.0), size=(140, 128))
