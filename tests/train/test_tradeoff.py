import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sr_core.adapter_comparison import MeanInterval
from sr_core.errors import ConfigError
from train.__main__ import app
from train.judge_tables import HOLD_OUTS
from train.tradeoff import draw_trade_offs, read_trade_offs


def gain(mean: float) -> dict[str, float]:
    return {"mean": float(mean), "low": mean - 0.25, "high": mean + 0.5}


def row(reward: float, hold_out: float) -> dict[str, Any]:
    return {
        "reward": {"mean": {"change": gain(reward)}},
        "metrics": {name: {"gain": gain(hold_out + place)} for place, name in enumerate(HOLD_OUTS)},
    }


def write_rows(folder: Path, rows: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "ablations.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_rows_of_several_folders_keep_their_intervals_and_the_last_figures(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "one", {"DPO": row(1, 2), "HPO": row(3, 4)})
    two = write_rows(tmp_path / "two", {"HPO": row(-1, -2), "Sobolev-DPO": row(5, 6)})
    found = read_trade_offs([one, two])
    assert [(line.name, line.reward.mean) for line in found] == [("DPO", 1), ("HPO", -1), ("Sobolev-DPO", 5)]
    assert found[1].hold_outs == {
        name: MeanInterval(place - 2, place - 2.25, place - 1.5) for place, name in enumerate(HOLD_OUTS)
    }


def test_a_folder_without_rows_is_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="python -m train ablate"):
        read_trade_offs([tmp_path])
    with pytest.raises(ConfigError, match="must be a row to draw"):
        read_trade_offs([write_rows(tmp_path / "empty", {})])


def test_rows_are_asked_for_as_they_are_of_ablate(tmp_path: Path) -> None:
    names = ("multi-pair DPO", "AS-DPO", "HPO", "HPO, N/M 1/8")
    folder = write_rows(tmp_path / "rows", {name: row(place, 0) for place, name in enumerate(names)})
    found = read_trade_offs([folder], ("N/M", "=HPO"))
    assert [(line.name, line.reward.mean) for line in found] == [("HPO, N/M 1/8", 3), ("HPO", 2)]
    with pytest.raises(ConfigError, match="a row of supervised to draw"):
        read_trade_offs([folder], ("supervised",))
    with pytest.raises(ConfigError, match="fits none"):
        read_trade_offs([folder], ("no such row",))


def test_the_picture_moves_with_the_figures(tmp_path: Path) -> None:
    pictures = []
    for place, reward in enumerate((0.01, 0.02, 0.02)):
        folder = write_rows(tmp_path / str(place), {"DPO": row(0, 0), "HPO": row(reward, 1)})
        draw_trade_offs(read_trade_offs([folder]), tmp_path / f"{place}.png")
        pictures.append(np.asarray(Image.open(tmp_path / f"{place}.png")))
    assert not np.array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[1], pictures[2])


def test_the_command_says_how_many_rows_it_drew(tmp_path: Path) -> None:
    folder, out = write_rows(tmp_path / "rows", {"DPO": row(0, 0)}), tmp_path / "figure.png"
    result = CliRunner().invoke(app, ["tradeoff", str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 row in" in result.output
    assert out.stat().st_size > 1000
