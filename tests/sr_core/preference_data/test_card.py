from pathlib import Path

import datasets
import pyarrow.parquet as pq
import yaml

from sr_core.preference_data.dataset import open_dataset


def card_of(folder: Path) -> tuple[dict, str]:
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_card_describes_the_tables_as_their_files_do(curated: Path) -> None:
    head, _ = card_of(curated)
    for info, config in zip(head["dataset_info"], head["configs"], strict=True):
        assert info["config_name"] == config["config_name"]
        files = config["data_files"][0]["path"]
        assert files == sorted(path.name for path in curated.glob(f"{info['config_name']}-*.parquet"))
        schema = pq.read_schema(curated / files[0])
        assert datasets.Features._from_yaml_list(info["features"]) == datasets.Features.from_arrow_schema(schema)
        rows = sum(pq.read_metadata(curated / file).num_rows for file in files)
        assert info["splits"][0]["num_examples"] == rows
        assert info["download_size"] == sum((curated / file).stat().st_size for file in files)


def test_the_card_names_counts_scores_licences_and_biases(curated: Path) -> None:
    head, text = card_of(curated)
    assert head["license"] == "unknown"
    for words in ("| groups | 3 |", "| candidates | 12 |", "| pairs | 12 |", "Known biases", "Here: unknown."):
        assert words in text
    for key in open_dataset(curated).score_keys:
        assert f"(`{key}`)" in text


def test_the_card_tells_nothing_about_the_machine(curated: Path) -> None:
    text = (curated / "README.md").read_text(encoding="utf-8")
    assert str(curated.parent) not in text
    assert str(Path.home()) not in text
    assert '"seed": 11' in text
