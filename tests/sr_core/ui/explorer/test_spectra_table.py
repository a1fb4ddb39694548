"""The table of spectral numbers holds the report's values in full and shows them rounded."""

import re
from dataclasses import replace

import pytest

from sr_core.runs import Run
from sr_core.spectral_report import spectral_report
from sr_core.ui.explorer.spectra_charts import View
from sr_core.ui.explorer.spectra_table import COLUMNS, spectra_table
from tests.explorer_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "plain", num_candidates=3, size=128)


def rows(run: Run) -> list[str]:
    table = spectra_table(View(run, spectral_report(run), "dct", "output"))["table"]
    return re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", table)


def test_candidates_stand_in_the_order_of_the_ranking_and_other_pictures_below(run: Run) -> None:
    found = [re.sub(r"<.*?>", " ", row).split("  ")[0].strip() for row in rows(run)]
    best, middle, worst = (record.name for record in run.ranked)
    assert found == [f"{best} (best)", middle, f"{worst} (worst)", "Input, bicubic", "Prior"]


def test_every_number_is_the_reports(run: Run) -> None:
    report = spectral_report(run)
    for row, record in zip(rows(run), run.ranked, strict=False):
        picture = report.pictures[f"candidate-{record.index}"]
        numbers = [float(value) for value in re.findall(r'<td data-key="\w+" data-value="(.*?)">', row)]
        assert numbers == [
            record.rank, record.reward, picture.distance, picture.fidelity["dct"], 100 * picture.share["dct"],
            picture.level["dct"],
        ]  # fmt: skip
        assert len(numbers) == len(COLUMNS) - 1
        assert f">{picture.distance:.2f} dB<" in row
        assert f">{picture.fidelity['dct']:+.2f} dB<" in row
        assert f">{100 * picture.share['dct']:.3g} %<" in row


def test_a_picture_opens_against_every_other_kind(run: Run) -> None:
    first = rows(run)[0]
    name = f"candidate-{run.ranked[0].index}"
    for other in ("input", "prior"):
        assert f'data-pin-right="{name}" data-pin-left="{other}"' in first
    assert "reference" not in first
    assert 'data-pin-left="prior"' not in rows(run)[-1]


def test_names_of_other_tools_are_escaped(run: Run) -> None:
    foreign = replace(run.candidates[0], source="<b>tool</b>", seed=None)
    named = replace(run, candidates=(foreign, *run.candidates[1:]))
    table = spectra_table(View(named, spectral_report(named), "dct", "output"))["table"]
    assert "<b>tool" not in table
    assert "&lt;b&gt;tool" in table
