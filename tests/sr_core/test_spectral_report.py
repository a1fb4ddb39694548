"""Spectra of a real run's files: the same numbers as the library's functions give for the same pixels."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_core.audit import distances_to
from sr_core.errors import InputError
from sr_core.hold_outs import LSD, take_hold_outs
from sr_core.images import from_uint8, read_image, write_image
from sr_core.resampling import resize_clamped
from sr_core.runs import Run
from sr_core.scoring import local_pixels
from sr_core.sobolev import sobolev_energy, sobolev_weights
from sr_core.spectra import (
    BAND_WIDTH,
    dct_power,
    fidelity_levels,
    log_spectral_distance,
    luma,
    nyquist,
    on_grid,
    radial_mean,
    ring_means,
    ring_sums,
    rings,
    windowed_power,
)
from sr_core.spectral_report import (
    BASES,
    MAX_PIXELS,
    centre_crop,
    pair_bands,
    run_pictures,
    spectral_report,
    weight_curve,
)
from sr_core.tensors import Image
from tests.explorer_run import write_run

CANDIDATES = ["candidate-0", "candidate-1", "candidate-2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "plain", num_candidates=3, size=128)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "audited", num_candidates=3, size=128, reference=True)


def pixels_of(run: Run, picture: str) -> Image:
    return from_uint8(local_pixels(run_pictures(run)[picture]))


def without(run: Run, key: str) -> Run:
    return replace(run, values={name: value for name, value in run.values.items() if name != key})


def test_every_picture_of_the_run_has_a_spectrum(run: Run, audited: Run) -> None:
    assert list(spectral_report(run).pictures) == ["input", "prior", *CANDIDATES]
    assert set(spectral_report(audited).pictures) == {"input", "prior", "reference", *CANDIDATES}
    assert list(spectral_report(without(run, "prior")).pictures) == ["input", *CANDIDATES]


def test_a_failed_candidate_has_none(run: Run) -> None:
    failed = replace(run.candidates[1], file=None, problem="not finite")
    less = replace(run, candidates=(run.candidates[0], failed, run.candidates[2]))
    assert "candidate-1" not in spectral_report(less).pictures
    with pytest.raises(InputError, match="candidate 2"):
        pair_bands(less, 1, 0, 1.5)


def test_the_powers_hold_the_energy_of_the_files_pixels(run: Run) -> None:
    report = spectral_report(run)
    for picture in ("prior", "candidate-2"):
        sums = ring_sums(dct_power(luma(pixels_of(run, picture))), rings((128, 128), "dct"))
        low = report.pictures[picture].power["dct"][:3]
        np.testing.assert_allclose(low, (sums / rings((128, 128), "dct").num_inside)[0, 1:4].numpy(), rtol=1e-6)


def test_low_frequencies_of_the_fft_are_the_bins_of_the_distance(run: Run) -> None:
    power = spectral_report(run).pictures["candidate-0"].power["fft"][:5]
    bins = radial_mean(windowed_power(luma(pixels_of(run, "candidate-0"))))[0, 1:6]
    np.testing.assert_allclose(power, bins.numpy(), rtol=1e-5)


def test_the_distance_to_a_reference_is_the_librarys(audited: Run) -> None:
    report = spectral_report(audited)
    assert report.target == "reference"
    reference = pixels_of(audited, "reference")
    for picture in (*CANDIDATES, "prior"):
        expected = float(log_spectral_distance(pixels_of(audited, picture), reference))
        assert report.pictures[picture].distance == expected
    assert report.pictures["reference"].distance == 0


def test_every_view_has_one_distance_to_the_reference_however_large_the_picture(
    audited: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sr_core.spectral_report.MAX_PIXELS", 64 * 64)
    report, checked = spectral_report(audited), take_hold_outs(audited)
    assert not report.crop.whole
    reference = pixels_of(audited, "reference")
    for record, checks in zip(audited.candidates, checked.raw[LSD].tolist(), strict=True):
        shown = report.pictures[f"candidate-{record.index}"].distance
        assert shown == checks == distances_to(reference, audited.path(record))["lsd"]


def test_without_a_reference_the_distance_is_to_the_input_below_its_nyquist(run: Run) -> None:
    report = spectral_report(run)
    assert report.target == "input"
    assert report.nyquist == nyquist((32, 32), (128, 128)) == 0.125
    lq = luma(read_image(run_pictures(run)["input"]).pixels)
    own = on_grid(ring_means(windowed_power(lq), rings((32, 32), "fft", (128, 128))), (32, 32), (128, 128))
    parts = rings((128, 128), "fft")
    means = ring_means(windowed_power(luma(pixels_of(run, "candidate-1"))), parts)
    levels = fidelity_levels(means, own, parts, 0.125)
    found = report.pictures["candidate-1"]
    assert found.distance == pytest.approx(float(levels.square().mean().sqrt()))
    assert found.fidelity["fft"] == pytest.approx(float(levels.mean()))


def test_more_noise_is_more_invention(run: Run) -> None:
    report = spectral_report(run)
    for basis in BASES:
        shares = [report.pictures[picture].share[basis] for picture in ("input", *CANDIDATES)]
        assert shares == sorted(shares)
        levels = [report.pictures[picture].level[basis] for picture in ("input", *CANDIDATES)]
        assert levels == sorted(levels)


def test_levels_change_their_base_at_the_inputs_nyquist(run: Run) -> None:
    report = spectral_report(run)
    for basis in BASES:
        below = len(report.lq_power[basis])
        assert (report.frequency[basis][:below] < report.nyquist).all()
        assert report.frequency[basis][below] == pytest.approx(report.nyquist, rel=0.15)
        levels, power = report.relative("candidate-0", basis), report.pictures["candidate-0"].power[basis]
        np.testing.assert_allclose(levels[:below], 10 * np.log10(power[:below] / report.lq_power[basis]), atol=0.01)
        np.testing.assert_allclose(levels[below:], 10 * np.log10(power / report.guide[basis])[below:], atol=0.01)


def test_the_guide_falls_by_six_decibels_an_octave_and_meets_the_input_at_low_frequencies(run: Run) -> None:
    report = spectral_report(run)
    guide, frequency = report.guide["dct"], report.frequency["dct"]
    np.testing.assert_allclose(guide * frequency**2, guide[0] * frequency[0] ** 2)
    low = (frequency > frequency[0]) & (frequency <= report.nyquist / 4)
    ratio = np.log10(report.lq_power["dct"][low[: len(report.lq_power["dct"])]] / guide[low])
    assert abs(float(ratio.mean())) < 0.3


@pytest.mark.parametrize("exponent", [0, 0.5, 1.5, 3.0])
def test_the_bands_of_a_pair_add_up_to_the_objectives_differences(audited: Run, exponent: float | int) -> None:
    reference = pixels_of(audited, "reference").double()
    winner, loser = (pixels_of(audited, name).double() - reference for name in ("candidate-0", "candidate-2"))
    bands = pair_bands(audited, 0, 2, exponent)
    assert bands.target == "reference"
    mean_squares = float(loser.square().mean() - winner.square().mean())
    energies = float((sobolev_energy(loser, float(exponent)) - sobolev_energy(winner, float(exponent)))[0])
    assert bands.plain.sum() == pytest.approx(mean_squares, rel=1e-5)
    assert bands.sobolev.sum() == pytest.approx(energies, rel=1e-5)
    assert len(bands.edges) == len(bands.plain) + 1
    np.testing.assert_allclose(np.diff(bands.edges), BAND_WIDTH)


def test_both_objectives_see_the_same_at_exponent_zero(run: Run) -> None:
    bands = pair_bands(run, 0, 1, 0)
    np.testing.assert_array_equal(bands.plain, bands.sobolev)


def test_swapping_winner_and_loser_negates_every_band(run: Run) -> None:
    one, other = pair_bands(run, 0, 2, 1.5), pair_bands(run, 2, 0, 1.5)
    np.testing.assert_array_equal(one.plain, -other.plain)
    np.testing.assert_array_equal(one.sobolev, -other.sobolev)


def test_residuals_are_taken_from_the_best_that_is_there(run: Run) -> None:
    from_prior = pair_bands(run, 0, 1, 1.0)
    assert from_prior.target == "prior"
    expected = pixels_of(run, "candidate-1") - pixels_of(run, "prior")
    other = pixels_of(run, "candidate-0") - pixels_of(run, "prior")
    assert from_prior.plain.sum() == pytest.approx(float(expected.square().mean() - other.square().mean()), rel=1e-4)
    from_input = pair_bands(without(run, "prior"), 0, 1, 1.0)
    assert from_input.target == "input"
    enlarged = resize_clamped(read_image(run_pictures(run)["input"]).pixels, 128, 128)
    winner, loser = ((pixels_of(run, name) - enlarged).square().mean() for name in CANDIDATES[:2])
    assert from_input.plain.sum() == pytest.approx(float(loser - winner), rel=1e-4)


def test_the_weight_curve_is_the_weights_along_one_axis(run: Run) -> None:
    frequency, weights = weight_curve(run, 1.5)
    np.testing.assert_array_equal(weights, sobolev_weights(128, 128, 1.5)[:, 0].numpy())
    assert frequency[64] == 0.25
    assert (weight_curve(run, 0)[1] == 1).all()


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128)
    before = spectral_report(run)
    assert spectral_report(run) is before
    write_image(run.path(run.candidates[0]), pixels_of(run, "candidate-1").flip(-1) * 0.5, format="png")
    after = spectral_report(run)
    assert after.pictures["candidate-0"].fidelity["dct"] < before.pictures["candidate-0"].fidelity["dct"] - 3
    assert after.pictures["candidate-1"].share == before.pictures["candidate-1"].share


@pytest.mark.parametrize(
    ("lq_size", "size"), [((512, 512), (2048, 2048)), ((300, 700), (1200, 2800)), ((1000, 1500), (1500, 2250))]
)
def test_a_crop_keeps_shape_scale_and_limit(lq_size: tuple[int, int], size: tuple[int, int]) -> None:
    crop = centre_crop(lq_size, size)
    assert not crop.whole
    assert 0.97 * MAX_PIXELS < math.prod(crop.size) <= MAX_PIXELS
    assert crop.size[0] / crop.lq_size[0] == pytest.approx(size[0] / lq_size[0], rel=1e-3)
    assert crop.size[1] / crop.size[0] == pytest.approx(size[1] / size[0], rel=1e-2)


@pytest.mark.parametrize(
    ("lq_size", "size"),
    [((401, 401), (1604, 1604)), ((601, 333), (2404, 1332)), ((999, 1503), (1998, 3006)), ((1002, 999), (1503, 1665))],
)
def test_the_crops_of_input_and_output_show_the_same_place(lq_size: tuple[int, int], size: tuple[int, int]) -> None:
    crop = centre_crop(lq_size, size)
    assert not crop.whole
    for axis in (0, 1):
        for lq_edge, edge in (
            (crop.lq_corner[axis], crop.corner[axis]),
            (crop.lq_corner[axis] + crop.lq_size[axis], crop.corner[axis] + crop.size[axis]),
        ):
            assert lq_edge * size[axis] == edge * lq_size[axis]
        assert abs(2 * crop.corner[axis] + crop.size[axis] - size[axis]) <= 0.02 * size[axis]


def test_sides_without_a_common_divisor_agree_to_half_a_pixel() -> None:
    crop = centre_crop((401, 400), (1603, 1599))
    for lq_length, length, lq_start, start in zip((401, 400), (1603, 1599), crop.lq_corner, crop.corner, strict=True):
        assert abs(lq_start * length / lq_length - start) <= 0.5


def test_a_pair_is_compared_with_the_enlarged_input_at_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd sides: a picture that is the enlarged input itself has no residual, wherever the crop lies."""
    monkeypatch.setattr("sr_core.spectral_report.MAX_PIXELS", 64 * 64)
    run = without(write_run(tmp_path / "run", num_candidates=2, size=132), "prior")
    enlarged = resize_clamped(read_image(run_pictures(run)["input"]).pixels, 132, 132)
    write_image(run.path(run.candidates[0]), enlarged, format="png")
    other = (pixels_of(run, "candidate-1") - enlarged)[..., 32:96, 32:96].square().mean()
    assert pair_bands(run, 0, 1, 0).plain.sum() == pytest.approx(float(other), abs=2e-6)


