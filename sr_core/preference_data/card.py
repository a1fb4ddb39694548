"""The card of a preference dataset: what it holds, how it was made, its figures, biases and licences."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sr_core.files import replace_text
from sr_core.preference_data.dataset import IMAGE, value_name
from sr_core.rewards.group import CONSISTENCY, score_term
from sr_core.rewards.registry import metric_spec

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says that the tables do not."""

    drawn: str
    """From what, and by which model, each photograph was restored."""
    made: str
    """One paragraph: the command or the page, and what another making gives."""
    metric_set: str
    """In Markdown."""
    fidelity_weight: float | int
    top: int
    weights: str
    """One sentence: what the inter-group weight compares with."""
    biases: Sequence[str]
    recipe: Mapping[str, Any]
    """Settings, ready for JSON; absolute paths are cut to their last part."""


TEXT = """# Preference pairs for super-resolution

{groups} photographs, each restored {drawn}, {candidates} candidates in all, scored by the metric set
{metric_set} and ranked inside each group; {pairs} pairs of a better and a worse candidate.
{made}

```python
from datasets import load_dataset

candidates = load_dataset("THIS_FOLDER", "candidates", split="train")
pairs = load_dataset("THIS_FOLDER", "pairs", split="train")
```

## Columns

`candidates`: one row per candidate, one Parquet row group per group. `image` is a lossless PNG and carries the mark of
content made with trained models; `lr_image`, what the model was given, and `hr_image`, the ground truth where there is
one, stand on the first row of each group and are null on its others. `seed` with `generator` gives the noise back;
`dtype` and `schedule` belong to redrawing a candidate as well. `model_revision` is the SHA-256 of the weights.
A candidate that no seed drew has `model_id` say where it came from, and nulls in the columns of drawing.
`scores` are raw, `norm_scores` lie in [0, 1] inside the group (higher is better), `reward` is their hybrid
(fidelity weight {fidelity_weight}), `rank` 1 is best and ties share a rank. `metric_versions` is JSON: weights, colour,
crops, dtype and device of each metric.

`pairs`: top-{top} against bottom-{top} of each group by reward, without pairs of equal reward; `w_intra`, `w_inter` and
`w_total` are the hierarchical weights of DP2O-SR (arXiv 2510.18851). {weights}
`human_votes` and `agreement` are empty as long as `source` is "reward".

## Figures

| | |
|---|---|
{counts}

| score | half | better | mean | spread inside a group | candidates without it |
|---|---|---|---|---|---|
{scores}

## Known biases

- The labels are those of automatic metrics, not of people. Scene-statistics metrics (BRISQUE, NIQE) like noise and
  over-sharpening more than people do; rewards compare inside one group only.
{biases}
- The photographs are the collector's choice; no claim is made about the people, places or cameras in them.
- A metric that could not be loaded is absent from every reward: {missing}.

## Source photographs and licences

The column `license` holds the licence of each source photograph as it was stated, `unknown` where nobody did; the
licence of a candidate follows the photograph's. Here: {licenses}. Check them before you pass the dataset on.

## Recipe

```json
{recipe}
```
"""


def _yaml_type(kind: pa.DataType, indent: str) -> Iterator[str]:
    """Yield the lines that describe one feature, after its name."""
    if kind.equals(IMAGE):
        yield f"{indent}dtype: image"
    elif pa.types.is_struct(kind):
        yield f"{indent}struct:"
        for field in kind:
            yield f"{indent}- name: {field.name}"
            yield from _yaml_type(field.type, indent + "  ")
    else:
        yield f"{indent}dtype: {value_name(kind)}"


