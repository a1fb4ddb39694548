"""Which of several targets a step is shown: uniform, softmax of quality, or the best patch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from sr_core.backbones.flow_head import FlowHead, HeadInput, unshuffle_planes
from sr_core.errors import ConfigError
from sr_core.preference_data.dataset import PreferenceDataset
from sr_core.rewards.registry import load_metric
from sr_core.tensors import Enlarged, Image
from train.data import seeded_generator
from train.iqa_config import IqaRecipe
from train.iqa_labels import positives, read_comparisons
from train.iqa_targets import ORIGINAL
from train.prefer import pair_windows
from train.store import TRUTH, GroupStore, Window, head_conditions

Score = Callable[[Image], Float64[Tensor, " k"]]
"""Quality of each image, higher is better; NaN where it cannot be told."""
Strategy = Literal["original", "upos", "sma", "smp", "amo"]


class Targets(NamedTuple):
    """The targets of one group."""

    group: str
    indices: tuple[int, ...]
    """Places in the store; `TRUTH` where the original is no candidate."""
    names: tuple[str, ...]
    """What made each."""
    original: int | None
    """Position of the original among `indices`; None without one."""


class TargetBatch(NamedTuple):
    """What a step trains on."""

    photo: HeadInput
    target: Enlarged
    chosen: tuple[str, ...]
    """What made each target."""


def target_probabilities(
    strategy: Strategy,
    quality: Float64[Tensor, " k"],
    positive: Float64[Tensor, " k"],
    original: int | None,
    temperature: float,
) -> Float64[Tensor, " k"]:
    """Return with which probability each target is shown; of `amo`, whose choice is made per patch, nothing.

        p_i = exp(Q_i / tau) / sum_j exp(Q_j / tau),   over all targets (sma) or the human-positive ones (smp)

    A target without a score has probability 0, unless none has one: then all count the same. `positive` is 1 or 0.

    Source: Augmenting Perceptual Super-Resolution via Image Quality Predictors, arXiv 2504.18524, section 3.2.
    Raises ConfigError for `original` without one, and for `upos` and `smp` without a positive target.
    """
    if strategy == "original":
        if original is None:
            raise ConfigError("the strategy original needs a ground truth in every group")
        return torch.eye(len(quality), dtype=torch.float64)[original]
    allowed = positive if strategy in ("upos", "smp") else torch.ones_like(quality)
    if not bool(allowed.any()):
        raise ConfigError(f"the strategy {strategy} needs a human-positive target in every group it draws from")
    logits = torch.zeros_like(quality) if strategy == "upos" else quality / temperature
    known = logits.isfinite() & (allowed > 0)
    if not bool(known.any()):
        return allowed / allowed.sum()
    return logits.masked_fill(~known, -torch.inf).softmax(0)


def best_of(quality: Float64[Tensor, " k"], original: int | None) -> int:
    """Return the position of the best score; where nothing could be scored, of the original, or the first.

    Source: AMO, arXiv 2504.18524, section 3.2.
    """
    if not bool(quality.isfinite().any()):
        return original or 0
    return int(quality.nan_to_num(nan=-torch.inf, neginf=-torch.inf).argmax())


def load_score(name: str, window_px: int, device: str) -> Score:
    """Return a no-reference metric of the registry as a quality; raises ConfigError if it cannot judge such patches."""
    metric = load_metric(name, device)
    spec = metric.spec
    if spec.full_reference:
        raise ConfigError(f"targets are scored without a reference, and {name} needs one")
    if window_px < spec.min_side:
        raise ConfigError(f"{name} needs at least {spec.min_side} px a side; patches have {window_px}, set window_px")
    sign = -1.0 if spec.lower_is_better else 1.0

    @torch.no_grad()
    def score(images: Image) -> Float64[Tensor, " k"]:
        return sign * metric(images, None).double().cpu()

    return score


def group_targets(dataset: PreferenceDataset) -> list[Targets]:
    """Return the targets of each group: its candidates, and its ground truth where that is none of them."""
    found = []
    for index, group in enumerate(dataset.group_ids):
        rows = dataset.rows(index, ["model_id", "hr_image"])
        names = [str(name) for name in rows["model_id"].to_pylist()]
        places = list(range(len(names)))
        has_truth = rows.slice(0, 1)["hr_image"].to_pylist()[0] is not None
        if ORIGINAL not in names and has_truth:
            names, places = [*names, ORIGINAL], [*places, TRUTH]
        original = names.index(ORIGINAL) if ORIGINAL in names else None
        found.append(Targets(group, tuple(places), tuple(names), original))
    return found


def target_names(dataset: PreferenceDataset, targets: Sequence[Targets]) -> dict[str, dict[str, int]]:
    """Return by group where each target lies, by candidate id, by a maker of one alone, and -1 for the original."""
    found = {}
    for index, own in enumerate(targets):
        ids = dataset.rows(index, ["candidate_id"])["candidate_id"].to_pylist()
        # A maker of several targets names none of them.
        makers = {name: k for k, name in enumerate(own.names) if own.names.count(name) == 1}
        known = makers | {str(c): k for k, c in enumerate(ids)}
        found[own.group] = known | ({} if own.original is None else {str(TRUTH): own.original})
    return found


class TargetSource:
    """Draws the batch of a step, which depends on the recipe's seed and the step's index alone."""

    def __init__(self, recipe: IqaRecipe, dataset: PreferenceDataset, store: GroupStore, head: FlowHead | None) -> None:
        """Score the targets or read the labels that the strategy needs; raises ConfigError as those do.

        `head` settles the gain of the head's input; without one (the prior is trained) it is 1.
        """
        self.recipe, self.store, self.head = recipe, store, head
        self.targets = group_targets(dataset)
        self._score: Score | None = None
        if recipe.targets.strategy in ("sma", "smp", "amo"):
            self._score = load_score(recipe.targets.metric, 4 * recipe.window_px, "cpu")
        labelled = self._positives(dataset)
        if recipe.targets.strategy in ("upos", "smp"):
            self.targets = [own for own in self.targets if own.group in labelled]
            if not self.targets:
                raise ConfigError(
                    f"{recipe.targets.labels} make no target positive; {recipe.targets.strategy} needs labels that "
                    "prefer one target over another"
                )
        self.probabilities = [self._probabilities(own, labelled.get(own.group, frozenset())) for own in self.targets]

    def _positives(self, dataset: PreferenceDataset) -> Mapping[str, frozenset[int]]:
        config = self.recipe.targets
        if not config.labels:
            return {}
        comparisons = read_comparisons(config.labels, config.runs, target_names(dataset, self.targets))
        return positives(comparisons, {own.group: own.original for own in self.targets}, config.label_rule)

    def _probabilities(self, own: Targets, positive: frozenset[int]) -> Float64[Tensor, " k"] | None:
        strategy = self.recipe.targets.strategy
        if strategy == "amo":
            return None
        quality = torch.zeros(len(own.indices), dtype=torch.float64)
        if self._score is not None:
            whole = Window(0, 0, *self.store.size(own.group), False)
            quality = self._score(self._images(own, whole))
        marks = torch.tensor([float(k in positive) for k in range(len(own.indices))], dtype=torch.float64)
        return target_probabilities(strategy, quality, marks, own.original, self.recipe.targets.temperature)

    def _images(self, own: Targets, window: Window) -> Image:
        return torch.cat([self.store.image(own.group, index, window) for index in own.indices])

    def __call__(self, index: int, share: slice) -> TargetBatch:
        """Return this process's part of the batch of step `index`."""
        recipe = self.recipe
        generator = seeded_generator(recipe.seed, "targets", index)
        drawn = torch.randint(0, len(self.targets), (recipe.optim.batch_size,), generator=generator).tolist()
        groups = [self.targets[i].group for i in drawn]
        windows = pair_windows(self.store, groups, recipe.window_px, recipe.flip, generator)
        draws = torch.rand(recipe.optim.batch_size, dtype=torch.float64, generator=generator)
        chosen = [self._choose(i, w, u) for i, w, u in zip(drawn[share], windows[share], draws[share], strict=True)]
        parts = [
            self.store.conditions(self.targets[i].group, w) for i, w in zip(drawn[share], windows[share], strict=True)
        ]
        return TargetBatch(
            photo=self._photo(parts),
            target=torch.cat([image for _, image in chosen]),
            chosen=tuple(name for name, _ in chosen),
        )

    def _choose(self, index: int, window: Window, draw: Tensor) -> tuple[str, Enlarged]:
        """Return the name and the patch of the target that one sample is shown."""
        own, probabilities = self.targets[index], self.probabilities[index]
        if probabilities is None:
            assert self._score is not None
            patches = self._images(own, window)
            place = best_of(self._score(patches), own.original)
            return own.names[place], patches[place : place + 1]
        place = min(int((probabilities.cumsum(0) <= draw).sum()), len(own.indices) - 1)
        return own.names[place], self.store.image(own.group, own.indices[place], window)

    def _photo(self, parts: list[tuple[Image, Enlarged, Tensor]]) -> HeadInput:
        if self.head is not None:
            return head_conditions(parts, self.head, self.head.trunk_std.device)
        lq, prior, trunk = (torch.cat(part) for part in zip(*parts, strict=True))
        return HeadInput(trunk, unshuffle_planes(prior), lq, torch.ones_like(lq[:, :1]))
