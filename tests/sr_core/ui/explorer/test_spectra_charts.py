"""Charts of spectra show the report's own numbers, and name what they show."""

import base64
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from sr_core.runs import Run
from sr_core.spectra import Basis
from sr_core.spectral_report import Numbers, pair_bands, spectral_report, weight_curve
from sr_core.ui.explorer.spectra_charts import (
    View,
    bands_chart,
    candidate_name,
    crop_words,
    levels_chart,
    lines,
    powers_chart,
    weights_chart,
)
from tests.explorer_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "audited", num_candidates=4, size=128, reference=True)


def view_of(run: Run, basis: Basis = "dct", unit: str = "output") -> View:
    return View(run, spectral_report(run), basis, unit)


def values(array: Any) -> Numbers:
    """Return numbers as they are sent: a list, or the bytes of an array."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
    return np.asarray(array, dtype=np.float64)


def traces(chart: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is drawn by the picture that a click opens, or by name."""
    return {
        line["customdata"][0][1] if "customdata" in line else line["name"]: line for line in chart["figure"]["data"]
    }


def test_best_and_worst_are_drawn_last_and_unlike_any_other(run: Run) -> None:
    drawn = lines(run, spectral_report(run))
    assert run.best is not None
    assert run.worst is not None
    assert [line.picture for line in drawn[-2:]] == [f"candidate-{r.index}" for r in (run.best, run.worst)]
    assert len({(line.colour, line.dash) for line in drawn if not line.faint}) == 5
    assert {line.picture for line in drawn if line.faint} == {f"candidate-{r.index}" for r in run.ranked[1:-1]}


def test_a_candidate_is_named_with_its_rank_and_place(run: Run) -> None:
    names = [candidate_name(run, record) for record in run.ranked]
    assert names[0] == f"{run.ranked[0].name} (rank 1, best)"
    assert names[-1].endswith("worst)")
    assert names[1] == f"{run.ranked[1].name} (rank {run.ranked[1].rank})"


@pytest.mark.parametrize("basis", ["dct", "fft"])
def test_the_powers_drawn_are_the_reports(run: Run, basis: Basis) -> None:
    view = view_of(run, basis)
    drawn = traces(powers_chart(view))
    for picture, found in view.report.pictures.items():
        np.testing.assert_array_equal(values(drawn[picture]["y"]), found.power[basis])
        np.testing.assert_array_equal(values(drawn[picture]["x"]), view.report.frequency[basis])
    np.testing.assert_array_equal(values(drawn["natural guide 1/f\u00b2"]["y"]), view.report.guide[basis])


def test_the_axis_of_powers_says_whether_they_are_windowed(run: Run) -> None:
    charts = (powers_chart(view_of(run, basis))["figure"] for basis in ("dct", "fft"))
    titles = [chart["layout"]["yaxis"]["title"]["text"] for chart in charts]
    assert titles == ["Mean power of luma", "Mean power of luma, windowed"]


def test_the_levels_drawn_are_the_reports(run: Run) -> None:
    view = view_of(run)
    drawn = traces(levels_chart(view))
    assert set(drawn) == set(view.report.pictures)
    for picture in drawn:
        np.testing.assert_array_equal(values(drawn[picture]["y"]), view.report.relative(picture, "dct"))


@pytest.mark.parametrize("chart", [powers_chart, levels_chart])
def test_charts_are_valid_to_the_library_that_draws_them(run: Run, chart) -> None:
    go.Figure(chart(view_of(run))["figure"])


def test_frequencies_per_input_pixel_put_nyquist_at_one_half(run: Run) -> None:
    for unit, limit in (("output", 0.125), ("input", 0.5)):
        chart = powers_chart(view_of(run, unit=unit))
        layout = chart["figure"]["layout"]
        assert layout["shapes"][0]["x0"] == pytest.approx(limit)
        assert layout["annotations"][0]["x"] == pytest.approx(math.log10(limit))
        assert f"{limit:g} cycles per {unit} pixel" in chart["summary"]
    ratio = view_of(run, unit="input").frequency / view_of(run).frequency
    np.testing.assert_allclose(ratio, 4)


def test_every_chart_has_a_table_of_what_it_draws(run: Run) -> None:
    view = view_of(run)
    found = view.report.pictures["candidate-0"].power["dct"]
    table = powers_chart(view)["table"]
    assert table.count("<tr>") == len(found) + 1
    assert f"<td>{found[5]:.4g}</td>" in table
    for record in run.candidates:
        assert candidate_name(run, record) in table


def test_the_bands_and_their_sums_are_the_librarys(run: Run) -> None:
    bands = pair_bands(run, 0, 3, 1.5)
    chart = bands_chart(bands, "seed 0", "seed 3", 1.5)
    plain, sobolev = (values(trace["y"]) for trace in chart["figure"]["data"])
    np.testing.assert_array_equal(plain, bands.plain)
    np.testing.assert_array_equal(sobolev, bands.sobolev)
    assert f"<td>{bands.plain.sum():.4g}</td><td>{bands.sobolev.sum():.4g}</td>" in chart["table"]
    assert f"{bands.plain.sum():.4g}" in chart["summary"]
    assert "the reference" in chart["note"]


def test_the_weight_of_plain_dpo_is_one_and_the_others_rise(run: Run) -> None:
    chart = weights_chart(*weight_curve(run, 1.5), 1.5)
    plain, sobolev = (values(trace["y"]) for trace in chart["figure"]["data"])
    assert list(plain) == [1, 1]
    assert (np.diff(sobolev) > 0).all()
    assert sobolev[-1] == weight_curve(run, 1.5)[1][-1]
    level = weights_chart(*weight_curve(run, 0), 0)["figure"]["data"][1]
    assert (values(level["y"]) == 1).all()


def test_a_crop_is_said_in_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert crop_words(spectral_report(run)) == ""
    monkeypatch.setattr("sr_core.spectral_report.MAX_PIXELS", 64 * 64)
    assert "centre 64 \u00d7 64 px" in powers_chart(view_of(run))["note"]
