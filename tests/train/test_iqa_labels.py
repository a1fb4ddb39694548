from pathlib import Path

import pytest

from sr_core.errors import ConfigError, InputError
from train.iqa_labels import positive_by_majority, positive_by_strength, positives, read_comparisons

WINS = [(1, 0, 1.0), (1, 0, 1.0), (2, 0, 0.0), (2, 0, 0.0), (1, 2, 1.0), (3, 0, 0.5)]
"""1 beats the original 0 and 2; 2 loses to both; 3 ties with 0."""


def test_a_target_is_positive_if_it_is_stronger_than_the_original() -> None:
    assert positive_by_strength(WINS, 0) == frozenset({0, 1})
    strong = [(1, 0, 1.0), (0, 2, 1.0), (1, 2, 1.0)]
    assert 1 in positive_by_strength(strong, 0)
    assert 2 not in positive_by_strength(strong, 0)


def test_without_the_original_the_mean_decides() -> None:
    assert positive_by_strength([(1, 2, 1.0), (1, 3, 1.0), (3, 2, 1.0)], None) >= {1}
    assert 2 not in positive_by_strength([(1, 2, 1.0), (1, 3, 1.0), (3, 2, 1.0)], None)


def test_by_majority_more_than_half_must_be_won() -> None:
    assert positive_by_majority(WINS) == frozenset({1})
    assert positive_by_majority([(0, 1, 0.5)]) == frozenset()


def test_a_group_without_a_positive_target_falls_back_on_its_original() -> None:
    tied = {"a": [(0, 1, 0.5)], "b": [(1, 2, 0.5)]}
    found = positives(tied, {"a": 0, "b": None}, "majority")
    assert found == {"a": frozenset({0})}


def test_a_table_names_targets_by_maker_number_or_minus_one(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("group_id,first,second,outcome\na,sharp,original,1\na,1,-1,1\nb,sharp,original,0\na,blur,0,1\n")
    names = {"a": {"original": 0, "sharp": 1, "0": 0, "1": 1, "-1": 0}}
    assert read_comparisons([str(path)], [], names) == {"a": [(1, 0, 1.0), (1, 0, 1.0)]}


def test_labels_about_nothing_here_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("group_id,first,second,outcome\nelsewhere,a,b,1\n")
    with pytest.raises(ConfigError, match="compare none"):
        read_comparisons([str(path)], [], {"a": {"a": 0, "b": 1}})


@pytest.mark.parametrize(
    ("content", "message"),
    [("group_id,first,second\na,b,c\n", "outcome missing"), ("group_id,first,second,outcome\na,b,c,3\n", "must be 1")],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_comparisons([str(path)], [], {"a": {"b": 0, "c": 1}})
