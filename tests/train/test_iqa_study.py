import csv
from pathlib import Path

import numpy as np
import pytest

from sr_core.errors import InputError
from train.iqa_study import study, study_text, table_verdicts

GROUPS = 10


def write_pairs(path: Path, rows: list[dict[str, float | str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def known_pairs(count: int = 200) -> list[dict[str, float | str]]:
    """Return pairs of known answer: `good` errs on every fifth, on which `helper` is right and `echo` errs too.

    `niqe` is right everywhere and, as the registry says, lower is better; `coin` is right on every second.
    """
    rows: list[dict[str, float | str]] = []
    for k in range(count):
        outcome = k % 2
        sign = 1.0 if outcome else -1.0
        good = -0.5 if k % 5 == 0 else 1.0
        helper = 2.0 if k % 5 == 0 else -0.1 if k % 5 == 1 else 0.1
        coin = 1.0 if k % 4 < 2 else -1.0
        leads = {"good": good, "echo": good, "helper": helper, "coin": coin}
        row: dict[str, float | str] = {"outcome": outcome, "group": f"photo {k * GROUPS // count}"}
        for name, lead in leads.items():
            row |= {f"{name}_first": 10 + sign * lead, f"{name}_second": 10}
        row |= {"niqe_first": 5 - sign * 0.01, "niqe_second": 5}
        rows.append(row)
    return rows


def without(rows: list[dict[str, float | str]], name: str) -> list[dict[str, float | str]]:
    return [{key: value for key, value in row.items() if not key.startswith(f"{name}_")} for row in rows]


def test_accuracies_are_the_known_ones_and_directions_those_of_the_registry(tmp_path: Path) -> None:
    result = study(table_verdicts(write_pairs(tmp_path / "pairs.csv", known_pairs())))
    shares = {m.names[0]: m.right.share for m in result.metrics}
    assert shares == pytest.approx({"niqe": 1.0, "good": 0.8, "echo": 0.8, "helper": 0.8, "coin": 0.5})
    assert result.metrics[0].names == ("niqe",)
    assert result.num_pairs == 200
    right = result.metrics[1].right
    # Wilson's interval for 160 of 200.
    assert (right.low, right.high) == (pytest.approx(0.7393, abs=1e-3), pytest.approx(0.8496, abs=1e-3))


def test_who_is_right_where_another_errs(tmp_path: Path) -> None:
    matrix = study(table_verdicts(write_pairs(tmp_path / "pairs.csv", known_pairs()))).complementarity
    assert matrix["good"]["helper"].share == 1
    assert matrix["good"]["echo"].share == 0
    assert matrix["good"]["helper"].num == 40
    assert matrix["niqe"]["good"].share is None  # it has no errors


def test_the_best_pair_is_the_complementary_one_and_not_the_two_best_alone(tmp_path: Path) -> None:
    rows = without(without(known_pairs(), "niqe"), "coin")
    result = study(table_verdicts(write_pairs(tmp_path / "pairs.csv", rows)))
    assert result.pair is not None
    assert set(result.pair.names) in ({"good", "helper"}, {"echo", "helper"})
    assert result.pair.right.share == 1
    assert result.pair.tested == 1
    assert result.triple is not None
    assert set(result.triple.names) == {"good", "echo", "helper"}


def test_a_combination_tuned_on_noise_is_worse_on_groups_that_did_not_choose_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows: list[dict[str, float | str]] = []
    for k in range(60):
        row: dict[str, float | str] = {"outcome": int(random.integers(2)), "group": f"photo {k % GROUPS}"}
        for name in "abcdefgh":
            row |= {f"{name}_first": float(random.normal()), f"{name}_second": float(random.normal())}
        rows.append(row)
    result = study(table_verdicts(write_pairs(tmp_path / "pairs.csv", rows)))
    assert result.triple is not None
    assert result.triple.tested is not None
    assert result.triple.right.share is not None
    assert result.triple.tested < result.triple.right.share


def test_ties_and_equal_values_are_no_right_answers(tmp_path: Path) -> None:
    rows: list[dict[str, float | str]] = [
        {"outcome": 1, "a_first": 1.0, "a_second": 1.0},
        {"outcome": 0.5, "a_first": 2.0, "a_second": 1.0},
        {"outcome": 1, "a_first": 2.0, "a_second": 1.0},
    ]
    result = study(table_verdicts(write_pairs(tmp_path / "pairs.csv", rows)))
    assert (result.num_pairs, result.num_ties) == (2, 1)
    assert result.metrics[0].right.share == 0.5
    assert result.pair is None
    assert "2 decided pairs, 1 ties" in study_text(result)


def test_a_metric_that_is_named_lower_is_turned_round(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.csv", [{"outcome": 1, "blur_first": 1.0, "blur_second": 2.0}])
    assert study(table_verdicts(path)).metrics[0].right.share == 0
    assert study(table_verdicts(path, ("blur",))).metrics[0].right.share == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"outcome": 1.0}, "two columns per metric"),
        ({"outcome": 1.0, "a_first": 1.0}, "two columns per metric"),
        ({"a_first": 1.0, "a_second": 1.0}, "outcome missing"),
        ({"outcome": 2.0, "a_first": 1.0, "a_second": 1.0}, "must be 1"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, row: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        table_verdicts(write_pairs(tmp_path / "pairs.csv", [dict(row)]))


def test_without_a_decided_pair_there_is_no_study(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.csv", [{"outcome": 0.5, "a_first": 1.0, "a_second": 2.0}])
    with pytest.raises(InputError, match="decided"):
        study(table_verdicts(path))


def test_a_metric_that_scores_few_pairs_is_left_out_by_name(tmp_path: Path) -> None:
    rows = without(known_pairs(), "coin")
    for k, row in enumerate(rows):
        row |= {"rare_first": 1.0 if k < 100 else "", "rare_second": 0.0 if k < 100 else ""}
    result = study(table_verdicts(write_pairs(tmp_path / "pairs.csv", rows)))
    assert result.too_rare == {"rare": 100}
    assert result.num_pairs == 200
    assert "Left out, scored on 100 pairs alone: rare." in study_text(result)
