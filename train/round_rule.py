"""When a round of online training is accepted, when it is left, and when the series stops."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from sr_core.errors import ConfigError, InputError

PerPhoto = Float64[np.ndarray, " p"]
"""One value per held-out photograph: the mean over its degradations and seeds."""


class HeldOut(NamedTuple):
    """One figure of two models on the same photographs, degradations and seeds."""

    sft: PerPhoto
    adapter: PerPhoto
    lower_is_better: bool


class Judgement(NamedTuple):
    """What held-out photographs say of an adapter beside the SFT model; the photographs never change."""

    photos: tuple[str, ...]
    reward: HeldOut
    """The trained reward, normalised over the union of both models' outputs per photograph."""
    hold_outs: Mapping[str, HeldOut]
    """Metrics that neither train nor pick, raw."""


class Standing(NamedTuple):
    """The figures of the best accepted round, which the next one is compared with."""

    reward: float
    """Mean gain of the trained reward over the SFT model."""
    hold_outs: Mapping[str, PerPhoto]


class Change(NamedTuple):
    """How a round moved the held-out figures since the best accepted one."""

    reward: float
    """Of the mean gain of the trained reward over the SFT model."""
    hold_outs: dict[str, float]
    """Of each hold-out's mean, in units of its spread over photographs; positive is better."""

    @property
    def hold_out(self) -> float:
        """Return the mean over hold-outs."""
        return float(np.mean(list(self.hold_outs.values())))


def standing(judgement: Judgement, *, of: str) -> Standing:
    """Return the figures of the "adapter" or of the "sft" model; the SFT model's gain over itself is 0."""
    if of == "sft":
        return Standing(0.0, {name: figure.sft for name, figure in judgement.hold_outs.items()})
    gain = float((judgement.reward.adapter - judgement.reward.sft).mean())
    return Standing(gain, {name: figure.adapter for name, figure in judgement.hold_outs.items()})


def change_since(best: Standing, judgement: Judgement) -> Change:
    """Return how an adapter's held-out figures differ from those of the best accepted round.

        change_h = +-(mean_p adapter_hp - mean_p best_hp) / std_p sft_hp

    with the sign that makes better positive. The spread is that of the SFT model's values over photographs, so that the
    unit is the same in every round; a hold-out without spread counts in its own unit.
    """
    new = standing(judgement, of="adapter")
    changes = {}
    for name, figure in judgement.hold_outs.items():
        sign, spread = (-1.0 if figure.lower_is_better else 1.0), float(figure.sft.std())
        changes[name] = sign * float(new.hold_outs[name].mean() - best.hold_outs[name].mean()) / (spread or 1.0)
    return Change(new.reward - best.reward, changes)


class Verdict(NamedTuple):
    """What follows from a round."""

    accepted: bool
    stop: bool
    reason: str


def verdict_on(change: Change, tolerance: float) -> Verdict:
    """Say what follows from a round, compared with the best accepted one (the SFT model before there is one).

    The trained reward rises if its mean gain over the SFT model does; the hold-outs fall if the mean of their changes,
    each in units of its spread over photographs, is below `-tolerance`. Rising while they fall is reward hacking: the
    series stops and keeps the earlier adapter. A round is accepted if the reward rises and the hold-outs hold; one
    whose reward does not rise is left, and the next round starts from the earlier adapter with other crops and seeds.
    """
    rises, falls = change.reward > 0, change.hold_out < -tolerance
    figures = f"trained reward {change.reward:+.4f}, hold-outs {change.hold_out:+.4f} of their spread"
    if rises and falls:
        return Verdict(False, True, f"the trained reward rises while the hold-outs fall ({figures})")
    if rises:
        return Verdict(True, False, f"the trained reward rises and the hold-outs hold ({figures})")
    return Verdict(False, False, f"the trained reward does not rise ({figures})")


def check_judgement(judgement: Judgement) -> None:
    """Raise ConfigError if there is too little to judge by, InputError if a figure is not finite."""
    figures = {"reward": judgement.reward, **judgement.hold_outs}
    count = len(judgement.photos)
    if not judgement.hold_outs or count < 2:
        raise ConfigError(f"rounds are judged on at least 2 photographs and 1 hold-out, got {count} photographs")
    for name, figure in figures.items():
        if not (np.isfinite(figure.sft).all() and np.isfinite(figure.adapter).all()):
            raise InputError(f"{name} must be finite on every held-out photograph; leave out what cannot be scored")


def check_photos(judged: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise ConfigError if the photographs found are not those that rounds were judged on; both are {name: SHA-256}."""
    changes = {
        "gone": sorted(judged.keys() - found.keys()),
        "new": sorted(found.keys() - judged.keys()),
        "changed": sorted(name for name in judged.keys() & found.keys() if judged[name] != found[name]),
    }
    if any(changes.values()):
        listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in changes.items() if names)
        raise ConfigError(
            f"every round must be judged on the same held-out photographs, since the last one {listed}; "
            "put back what they were, or name another output"
        )


def round_record(number: int, judgement: Judgement, change: Change, verdict: Verdict) -> dict[str, Any]:
    """Return a round's figures as plain values."""

    def plain(figure: HeldOut) -> dict[str, Any]:
        return {
            "sft": figure.sft.tolist(), "adapter": figure.adapter.tolist(), "lower_is_better": figure.lower_is_better,
            "sft_mean": float(figure.sft.mean()), "adapter_mean": float(figure.adapter.mean()),
        }  # fmt: skip

    return {
        "round": number,
        "accepted": verdict.accepted,
        "stop": verdict.stop,
        "reason": verdict.reason,
        "reward_change": change.reward,
        "hold_out_change": change.hold_out,
        "hold_out_changes": change.hold_outs,
        "photos": list(judgement.photos),
        "reward": plain(judgement.reward),
        "hold_outs": {name: plain(figure) for name, figure in judgement.hold_outs.items()},
    }


def judgement_of(record: dict[str, Any]) -> Judgement:
    """Return the judgement that a round's record holds."""

    def figure(values: dict[str, Any]) -> HeldOut:
        sft, adapter = (np.array(values[key], dtype=np.float64) for key in ("sft", "adapter"))
        return HeldOut(sft, adapter, values["lower_is_better"])

    hold_outs = {name: figure(values) for name, values in record["hold_outs"].items()}
    return Judgement(tuple(record["photos"]), figure(record["reward"]), hold_outs)
