"""Laws of scoring a group."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from sr_core.errors import ConfigError, InputError, WeightsError
from sr_core.images import from_uint8, to_uint8
from sr_core.resampling import resize_clamped
from sr_core.rewards import GroupScorer, GroupScores, hybrid
from sr_core.rewards.registry import load_metric
from sr_core.tensors import Image

from .conftest import blurred, noisy, to_8bit

NO_REFERENCE = ("brisque", "niqe", "piqe")
CONSISTENCY = ("consistency_lpips", "consistency_vsi")


@pytest.fixture(scope="module")
def scorer() -> GroupScorer:
    return GroupScorer("offline")


@pytest.fixture(scope="module")
def group(photo: Image) -> Image:
    """Return five candidates of one photograph: itself, mixed with its blur, and noisy."""
    soft = blurred(photo)
    return torch.cat((photo, to_8bit((photo + soft) / 2), soft, noisy(photo, 4), noisy(photo, 15)))


@pytest.fixture(scope="module")
def lq(photo: Image) -> Image:
    return to_8bit(resize_clamped(photo, 72, 72))


@pytest.fixture(scope="module")
def scores(scorer: GroupScorer, group: Image, lq: Image) -> GroupScores:
    return scorer.score(group, lq=lq, reference=None)


def test_everything_offline_loads(scorer: GroupScorer) -> None:
    assert scorer.missing == ()


def test_without_a_reference_consistency_takes_the_reference_half(scores: GroupScores) -> None:
    assert tuple(scores.raw) == CONSISTENCY + NO_REFERENCE
    assert not scores.with_reference
    assert scores.reward is not None
    assert scores.reward.weights["consistency_lpips"] == 0.25
    assert scores.reward.weights["niqe"] == pytest.approx(1 / 6)
    assert {entry["half"] for entry in scores.metrics if entry["consistency"]} == {"reference"}


def test_with_a_reference_the_reference_half_compares_with_it(
    scorer: GroupScorer, group: Image, lq: Image, photo: Image
) -> None:
    result = scorer.score(group, lq=lq, reference=photo)
    assert result.with_reference
    assert tuple(result.raw) == ("lpips", "ssimulacra2", "vsi", *NO_REFERENCE)
    assert result.raw["lpips"][0] == pytest.approx(0, abs=1e-6)
    assert result.raw["ssimulacra2"][0] == 100
    assert result.reward is not None
    assert result.reward.ranks is not None
    assert result.reward.ranks[0] == 1


def test_with_neither_reference_nor_lq_the_no_reference_half_is_all_and_it_is_said(
    scorer: GroupScorer, group: Image
) -> None:
    result = scorer.score(group[:2], lq=None, reference=None)
    assert tuple(result.raw) == NO_REFERENCE
    assert result.reward is not None
    assert any("only the no-reference half" in notice for notice in result.reward.notices)


def test_consistency_is_the_metric_between_the_reduced_candidate_and_the_lq(
    scores: GroupScores, group: Image, lq: Image
) -> None:
    with torch.inference_mode():
        expected = load_metric("lpips")(resize_clamped(group, 72, 72), lq)
    np.testing.assert_allclose(scores.raw["consistency_lpips"], expected.numpy(), atol=1e-6)


def test_a_candidate_that_reduces_to_the_lq_is_the_most_consistent(scores: GroupScores) -> None:
    assert scores.raw["consistency_lpips"][0] == min(scores.raw["consistency_lpips"])
    assert scores.raw["consistency_lpips"][0] < 1e-3


def test_raw_scores_do_not_depend_on_the_company(
    scorer: GroupScorer, scores: GroupScores, group: Image, lq: Image
) -> None:
    alone = scorer.score(group[3:4], lq=lq, reference=None)
    for key, values in alone.raw.items():
        assert values[0] == pytest.approx(scores.raw[key][3], abs=1e-4, rel=1e-5)


def test_one_candidate_is_scored_but_not_ranked(scorer: GroupScorer, photo: Image, lq: Image) -> None:
    result = scorer.score(photo, lq=lq, reference=None)
    assert result.reward is None
    assert all(len(values) == 1 for values in result.raw.values())


def test_permuting_the_candidates_permutes_scores_and_ranks(
    scorer: GroupScorer, scores: GroupScores, group: Image, lq: Image
) -> None:
    order = [3, 0, 4, 2, 1]
    permuted = scorer.score(group[order], lq=lq, reference=None)
    assert scores.reward is not None
    assert permuted.reward is not None
    assert scores.reward.ranks is not None
    for key, values in scores.raw.items():
        np.testing.assert_allclose(permuted.raw[key], np.array(values)[order], atol=1e-5)
    assert permuted.reward.ranks == tuple(scores.reward.ranks[m] for m in order)


def test_scores_are_those_of_the_8_bit_pixels(scorer: GroupScorer, group: Image, lq: Image) -> None:
    unrounded = group[1:3] + 0.3 / 255
    files = [to_uint8(image[None]) for image in unrounded]
    assert scorer.score(unrounded, lq=lq, reference=None).raw == scorer.score(files, lq=lq, reference=None).raw


def test_scoring_leaves_the_callers_pixels_alone(scorer: GroupScorer, group: Image, lq: Image) -> None:
    files = [to_uint8(image[None]) for image in group[:2]]
    before = [file.copy() for file in files]
    scorer.score(files, lq=lq, reference=None)
    assert all((a == b).all() for a, b in zip(files, before, strict=True))


def test_provenance_is_json_and_says_how_to_read_each_score(scores: GroupScores) -> None:
    entries = json.loads(json.dumps(scores.metrics))
    assert [entry["key"] for entry in entries] == list(scores.raw)
    niqe = next(entry for entry in entries if entry["key"] == "niqe")
    assert niqe["half"] == "no_reference"
    assert niqe["lower_is_better"] is True
    assert niqe["crops"] == [[0, 0, 288, 288]]
    assert len(niqe["sha256"]) == 64
    consistency = next(entry for entry in entries if entry["key"] == "consistency_vsi")
    assert consistency["crops"] == [[0, 0, 72, 72]]


def test_below_its_smallest_side_a_metric_is_left_out_visibly(scorer: GroupScorer, group: Image, lq: Image) -> None:
    small = group[:3, :, :128, :128]
    result = scorer.score(small, lq=lq[:, :, :32, :32], reference=None)
    assert "niqe" not in result.raw
    assert result.left_out == [{"name": "niqe", "reason": "needs at least 192 px a side, got 128 x 128"}]
    assert result.reward is not None
    assert result.reward.weights["piqe"] == 0.25


def test_a_score_that_is_not_finite_is_left_out_visibly(scorer: GroupScorer, photo: Image, lq: Image) -> None:
    grey = torch.full_like(photo, 0.5)
    result = scorer.score(torch.cat((photo, grey, noisy(photo, 4))), lq=lq, reference=None)
    assert {entry["name"] for entry in result.left_out} == {"brisque", "niqe"}
    assert all("not finite" in entry["reason"] for entry in result.left_out)
    assert all(np.isfinite(values).all() for values in result.raw.values())


def test_a_metric_that_cannot_load_is_left_out_with_what_it_needs(
    group: Image, lq: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_all_but_piqe(name: str, device: str):
        if name == "piqe":
            raise WeightsError("needs the file piqe.bin in some folder")
        return load_metric(name, device)

    monkeypatch.setattr(hybrid, "load_metric", load_all_but_piqe)
    scorer = GroupScorer("offline")
    assert [metric.name for metric in scorer.missing] == ["piqe"]
    result = scorer.score(group[:2], lq=lq, reference=None)
    assert result.left_out == [{"name": "piqe", "reason": "needs the file piqe.bin in some folder"}]
    assert "piqe" not in result.raw
    assert result.reward is not None
    assert result.reward.weights["niqe"] == 0.25


def test_large_candidates_are_scored_on_the_same_crops_and_averaged(
    scorer: GroupScorer, photo: Image, lq: Image
) -> None:
    wide = photo[:, :, :192].repeat(1, 1, 1, 4)[..., :1100]
    large = [to_uint8(noisy(wide, sigma)) for sigma in (2, 6)]
    result = scorer.score(large, lq=lq, reference=None)
    niqe = next(entry for entry in result.metrics if entry["key"] == "niqe")
    assert niqe["crops"] == [[0, 0, 192, 512], [0, 294, 192, 512], [0, 588, 192, 512]]
    metric = load_metric("niqe")
    crops = [np.ascontiguousarray(large[1][:, left : left + 512]) for _, left, _, _ in niqe["crops"]]
    expected = np.mean([metric(from_uint8(crop), None).item() for crop in crops])
    assert result.raw["niqe"][1] == pytest.approx(expected, abs=1e-5)


def test_a_crop_without_structure_in_one_candidate_is_left_out_for_all(scorer: GroupScorer, photo: Image) -> None:
    wide = photo[:, :, :192].repeat(1, 1, 1, 4)[..., :1100]
    flat = wide.clone()
    flat[..., 588:] = 0.5
    result = scorer.score(torch.cat((wide, flat)), lq=None, reference=None)
    niqe = next(entry for entry in result.metrics if entry["key"] == "niqe")
    assert [crop[1] for crop in niqe["crops"]] == [0, 294]


def test_candidates_of_two_sizes_or_none_are_refused(scorer: GroupScorer, group: Image, lq: Image) -> None:
    files = [to_uint8(group[:1]), to_uint8(group[:1, :, :200])]
    for bad in (files, []):
        with pytest.raises(InputError, match="one size"):
            scorer.score(bad, lq=lq, reference=None)


def test_a_reference_of_another_size_is_refused(scorer: GroupScorer, group: Image, lq: Image) -> None:
    with pytest.raises(InputError, match="reference must have"):
        scorer.score(group, lq=lq, reference=lq)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="offline"):
        GroupScorer("ofline")


def test_the_slider_reaches_the_reward(scorer: GroupScorer, scores: GroupScores, group: Image, lq: Image) -> None:
    faithful = scorer.score(group, lq=lq, reference=None, fidelity_weight=1.0)
    assert faithful.raw == scores.raw
    assert faithful.reward is not None
    assert faithful.reward.weights["piqe"] == 0
    assert asdict(faithful)["with_reference"] is False
