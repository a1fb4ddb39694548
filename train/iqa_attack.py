"""The attack on a quality score: all weights against a LoRA, on held-out photographs, compared at equal score."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sr_core.errors import ConfigError
from sr_core.files import replace_text, replacing
from train.checkpoints import finished
from train.config import load_recipe
from train.iqa_config import LONG, IqaRecipe
from train.iqa_guided import train_iqa
from train.iqa_looks import FIRST_LOOK, HELD_OUT, LOOKED_AT
from train.judge_tables import lower_is_better

ALONE = ("quality.l1=0", "quality.perceptual=0", "quality.gan=0")
ATTACKS: dict[str, tuple[str, ...]] = {
    "all weights, Q alone": (*ALONE, "lora.train=full", "optim.learning_rate=5.0e-5"),
    "LoRA, Q alone": ALONE,
    "LoRA, Q with L1 and LPIPS": (),
}
"""Overrides of each run; everything else is the recipe's."""
LEVEL = "brisque"
"""The figure at whose equal value runs are compared: the metric as it is scored, in place of its smooth form."""


class Trajectory(NamedTuple):
    """Held-out figures of one run, from before it (step 0 is its first look) to its end."""

    steps: tuple[int, ...]
    figures: Mapping[str, tuple[float, ...]]


def read_trajectory(run: Path) -> Trajectory:
    """Return the held-out figures of a run's log; raises ConfigError if it has fewer than two."""
    first = run / FIRST_LOOK
    lines = [first.read_text(encoding="utf-8")] if first.is_file() else []
    rows = [json.loads(line) for line in (*lines, *(run / "log.jsonl").read_text(encoding="utf-8").splitlines())]
    rows = [row for row in rows if HELD_OUT + LEVEL in row]
    if len(rows) < 2:
        raise ConfigError(f"{run} must hold at least two looks at held-out photographs; set evaluate_every")
    figures = {n: tuple(row[HELD_OUT + n] for row in rows) for n in LOOKED_AT if HELD_OUT + n in rows[0]}
    return Trajectory(tuple(row["step"] for row in rows), figures)


def at_level(trajectory: Trajectory, level: float) -> dict[str, float] | None:
    """Return every figure where the score first reaches `level`, between two looks in proportion; None if never."""
    scores = trajectory.figures[LEVEL]
    sign = -1 if lower_is_better(LEVEL) else 1
    for k in range(1, len(scores)):
        before, after = sign * scores[k - 1], sign * scores[k]
        if before < sign * level <= after:
            share = (sign * level - before) / (after - before)
            return {n: v[k - 1] + share * (v[k] - v[k - 1]) for n, v in trajectory.figures.items()}
    return None


def common_level(trajectories: Sequence[Trajectory]) -> float:
    """Return the best score that every run reaches."""
    if lower_is_better(LEVEL):
        return max(min(t.figures[LEVEL]) for t in trajectories)
    return min(max(t.figures[LEVEL]) for t in trajectories)


def run_attacks(path: Path, overrides: tuple[str, ...], out: Path) -> str:
    """Run every attack and return the comparison as Markdown; finished runs are not trained again.

    Writes `attack.md`, `attack.json` and `attack.png` into `out`.
    """
    found = {}
    for name, changes in ATTACKS.items():
        folder = out / "".join(c if c.isalnum() else "_" for c in name.lower())
        recipe = load_recipe(IqaRecipe, path, (*LONG, *changes, *overrides, f"output={folder}"))
        if recipe.held_out is None:
            raise ConfigError("an attack is followed on held-out photographs; name them in the section held_out")
        if not (folder / "summary.json").is_file():
            train_iqa(recipe, resume=bool(finished(folder / "checkpoints")))
        found[name] = read_trajectory(folder)
    text = attack_table(found)
    replace_text(out / "attack.json", json.dumps({n: t._asdict() for n, t in found.items()}, indent=1) + "\n")
    replace_text(out / "attack.md", text + "\n")
    draw_attack(found, out / "attack.png")
    return text


def attack_table(found: Mapping[str, Trajectory]) -> str:
    """Return where each run began, where it ended, and what it had become at the common score."""
    level = common_level(list(found.values()))
    names = list(next(iter(found.values())).figures)
    head = "| run | " + " | ".join(names) + " |"
    lines = [f"Equal score: {LEVEL} {level:.2f}.", "", head, "|---" * (1 + len(names)) + "|"]
    for run, trajectory in found.items():
        ends = {
            f"{run}, step {trajectory.steps[0]}": {n: v[0] for n, v in trajectory.figures.items()},
            f"{run}, at the equal score": at_level(trajectory, level),
            f"{run}, step {trajectory.steps[-1]}": {n: v[-1] for n, v in trajectory.figures.items()},
        }
        for label, figures in ends.items():
            cells = ["" if figures is None else f"{figures[n]:.4g}" for n in names]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_attack(found: Mapping[str, Trajectory], path: Path) -> None:
    """Draw what each held-out figure does as the score improves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [n for n in ("lsd", "st_lpips", "piqe", "psnr") if n in next(iter(found.values())).figures]
    figure = Figure(figsize=(3.2 * len(shown), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), place)
        for run, trajectory in found.items():
            axes.plot(trajectory.figures[LEVEL], trajectory.figures[name], marker="o", markersize=3, label=run)
        axes.invert_xaxis()
        axes.set_xlabel("BRISQUE (better to the right)")
        axes.set_title(f"{name} ({'lower' if lower_is_better(name) else 'higher'} is better)", fontsize=9)
    figure.axes[0].legend(fontsize=7)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
