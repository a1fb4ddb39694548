import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_core.backbones.lora_files import LoraSet, lora_settings, read_lora, sum_loras, write_lora
from sr_core.errors import WeightsError


def some_lora(
    seed: int, *, rank: int = 3, alpha: float = 6.0, layers: tuple[str, ...] = ("a.proj", "proj_out")
) -> LoraSet:
    generator = torch.Generator().manual_seed(seed)
    down = {layer: torch.randn(rank, 5, generator=generator) for layer in layers}
    up = {layer: torch.randn(7, rank, generator=generator) for layer in layers}
    return LoraSet(down, up, dict.fromkeys(layers, alpha))


def change(lora: LoraSet, layer: str) -> torch.Tensor:
    """Return what a set adds to a layer's weight."""
    if layer not in lora.down:
        return torch.zeros(7, 5)
    return lora.scale(layer) * lora.up[layer] @ lora.down[layer]


def assert_equal(one: LoraSet, other: LoraSet) -> None:
    assert one.down.keys() == other.down.keys()
    for layer in one.down:
        assert torch.equal(one.down[layer], other.down[layer])
        assert torch.equal(one.up[layer], other.up[layer])
        assert one.alpha[layer] == other.alpha[layer]


@pytest.mark.parametrize("name", ["lora.safetensors", "folder"])
def test_reading_undoes_writing(tmp_path: Path, name: str) -> None:
    lora = some_lora(0)
    odd = some_lora(1, rank=2, alpha=1.5, layers=("b.odd",))
    lora = LoraSet(lora.down | odd.down, lora.up | odd.up, lora.alpha | odd.alpha)
    path = write_lora(tmp_path / name, lora, component="transformer", base="somewhere")
    assert_equal(read_lora(path, component="transformer"), lora)


def test_a_sum_changes_every_layer_by_the_sum_of_changes() -> None:
    one, other = some_lora(0, rank=2, alpha=5), some_lora(1, rank=4, alpha=4, layers=("proj_out", "b"))
    total = sum_loras([one, other], [1.0, 0.5])
    assert set(total.down) == {"a.proj", "proj_out", "b"}
    assert total.rank("proj_out") == 6
    for layer in total.down:
        wanted = change(one, layer) + 0.5 * change(other, layer)
        torch.testing.assert_close(change(total, layer), wanted, atol=1e-5, rtol=1e-5)


def test_the_sum_of_one_set_is_the_set() -> None:
    lora = some_lora(3)
    for layer in lora.down:
        torch.testing.assert_close(change(sum_loras([lora]), layer), change(lora, layer))


def test_the_rule_names_layers_whole_and_keeps_exceptions() -> None:
    lora = sum_loras([some_lora(0, rank=2), some_lora(1, rank=2), some_lora(2, rank=3, layers=("a.proj",))])
    settings = lora_settings(lora)
    assert settings["r"] in (4, 7)
    assert settings["target_modules"] == r"a\.proj|proj_out"
    assert settings["rank_pattern"].keys() <= {"^a.proj", "^proj_out"}
    assert len(settings["rank_pattern"]) == 1


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_model.model.", "base_model.model.transformer."])
@pytest.mark.parametrize("halves", [("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora.down", "lora.up")])
def test_names_of_every_release_are_read(tmp_path: Path, prefix: str, halves: tuple[str, str]) -> None:
    lora = some_lora(0, rank=4, alpha=4)
    stored = {}
    for layer in lora.down:
        stored[f"{prefix}{layer}.{halves[0]}.weight"] = lora.down[layer]
        stored[f"{prefix}{layer}.{halves[1]}.weight"] = lora.up[layer]
    save_file(stored, tmp_path / "pytorch_lora_weights_v2.safetensors")
    assert_equal(read_lora(tmp_path / "pytorch_lora_weights_v2.safetensors", component="transformer"), lora)
    assert_equal(read_lora(tmp_path, component="transformer"), lora)