def dataset_info(folder: Path, tables: Mapping[str, Sequence[str]]) -> str:
    """Return the YAML block of a dataset card for tables given as {name: files}, without its fences."""
    lines = ["configs:"]
    for name, files in tables.items():
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", "    path:"]
        lines += [f"    - {file}" for file in files]
    lines += ["dataset_info:"]
    for name, files in tables.items():
        lines += [f"- config_name: {name}", "  features:"]
        for field in pq.read_schema(folder / files[0]):
            lines += [f"  - name: {field.name}", *_yaml_type(field.type, "    ")]
        metadata = [pq.read_metadata(folder / file) for file in files]
        size = sum((folder / file).stat().st_size for file in files)
        plain = sum(m.row_group(i).total_byte_size for m in metadata for i in range(m.num_row_groups))
        lines += ["  splits:", "  - name: train", f"    num_bytes: {plain}"]
        lines += [f"    num_examples: {sum(m.num_rows for m in metadata)}"]
        lines += [f"  download_size: {size}", f"  dataset_size: {plain}"]
    return "\n".join(lines)


def _score_row(key: str, figures: Mapping[str, float]) -> str:
    spec, term = metric_spec(key.removeprefix(CONSISTENCY)), score_term(key)
    label = f"{spec.label}, against the LQ" if key.startswith(CONSISTENCY) else spec.label
    values = [f"{figures[name]:.4g}" if name in figures else "" for name in ("mean", "spread")]
    direction = "lower" if term.lower_is_better else "higher"
    return f"| {label} (`{key}`) | {term.half} | {direction} | {' | '.join(values)} | {figures['missing']:.0f} |"


def _count_rows(statistics: Mapping[str, Any]) -> Iterator[str]:
    names = {
        "groups": "groups",
        "groups_left_out": "groups left out (too few sound candidates)",
        "candidates": "candidates",
        "pairs": "pairs",
        "mu_sigma": "mean spread of the reward, weighted by pairs",
        "mean_reward": "mean reward",
        "mean_best_reward": "mean of the groups' best reward",
        "mean_worst_reward": "mean of the groups' worst reward",
    }
    for key, words in names.items():
        value = statistics[key]
        yield f"| {words} | {value if isinstance(value, int) else f'{value:.4f}'} |"
    for preset, count in statistics["groups_by_preset"].items():
        yield f"| groups of preset {preset} | {count} |"


def _licenses(folder: Path, files: Sequence[str]) -> str:
    tables = (pq.read_table(folder / file, columns=["license"]) for file in files)
    return ", ".join(sorted({value or "unknown" for table in tables for value in table["license"].to_pylist()}))


def write_card(
    folder: Path, facts: CardFacts, tables: Mapping[str, Sequence[str]], statistics: Mapping[str, Any]
) -> None:
    """Write the card of a dataset whose tables and figures are complete; whole or not at all."""
    head = "\n".join(
        [
            "license: unknown",
            "pretty_name: Preference pairs for super-resolution",
            "task_categories:\n- image-to-image",
            "tags:\n- image-super-resolution\n- preference\n- dpo",
            dataset_info(folder, tables),
        ]
    )
    text = TEXT.format(
        groups=statistics["groups"],
        drawn=facts.drawn,
        made=facts.made,
        candidates=statistics["candidates"],
        metric_set=facts.metric_set,
        pairs=statistics["pairs"],
        fidelity_weight=facts.fidelity_weight,
        top=facts.top,
        weights=facts.weights,
        biases="\n".join(f"- {bias}" for bias in facts.biases),
        counts="\n".join(_count_rows(statistics)),
        scores="\n".join(_score_row(key, figures) for key, figures in statistics["scores"].items()),
        missing=", ".join(statistics["missing_metrics"]) or "none here",
        licenses=_licenses(folder, tables["candidates"]),
        recipe=json.dumps(_shareable(facts.recipe), indent=1),
    )
    replace_text(folder / CARD, f"---\n{head}\n---\n\n{text}")


def _shareable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values with absolute paths cut to their last part: a card is passed on, a machine is not."""

    def shortened(value: object) -> object:
        if isinstance(value, str) and Path(value).is_absolute():
            return Path(value).name
        if isinstance(value, Mapping):
            return {key: shortened(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [shortened(inner) for inner in value]
        return value

    return {key: shortened(value) for key, value in values.items()}
