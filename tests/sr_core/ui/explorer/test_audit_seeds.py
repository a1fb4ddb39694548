"""The table of an audit's seeds holds the comparison's numbers in full and shows them rounded."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sr_core.adapter_comparison import AdapterComparison, compare_adapters
from sr_core.ui.explorer.audit_seeds import seeds_table
from sr_core.ui.visits import Shown, job_of
from tests.explorer_run import write_run

CANDIDATES = 3


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Return a run of two adapters with its reference and stored distances."""
    folder: Path = tmp_path_factory.mktemp("run") / "run"
    run = write_run(folder, num_candidates=CANDIDATES, size=128, reference=True, before=True)
    distances = {
        "candidates": [{"psnr": 25.0 + k, "lsd": 3.0 + k} for k in range(CANDIDATES)],
        "before": [{"psnr": 20.0 + k, "lsd": 4.0 + k} for k in range(CANDIDATES)],
    }
    run = replace(run, values={**run.values, "audit": {"distances": distances}})
    return Shown(run=run, job=job_of(run), message="ranked")


def comparison_of(shown: Shown) -> AdapterComparison:
    found = compare_adapters(shown.run)
    assert found is not None
    return found


def numbers(table: dict[str, Any]) -> list[dict[str, float]]:
    """Return every row's numbers by column."""
    rows = table["table"].split("<tbody>")[1].split("</tr>")[:-1]
    pattern = r'<t[hd](?: scope="row")? data-key="([\w-]+)" data-value="(.*?)">'
    return [{key: float(value) for key, value in re.findall(pattern, row)} for row in rows]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_table_holds_the_comparisons_numbers_in_full(shown: Shown, weight: float) -> None:
    shown = replace(shown, run=shown.run.reranked(weight))
    found = comparison_of(shown)
    table = seeds_table(shown, found)
    for row, seed in zip(numbers(table), found.seeds, strict=True):
        assert row == {
            "seed": seed.index, "change": seed.change, "reward-before": seed.before, "reward-after": seed.after,
            "psnr-before": 20 + seed.index, "psnr-after": 25 + seed.index,
            "lsd-before": 4 + seed.index, "lsd-after": 3 + seed.index,
        }  # fmt: skip
        for words in (f">{seed.name}<", f">{seed.change:+.4f}<", f">{25 + seed.index:.2f}<", f">{3 + seed.index:.3f}<"):
            assert words in table["table"]


def test_every_number_is_a_column_that_can_be_sorted_and_filtered_by(shown: Shown) -> None:
    for one in (shown, replace(shown, run=replace(shown.run, values={**shown.run.values, "compare_adapter": None}))):
        comparison = comparison_of(one) if one is shown else None
        table = seeds_table(one, comparison)
        keys = [column["key"] for column in table["columns"]]
        assert re.findall(r'data-sort="([\w-]+)"', table["table"]) == keys
        assert [list(row) for row in numbers(table)] == [keys] * CANDIDATES
        assert len({column["label"] for column in table["columns"]}) == len(keys)


def test_every_row_opens_before_against_after(shown: Shown) -> None:
    html = seeds_table(shown, comparison_of(shown))["table"]
    for index in range(CANDIDATES):
        button = f'data-pin-right="candidate-{index}" data-pin-left="before-{index}" data-pin-run="{shown.key}"'
        assert button in html
    assert html.count("DP2O against SFT") == CANDIDATES
    assert html.count("<img") == html.count('alt="') == 2 * CANDIDATES


def test_distances_that_a_foreign_run_made_up_are_dashes(shown: Shown) -> None:
    for made_up in ({"candidates": 3}, {"candidates": [{"psnr": "high"}]}, []):
        run = replace(shown.run, values={**shown.run.values, "audit": {"distances": made_up}})
        rows = numbers(seeds_table(replace(shown, run=run), comparison_of(shown)))
        assert all("psnr-after" not in row for row in rows)


def joined_by(shown: Shown, compare_adapter: str | None) -> Shown:
    """Return the run with a candidate that joined, and its distances."""
    first = shown.run.candidates[0]
    other = replace(first, index=7, seed=None, source="other tool", before=None, before_scores={})
    entry = {"index": 7, "label": "other tool", "distances": {"psnr": 31.5, "lsd": 2.25}}
    values = {**shown.run.values, "joined": [entry], "compare_adapter": compare_adapter}
    return replace(shown, run=replace(shown.run, values=values, candidates=(*shown.run.candidates, other)))


def test_a_candidate_that_joined_has_its_own_distances(shown: Shown) -> None:
    table = seeds_table(joined_by(shown, None), None)
    *drawn, joined = numbers(table)
    assert (joined["seed"], joined["psnr"], joined["lsd"]) == (7, 31.5, 2.25)
    assert [row["psnr"] for row in drawn] == [25.0 + k for k in range(CANDIDATES)]
    assert table["title"] == "Every seed and joined candidate"


def test_beside_two_adapters_a_candidate_that_joined_is_left_out_and_this_is_said(shown: Shown) -> None:
    table = seeds_table(joined_by(shown, "sft"), comparison_of(shown))
    assert len(numbers(table)) == CANDIDATES
    assert "other tool" not in table["table"]
    assert "they are ranked under Ranking" in table["note"]
    assert "Ranking" not in seeds_table(shown, comparison_of(shown))["note"]


def test_what_a_foreign_run_says_of_its_joined_candidates_may_be_anything(shown: Shown) -> None:
    for made_up in (3, "words", [3], [{"index": 7}], [{"index": 7, "distances": {"psnr": "high"}}]):
        foreign = joined_by(shown, None)
        foreign = replace(foreign, run=replace(foreign.run, values={**foreign.run.values, "joined": made_up}))
        assert "psnr" not in numbers(seeds_table(foreign, None))[-1]
