"""The model card of a head, made from what its run and its evaluation wrote."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sr_core.errors import InputError
from sr_core.files import replace_text
from train.checkpoints import finished

HEADER = """---
license: apache-2.0
pipeline_tag: image-to-image
tags: [image-super-resolution, rectified-flow]
---

# The flow head of `compact`

A U-Net of {parameters:.1f} M parameters: a rectified flow on the residual that the frozen prior leaves (Real-ESRGAN
x4plus, BSD-3-Clause), at the resolution of the input. It is the part that makes seeds differ. Use:
`sr upscale PHOTO --out DIR`.
Made by `python -m train sft train/recipes/compact_sft.yaml` in this repository, from scratch, on: {device}.
"""

GATES = {
    "lsd_10_percent_below_prior": "log-spectral distance at most 0.9 of the prior's",
    "psnr_at_most_1_db_below_prior": "PSNR at most 1 dB below the prior",
    "seeds_differ": "mean pairwise PSNR of seeds on the most detailed quarter below 45 dB",
    "lpips_better_than_control": "LPIPS better than the noise control",
    "ssimulacra2_better_than_control": "SSIMULACRA 2 better than the noise control",
    "vsi_better_than_control": "VSI better than the noise control",
    "st_lpips_not_worse_than_prior": "ST-LPIPS, which neither trains nor picks, not worse than the prior",
    "control_at_the_heads_psnr": "the control has the head's PSNR, or is the prior where the head beats it",
    "best_of_n_against_mean_seed_st_lpips": "best of 8 by the no-reference reward against the mean seed, by ST-LPIPS",
}


def _figures(gate: dict[str, Any]) -> str:
    """Say a gate's figures in words; gains are oriented so that positive is better."""
    parts = []
    for name, value in gate.items():
        if name == "gain":
            parts.append(f"gain {value[0]:.4g}, 95 % interval {value[1]:.4g} to {value[2]:.4g}")
        elif name != "holds":
            parts.append(f"{name.replace('_', ' ')} {value:.3f}")
    return "; ".join(parts)


def gate_table(gates: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return a Markdown table of every requirement per group of photographs."""
    lines = ["| requirement | photographs | figures | holds |", "|---|---|---|---|"]
    for name, words in GATES.items():
        for group, values in gates.items():
            held = values[name].get("holds")
            verdict = "(reported)" if held is None else "yes" if held else "**no**"
            lines.append(f"| {words} | {group} | {_figures(values[name])} | {verdict} |")
    return "\n".join(lines)


def curve_table(lines: Iterable[str]) -> str:
    """Return the held-out curve of a log, one row per evaluation."""
    rows = [row for row in map(json.loads, lines) if any("/head_psnr" in key for key in row)]
    if not rows:
        raise InputError("the log holds no held-out figures; train with a validation section")
    presets = sorted({key.split("/")[0] for key in rows[0] if "/" in key})
    columns = [f"{preset}/{name}" for preset in presets for name in ("head_psnr", "head_lsd")]
    text = ["| step | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    text += [f"| {row['step']} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |" for row in rows]
    prior = [f"{rows[0][c.replace('head', 'prior')]:.2f}" for c in columns]
    return "\n".join([*text, "| prior | " + " | ".join(prior) + " |"])


def model_card(run: Path, heldout: Path, parameters: int, hardware: str, notes: str) -> str:
    """Return the card of the head in `run`, with the figures of an evaluation; `notes` are added as they are."""
    state = json.loads((finished(run / "checkpoints")[-1] / "state.json").read_text(encoding="utf-8"))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    evaluation = json.loads(heldout.read_text(encoding="utf-8"))
    recipe = json.dumps(state["recipe"], indent=1)
    settings = evaluation["settings"]
    sections = [
        HEADER.format(parameters=parameters / 1e6, device=summary["device"]),
        "## Held-out figures\n",
        f"{settings['photos']} photographs that training never saw, {' and '.join(settings['presets'])}, seeds 0 to "
        f"{settings['seeds'] - 1}, {settings['steps']} {settings['sampler']} steps on the {settings['schedule']} "
        f"schedule, {settings['dtype'].removeprefix('torch.')}. *control* is the prior plus Gaussian noise with the "
        "training residuals' mean spectrum, scaled by local contrast, at the head's own PSNR. *head* is the mean over "
        "seeds, *random_of_n* one seed drawn by lot, *best_of_n* the one that the no-reference `offline` reward picks. "
        "LSD in dB and LPIPS, ST-LPIPS: lower is better; the others: higher.\n",
        *(f"### {name}\n\n{rows}\n" for name, rows in evaluation["tables"].items()),
        "### Requirements\n",
        "Gains are oriented so that positive is better; intervals are paired bootstraps over photographs. "
        "*pooled* averages the presets of each photograph first.\n",
        gate_table(evaluation["gates"]) + "\n",
        "## Held-out curve\n",
        "One seed, the averaged weights; looked at, never picked by.\n",
        curve_table((run / "log.jsonl").read_text(encoding="utf-8").splitlines()) + "\n",
        "## Training\n",
        f"Hardware: {hardware}. Features of {summary['crops']} crops cached once; training "
        f"{state['elapsed_s'] / 60:.0f} min of wall time and {state['cpu_s'] / 60:.0f} core-minutes for "
        f"{state['step']} steps, {summary['dtype'].removeprefix('torch.')}. "
        "Photographs and licences: [data.md](data.md).\n",
        notes + "\n",
        f"```json\n{recipe}\n```\n",
    ]
    return "\n".join(sections)


def write_card(run: Path, heldout: Path, parameters: int, hardware: str, notes: str, out: Path) -> None:
    """Write the card, whole or not at all."""
    replace_text(out, model_card(run, heldout, parameters, hardware, notes))
