import json
from pathlib import Path

import pytest

from sr_core.errors import ConfigError
from train.bench_gpu import bench_gpu, planned_rows, table


def test_the_table_names_every_row_of_the_issue_and_is_blank_before_it_is_run() -> None:
    rows = planned_rows()
    names = {row.name for row in rows}
    for backbone in ("c-sd2", "c-flux", "flux-lora"):
        for side in (512, 1024):
            assert {f"{backbone} {side} draw N={count}" for count in (1, 8)} <= names
        assert {f"{backbone} 512 {what}" for what in ("sft", "hpo", "sobolev_dpo")} <= names
    assert {"c-flux 1024 draw N=4", "flux-lora 1024 draw N=4"} <= names
    for line in table(rows).splitlines()[2:]:
        assert [cell.strip() for cell in line.split("|")[4:-1]] == [""] * 6


def test_tiny_models_run_the_same_code_on_a_cpu_and_rows_not_run_stay_blank(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    only = "c-sd2 512 draw N=1;c-flux 512 draw N=1;flux-lora 512"
    text = bench_gpu(tiny=True, device="cpu", only=only, runs=1, json_file=file)
    assert text.startswith("tiny random weights on cpu")
    assert "flux-lora: sobolev_dpo step / hpo step = " in text
    for row in json.loads(file.read_text(encoding="utf-8")):
        name = f"{row['backbone']} {row['side']} {row['what']}"
        ran = any(part in name for part in only.split(";"))
        assert (row["seconds"] is not None) == ran, name
        assert (row["flops"] is not None) == ran
        assert (row["mfu"], row["peak_gb"], row["note"]) == (None, None, "")
        if ran and row["what"].startswith("draw"):
            assert row["per_candidate"] * int(row["what"][-1]) == pytest.approx(row["seconds"])


def test_full_size_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tiny runs the same code"):
        bench_gpu(tiny=False, device="cpu")