def test_a_small_picture_is_judged_whole() -> None:
    crop = centre_crop((256, 256), (1024, 1024))
    assert crop.whole
    assert crop == ((256, 256), (1024, 1024), (1024, 1024), (0, 0), (0, 0))


def test_a_large_picture_is_judged_by_its_centre(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_core.spectral_report.MAX_PIXELS", 64 * 64)
    report = spectral_report(run)
    assert report.crop == ((16, 16), (64, 64), (128, 128), (8, 8), (32, 32))
    middle = pixels_of(run, "candidate-0")[..., 32:96, 32:96]
    means = ring_means(dct_power(luma(middle)), rings((64, 64), "dct"))[0, 1:4]
    np.testing.assert_allclose(report.pictures["candidate-0"].power["dct"][:3], means.numpy(), rtol=1e-6)
    bands = pair_bands(run, 0, 1, 0)
    winner, loser = (
        (pixels_of(run, name) - pixels_of(run, "prior"))[..., 32:96, 32:96].square().mean() for name in CANDIDATES[:2]
    )
    assert bands.plain.sum() == pytest.approx(float(loser - winner), rel=1e-4)


def test_a_picture_that_is_gone_is_said_in_words(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128)
    run.path(run.candidates[1]).unlink()
    with pytest.raises(InputError, match="not there any more"):
        spectral_report(run)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_candidates=2, size=128)
    write_image(run.path(run.candidates[1]), torch.rand(1, 3, 64, 128), format="png")
    with pytest.raises(InputError, match="128 x 128"):
        spectral_report(run)
