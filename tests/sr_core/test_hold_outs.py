"""Laws of hold-outs on a run of real files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from sr_core.errors import InputError
from sr_core.hold_outs import LSD, HoldOuts, hold_out_term, take_hold_outs
from sr_core.images import from_uint8, to_uint8
from sr_core.resampling import resize_clamped
from sr_core.rewards import GroupScorer
from sr_core.rewards.registry import load_metric
from sr_core.runs import CandidateRecord, Run
from sr_core.scoring import local_pixels
from sr_core.spectra import log_spectral_distance

NUM_CANDIDATES = 4
SIDE = 256


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a scored run with a reference: its candidates are the true photo with more and more noise."""
    folder = tmp_path_factory.mktemp("run")
    with PillowImage.open(photos / "eval" / "472_bluebird.png") as image:
        truth = np.asarray(image.convert("RGB").crop((128, 64, 128 + SIDE, 64 + SIDE)))
    lq = to_uint8(resize_clamped(from_uint8(truth), SIDE // 4, SIDE // 4))
    PillowImage.fromarray(truth).save(folder / "reference.png")
    PillowImage.fromarray(lq).save(folder / "input.png")
    noise = np.random.default_rng(0).normal(size=truth.shape)
    records = []
    for i in range(NUM_CANDIDATES):
        pixels = np.clip(truth + 4 * (i + 1) * noise, 0, 255).round().astype(np.uint8)
        PillowImage.fromarray(pixels).save(folder / f"{i}.png")
        scores = {"niqe": 4.0 + i, "lpips": 0.1 * i}
        records.append(CandidateRecord(index=i, seed=i, scores=scores, file=f"{i}.png"))
    values = {"input": {"file": "input.png"}, "reference": True, "fidelity_weight": 0.5}
    return Run(folder=folder, values=values, candidates=tuple(records)).reranked(0.5)


@pytest.fixture(scope="module")
def found(run: Run) -> HoldOuts:
    return take_hold_outs(run)


def without_reference(run: Run) -> Run:
    return Run(folder=run.folder, values={**run.values, "reference": False}, candidates=run.candidates)


def test_with_a_reference_they_are_the_metrics_own_values(run: Run, found: HoldOuts) -> None:
    assert found.with_reference
    assert set(found.raw) == {"lsd", "psnr", "st_lpips", "piqe"} - set(found.left_out)
    images = torch.cat([from_uint8(local_pixels(run.path(record))) for record in run.candidates])
    truth = from_uint8(local_pixels(run.folder / "reference.png"))
    np.testing.assert_allclose(found.raw["psnr"], load_metric("psnr")(images, truth).numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.raw["piqe"], load_metric("piqe")(images, None).numpy(), rtol=1e-6)
    expected = log_spectral_distance(images, truth.expand_as(images)).numpy()
    np.testing.assert_allclose(found.raw["lsd"], expected, rtol=1e-4)


def test_more_noise_is_farther_from_the_reference_in_pixels_and_spectrum(found: HoldOuts) -> None:
    for key in ("psnr", "lsd"):
        values = found.normalised[key]
        assert values.tolist() == sorted(values, reverse=True)
        assert (values.max(), values.min()) == (1, 0)


def test_without_a_reference_the_reduced_candidates_are_compared_with_the_input(run: Run) -> None:
    alone = without_reference(run)
    found = take_hold_outs(alone)
    assert not found.with_reference
    assert set(found.raw) | set(found.left_out) == {
        "consistency_lsd",
        "consistency_psnr",
        "consistency_st_lpips",
        "piqe",
    }
    lq = from_uint8(local_pixels(run.folder / "input.png"))
    reduced = resize_clamped(from_uint8(local_pixels(run.path(run.candidates[2]))), *lq.shape[-2:])
    assert found.raw["consistency_psnr"][2] == pytest.approx(float(load_metric("psnr")(reduced, lq)), rel=1e-5)
    assert found.raw["consistency_lsd"][2] == pytest.approx(float(log_spectral_distance(reduced, lq)), rel=1e-4)


def test_a_metric_of_the_ranking_is_no_hold_out(run: Run) -> None:
    records = tuple(
        CandidateRecord(index=r.index, seed=r.seed, file=r.file, scores={**r.scores, "piqe": 30.0})
        for r in run.candidates
    )
    found = take_hold_outs(Run(folder=run.folder, values=run.values, candidates=records))
    assert "piqe" not in found.raw


def test_each_candidate_has_a_row_of_its_spectrum(found: HoldOuts) -> None:
    assert found.decibels.shape == (NUM_CANDIDATES, SIDE // 2)
    assert (np.diff(found.decibels[:, -32:].mean(axis=1)) > 0).all()


def test_a_candidate_without_scores_has_no_row(run: Run) -> None:
    bare = CandidateRecord(index=9, seed=9, file="0.png")
    found = take_hold_outs(Run(folder=run.folder, values=run.values, candidates=(bare, *run.candidates)))
    assert len(found.raw["psnr"]) == NUM_CANDIDATES
    with pytest.raises(InputError, match="scored"):
        take_hold_outs(Run(folder=run.folder, values=run.values, candidates=(bare,)))


def test_lower_spectral_distance_is_better_with_and_without_a_reference() -> None:
    assert hold_out_term(LSD) == hold_out_term(f"consistency_{LSD}")
    assert hold_out_term(LSD).lower_is_better
    assert not hold_out_term("psnr").lower_is_better


def test_a_scorer_takes_a_set_by_name_or_as_it_is() -> None:
    named = GroupScorer("offline")
    assert GroupScorer(named.metric_set).keys(with_reference=True) == named.keys(with_reference=True)
