import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sr_core.errors import ConfigError
from train import random_models
from train.bench_gpu import Row, _Device, _measured, bench_gpu, draw_images, planned_rows, table
from train.flops import utilisation
from train.random_models import random_backbone


def test_the_table_names_every_row_of_the_issue_and_is_blank_before_it_is_run() -> None:
    rows = planned_rows()
    names = {row.name for row in rows}
    for backbone in ("c-sd2", "c-flux", "flux-lora"):
        for side in (512, 1024):
            assert {f"{backbone} {side} draw N={count}" for count in (1, 8)} <= names
        assert {f"{backbone} 512 {what}" for what in ("sft", "hpo", "sobolev_dpo")} <= names
    assert {"c-flux 1024 draw N=4", "flux-lora 1024 draw N=4"} <= names
    for line in table(rows).splitlines()[2:]:
        assert [cell.strip() for cell in line.split("|")[4:-1]] == [""] * 7


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
        assert (row["mfu"], row["hfu"], row["peak_gb"], row["note"]) == (None, None, None, "")
        if ran and row["what"].startswith("draw"):
            assert row["per_candidate"] * int(row["what"][-1]) == pytest.approx(row["seconds"])


@pytest.mark.parametrize("name", ["c-sd2", "c-flux"])
def test_what_is_drawn_is_what_the_product_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_models, "num_parallel", lambda _: 4)
    backbone = random_backbone(name, tiny=True, dtype=torch.float32, device=torch.device("cpu"))
    backbone.drawing = replace(backbone.drawing, num_steps=1)
    passes, draw = [], backbone.draw

    def recorded(condition: Any, seeds: Any, counter: Any) -> Any:
        passes.append(list(seeds))
        return draw(condition, seeds, counter)

    monkeypatch.setattr(backbone, "draw", recorded)
    assert len(draw_images(backbone, 64, 1)) == 1
    assert len(draw_images(backbone, 64, 6)) == 6
    assert passes == [[0, 0, 0, 0], [0, 1, 2, 3], [4, 5, 5, 5]]


def test_as_many_candidates_go_in_a_pass_as_the_loaders_take() -> None:
    assert [random_models.num_parallel(torch.device(name)) for name in ("cuda", "cpu")] == [4, 1]


class Absent(_Device):
    """A GPU that nobody has to own."""

    def __init__(self) -> None:
        self.is_cuda = True

    def peak_gb(self) -> float | None:
        return None


def test_utilisation_is_of_the_model_in_drawing_and_of_the_hardware_in_training() -> None:
    draw, step = (
        _measured(Row(backbone="c-sd2", side=512, what=what), Absent(), [1.0], 10**14) for what in ("draw N=1", "hpo")
    )
    assert draw.mfu == step.hfu == utilisation(10**14, 1.0)
    assert draw.hfu is step.mfu is None
    header, _, first, second = ([cell.strip() for cell in line.split("|")] for line in table([draw, step]).splitlines())
    share = f"{draw.mfu:.1%}"
    assert [(row[header.index("MFU")], row[header.index("HFU")]) for row in (first, second)] == [
        (share, ""), ("", share)
    ]  # fmt: skip


def test_full_size_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tiny runs the same code"):
        bench_gpu(tiny=False, device="cpu")