def test_alpha_is_found_beside_in_the_header_and_among_the_tensors(tmp_path: Path) -> None:
    lora = some_lora(0, rank=4, alpha=2)
    folder, single = write_lora(tmp_path / "f", lora, component="unet"), tmp_path / "s.safetensors"
    assert read_lora(folder, component="unet").alpha == lora.alpha
    assert read_lora(write_lora(single, lora, component="unet"), component="unet").alpha == lora.alpha
    stored = load_file(single)
    stored |= {f"unet.{layer}.alpha": torch.tensor(2.0) for layer in lora.down}
    save_file(stored, tmp_path / "t.safetensors")
    assert read_lora(tmp_path / "t.safetensors", component="unet").alpha == lora.alpha
    with safe_open(single, framework="pt") as opened:
        assert json.loads(opened.metadata()["lora_adapter_metadata"])["unet.lora_alpha"] == 2


def test_a_lora_of_root_rank_keeps_its_scale(tmp_path: Path) -> None:
    folder = write_lora(tmp_path, some_lora(0, rank=4, alpha=2), component="unet")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "use_rslora": True}), encoding="utf-8")
    assert read_lora(folder, component="unet").scale("proj_out") == pytest.approx(2 / 4**0.5)


@pytest.mark.parametrize(
    ("dropped", "added", "words"),
    [
        ("unet.proj_out.lora_A.weight", None, "both halves of every layer; proj_out lacks one"),
        (None, "unet.proj_out.dora_scale", "pairs alone .*unet.proj_out.dora_scale|pairs alone .*proj_out.dora_scale"),
        (None, "text_encoder.layer.weight", "text_encoder.layer.weight"),
    ],
)
def test_a_file_that_is_no_whole_lora_is_refused_by_its_key(
    tmp_path: Path, dropped: str | None, added: str | None, words: str
) -> None:
    path = write_lora(tmp_path / "lora.safetensors", some_lora(0), component="unet")
    stored = load_file(path)
    if dropped:
        del stored[dropped]
    if added:
        stored[added] = torch.zeros(2)
    save_file(stored, path)
    with pytest.raises(WeightsError, match=words):
        read_lora(path, component="unet")


def test_halves_of_different_rank_are_refused(tmp_path: Path) -> None:
    lora = some_lora(0)
    path = write_lora(
        tmp_path / "l.safetensors", lora._replace(up={k: v[:, :2] for k, v in lora.up.items()}), component="u"
    )
    with pytest.raises(WeightsError, match=r"share a rank, got shapes \(3, 5\) and \(7, 2\)"):
        read_lora(path, component="u")


@pytest.mark.parametrize("content", [b"", b"\xff" * 64])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lora.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as a LoRA"):
        read_lora(tmp_path / "lora.safetensors", component="unet")


def test_a_folder_without_a_lora_and_one_with_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="must be a LoRA"):
        read_lora(tmp_path, component="unet")
    for name in ("one.safetensors", "two.safetensors"):
        write_lora(tmp_path / name, some_lora(0), component="unet")
    with pytest.raises(WeightsError, match="must be a LoRA"):
        read_lora(tmp_path, component="unet")


@pytest.mark.parametrize("change_of", [{"use_dora": True}, {"peft_type": "LOHA"}])
def test_other_kinds_of_adapters_are_refused(tmp_path: Path, change_of: dict[str, object]) -> None:
    folder = write_lora(tmp_path, some_lora(0), component="unet")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **change_of}), encoding="utf-8")
    with pytest.raises(WeightsError, match="plain LoRA"):
        read_lora(folder, component="unet")


def test_another_trainers_names_are_converted(tmp_path: Path) -> None:
    lora = some_lora(0, rank=4, alpha=4)
    save_file(
        {f"lora_unet_{layer.replace('.', '_')}": value for layer, value in lora.down.items()},
        tmp_path / "k.safetensors",
    )
    named = {f"unet.{k}.lora_A.weight": lora.down[k] for k in lora.down} | {
        f"unet.{k}.lora_B.weight": lora.up[k] for k in lora.up
    }
    assert_equal(read_lora(tmp_path / "k.safetensors", component="unet", convert=lambda _: named), lora)
