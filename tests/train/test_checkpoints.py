import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from sr_core.errors import ConfigError, WeightsError
from sr_core.files import replace_text
from train.checkpoints import (
    MARKER,
    Checkpoint,
    check_start,
    check_written,
    finished,
    latest_checkpoint,
    load_checkpoint,
    replace_tensors,
    save_checkpoint,
    step_folder,
)
from train.optimizers import optimizer_tensors, restore_optimizer


def checkpoint(value: float = 1.0) -> Checkpoint:
    tensors = {"model": {"a": torch.full((2, 3), value)}, "ema": {"a": torch.arange(4.0)}}
    return Checkpoint(tensors, {"step": int(value), "recipe": {"seed": 1}})


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, checkpoint(7), keep=2)
    found = load_checkpoint(path)
    assert found.state == {"step": 7, "recipe": {"seed": 1}}
    assert found.tensors.keys() == {"model", "ema"}
    assert torch.equal(found.tensors["model"]["a"], torch.full((2, 3), 7.0))


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for step in (9, 10, 100, 20000):
        save_checkpoint(tmp_path, step, checkpoint(step), keep=2)
    assert finished(tmp_path) == [step_folder(tmp_path, 100), step_folder(tmp_path, 20000)]
    assert sorted(tmp_path.iterdir()) == finished(tmp_path)
    assert latest_checkpoint(tmp_path).state["step"] == 20000


def test_a_checkpoint_without_its_marker_does_not_count(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, checkpoint(1), keep=3)
    torn = save_checkpoint(tmp_path, 2, checkpoint(2), keep=3)
    (torn / MARKER).unlink()
    assert latest_checkpoint(tmp_path).state["step"] == 1
    with pytest.raises(ConfigError, match="must be a folder with _SUCCESS"):
        load_checkpoint(torn)
    save_checkpoint(tmp_path, 2, checkpoint(2), keep=3)
    assert latest_checkpoint(tmp_path).state["step"] == 2


def test_what_a_crash_left_of_a_checkpoint_is_written_over(tmp_path: Path) -> None:
    partial = tmp_path / ".partial_00000005"
    partial.mkdir()
    (partial / "junk.safetensors").write_bytes(b"half a tensor")
    path = save_checkpoint(tmp_path, 5, checkpoint(5), keep=1)
    assert sorted(p.name for p in path.iterdir()) == [MARKER, "ema.safetensors", "model.safetensors", "state.json"]
    assert not partial.exists()


def flip_last_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_last_bit, halve, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_tensors_that_read_back_otherwise_leave_the_earlier_checkpoints_to_resume_from(
    damage: Callable[[Path], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, folder = tmp_path, tmp_path / "checkpoints"
    earlier = [save_checkpoint(folder, step, checkpoint(step), keep=2) for step in (1, 2)]

    def on_a_bad_disk(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        replace_tensors(path, tensors)
        if path.name == name:
            damage(path)

    with monkeypatch.context() as patch:
        patch.setattr("train.checkpoints.replace_tensors", on_a_bad_disk)
        with pytest.raises(WeightsError, match=f"must read back as it was written, .* has another {name};"):
            save_checkpoint(folder, 3, checkpoint(3), keep=1)
    assert finished(folder) == earlier
    assert not step_folder(folder, 3).exists()
    check_start(output, resume=True)
    assert latest_checkpoint(folder).state["step"] == 2
    save_checkpoint(folder, 3, checkpoint(3), keep=1)
    assert sorted(folder.iterdir()) == finished(folder) == [step_folder(folder, 3)]


def test_a_state_that_reads_back_otherwise_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, checkpoint(1), keep=1)
    with monkeypatch.context() as patch:
        patch.setattr("train.checkpoints.replace_text", lambda path, text: replace_text(path, text[:-2]))
        with pytest.raises(WeightsError, match=r"another state\.json"):
            save_checkpoint(tmp_path, 2, checkpoint(2), keep=1)
    assert latest_checkpoint(tmp_path).state["step"] == 1


def test_a_checkpoint_is_read_back_before_it_is_marked_and_marked_before_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = save_checkpoint(tmp_path, 1, checkpoint(1), keep=1), step_folder(tmp_path, 2)
    seen: list[str] = []

    def note(word: str, function: Callable[..., None]) -> Callable[..., None]:
        def noting(path: Path, *arguments: object, **options: object) -> None:
            if word == "check" or path in (old, new / MARKER):
                seen.append(f"{word} {len(finished(tmp_path))}")
            function(path, *arguments, **options)

        return noting

    monkeypatch.setattr("train.checkpoints.check_written", note("check", check_written))
    monkeypatch.setattr("train.checkpoints.replace_text", note("mark", replace_text))
    monkeypatch.setattr("train.checkpoints.shutil.rmtree", note("prune", shutil.rmtree))
    save_checkpoint(tmp_path, 2, checkpoint(2), keep=1)
    assert seen == ["check 1", "mark 1", "prune 2"]


def test_not_a_number_and_tensors_without_dimensions_read_back(tmp_path: Path) -> None:
    odd = {"nan": torch.tensor([float("nan"), -0.0]), "step": torch.tensor(3), "none": torch.zeros(0, 2)}
    odd |= {"half": torch.ones(2, 3, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)}
    odd |= {"mask": torch.tensor([True, False]), "whole": torch.ones((), dtype=torch.float32, requires_grad=True)}
    found = load_checkpoint(save_checkpoint(tmp_path, 1, Checkpoint({"odd": odd}, {}), keep=1))
    assert found.tensors["odd"].keys() == odd.keys()
    with pytest.raises(WeightsError, match=r"another odd\.safetensors"):
        check_written(step_folder(tmp_path, 1), Checkpoint({"odd": {**odd, "step": torch.tensor(3.0)}}, {}))


def test_resuming_where_there_is_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a finished checkpoint"):
        latest_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="needs a finished checkpoint"):
        check_start(tmp_path, resume=True)
    check_start(tmp_path, resume=False)


def test_starting_anew_where_a_run_lies_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoints", 1, checkpoint(), keep=1)
    check_start(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="already holds a run; go on with --resume"):
        check_start(tmp_path, resume=False)


def test_files_are_replaced_whole_and_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    replace_text(path, "old")
    replace_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    replace_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2, 3).T}, {"layout": "1"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["note.txt", "x.safetensors"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)).to(memory_format=torch.channels_last)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_a_restored_optimiser_goes_on_bit_for_bit(tmp_path: Path) -> None:
    unbroken, broken = network(), network()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in (unbroken, broken)]
    train(unbroken, optimizers[0], range(6))
    train(broken, optimizers[1], range(3))
    sets = {"model": dict(broken.state_dict()), "optimizer": optimizer_tensors(optimizers[1])}
    found = load_checkpoint(save_checkpoint(tmp_path, 3, Checkpoint(sets, {}), keep=1))
    resumed = network()
    resumed.load_state_dict(found.tensors["model"])
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    restore_optimizer(optimizer, found.tensors["optimizer"])
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
    train(resumed, optimizer, range(3, 6))
    for ours, theirs in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(ours, theirs)
