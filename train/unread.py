"""Settings of a preference recipe that differ from their defaults and that its objective or pairs do not read."""

from dataclasses import fields
from typing import Any

from train.losses import OBJECTIVES, exponent_of, mean_square, norm_of
from train.preference_config import ObjectiveConfig, PairsConfig, PreferRecipe

ADVERSARIAL = ("adversary_strength", "lq_loser_weight", "guidance")
SOBOLEV = ("exponent", "sobolev_transform", "frequency_unit", "sobolev_scaling")
SOME_READ = {*ADVERSARIAL, *SOBOLEV, *(name for row in OBJECTIVES.values() for name in row.reads)}
"""Settings of an objective that not every one reads."""


def reads_lq_loser(settings: ObjectiveConfig) -> bool:
    """Return whether the enlarged LQ is a further loser."""
    return OBJECTIVES[settings.name].adversarial and settings.lq_loser_weight > 0


def _read_of_objective(settings: ObjectiveConfig) -> set[str]:
    row = OBJECTIVES[settings.name]
    read = {*row.reads, *(ADVERSARIAL if row.adversarial else ())}
    if norm_of(settings) is not mean_square:
        # At exponent 0 every weight is 1, whatever its unit and scale.
        read |= set(SOBOLEV if exponent_of(settings) else SOBOLEV[:2])
    return read


def _read_of_pairs(pairs: PairsConfig, *, weighted: bool) -> set[str]:
    if pairs.source == "table":
        return {"source"}
    if pairs.source == "supervised":
        return {"source", "num_candidates"}
    read = {"source", "num_candidates", "top", "fidelity_weight"}
    if weighted:
        read |= {"intra", "inter", *(("ddof",) if pairs.inter else ())}
    return read


def _changed(section: Any) -> list[str]:  # noqa: ANN401 - a section of any kind
    return [field.name for field in fields(section) if getattr(section, field.name) != field.default]


def unread_settings(recipe: PreferRecipe) -> tuple[str, ...]:
    """Return the dotted names of settings that were given and do nothing under the objective and source of pairs.

    A recipe that serves several objectives, as those of `ablate` do, is right to hold them; whoever reads its figures
    should know.
    """
    objective, row = recipe.objective, OBJECTIVES[recipe.objective.name]
    idle = SOME_READ - _read_of_objective(objective)
    if exponent_of(objective) == row.default_exponent:
        idle.discard("exponent")  # what the objective has anyway
    read = _read_of_pairs(recipe.pairs, weighted=row.weighted)
    found = [f"pairs.{name}" for name in _changed(recipe.pairs) if name not in read]
    found += [f"objective.{name}" for name in _changed(objective) if name in idle]
    if recipe.adversary is not None and not row.adversarial:
        found.append("adversary")
    return tuple(found)


def unread_text(recipe: PreferRecipe) -> str:
    """Return one line that names what does nothing; empty where everything acts."""
    source = "" if recipe.pairs.source == "scores" else f" with pairs.source={recipe.pairs.source}"
    unread = unread_settings(recipe)
    return f"without effect under {recipe.objective.name}{source}: {', '.join(unread)}" if unread else ""
