import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from sr_core.backbones.adapters import convolution_names, merge_adapter
from sr_core.backbones.flow_head import FlowHead
from sr_core.errors import WeightsError
from tests.sr_core.backbones.conftest import random_head
from tests.sr_core.backbones.test_flow_head import photo_input


def prediction(head: FlowHead) -> torch.Tensor:
    x = torch.randn(2, 48, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return head.clean(x, torch.tensor([1.0, 0.4]), head.photo_embedding(photo_input()))


def adapted(head: FlowHead, rank: int = 2) -> nn.Module:
    """Return the head wrapped by peft, its LoRA at zero."""
    return get_peft_model(head, LoraConfig(r=rank, lora_alpha=3, target_modules=convolution_names(head)))


def stored(folder: Path, head: FlowHead) -> torch.Tensor:
    """Train a LoRA on a copy of `head` by accident, store it in `folder`, and return what it predicts."""
    model = adapted(copy.deepcopy(head))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(str(folder))
    return prediction(model.base_model.model)


def test_every_convolution_is_named_and_can_be_adapted(head: FlowHead) -> None:
    names = convolution_names(head)
    assert {"embed_x", "out", "down.0.0.conv1"} <= set(names)
    assert all(isinstance(head.get_submodule(name), nn.Conv2d) for name in names)
    trained = [n for n, p in adapted(copy.deepcopy(head)).named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(names)


def test_a_fresh_lora_changes_nothing(head: FlowHead) -> None:
    before = prediction(head)
    assert torch.equal(prediction(adapted(head).base_model.model), before)


def test_a_merged_folder_gives_the_adapted_network(head: FlowHead, tmp_path: Path) -> None:
    before, wanted = prediction(head), stored(tmp_path, head)
    merge_adapter(head, tmp_path)
    assert float((wanted - before).abs().max()) > 1e-2
    torch.testing.assert_close(prediction(head), wanted, atol=1e-5, rtol=0)


def test_a_merged_head_is_an_ordinary_head(head: FlowHead, tmp_path: Path) -> None:
    names = list(head.state_dict())
    stored(tmp_path, head)
    merge_adapter(head, tmp_path)
    assert list(head.state_dict()) == names


def test_an_incomplete_folder_is_refused_without_a_network(head: FlowHead, tmp_path: Path) -> None:
    stored(tmp_path, head)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        lone = tmp_path / f"without_{name}"
        lone.mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if file != name:
                (lone / file).write_bytes((tmp_path / file).read_bytes())
        with pytest.raises(WeightsError, match="must be a PEFT folder"):
            merge_adapter(copy.deepcopy(head), lone)


def test_a_folder_for_another_network_is_refused(head: FlowHead, tmp_path: Path) -> None:
    stored(tmp_path, FlowHead((8, 8, 24), (2, 1, 1)))
    with pytest.raises(WeightsError, match=r"another network|of this network"):
        merge_adapter(head, tmp_path)


def test_half_an_adapter_is_refused(head: FlowHead, tmp_path: Path) -> None:
    stored(tmp_path, head)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="another network"):
        merge_adapter(head, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64])
def test_damaged_weights_are_refused(head: FlowHead, tmp_path: Path, content: bytes) -> None:
    stored(tmp_path, head)
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        merge_adapter(head, tmp_path)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
def test_another_kind_of_adapter_is_refused(tmp_path: Path) -> None:
    head = random_head()
    stored(tmp_path, head)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "peft_type": "PREFIX_TUNING"}), encoding="utf-8")
    with pytest.raises(WeightsError):
        merge_adapter(head, tmp_path)
