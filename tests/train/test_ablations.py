from pathlib import Path

import pytest

from sr_core.errors import ConfigError
from train.ablations import ABLATIONS, chosen_rows, slug
from train.config import load_recipe
from train.preference_config import PreferRecipe

RECIPE = Path(__file__).parents[2] / "train" / "recipes" / "compact_as_dpo.yaml"


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_every_row_is_a_valid_recipe_that_changes_something(name: str) -> None:
    plain = load_recipe(PreferRecipe, RECIPE)
    changed = load_recipe(PreferRecipe, RECIPE, ABLATIONS[name])
    assert (changed == plain) == (name == "AS-DPO")
    assert len({slug(other) for other in ABLATIONS}) == len(ABLATIONS)


def test_rows_are_asked_for_by_part_or_by_whole_name_and_come_in_that_order() -> None:
    assert chosen_rows(()) == tuple(ABLATIONS)
    assert chosen_rows(("=HPO", "M = 4")) == ("HPO", "HPO, M = 4, N/M 1/2", "HPO, M = 4, N/M 1/4")
    assert chosen_rows(("=multi-pair DPO", "=HPO", "=multi-pair DPO")) == ("multi-pair DPO", "HPO")
    with pytest.raises(ConfigError, match="fits none"):
        chosen_rows(("=HPOO",))
