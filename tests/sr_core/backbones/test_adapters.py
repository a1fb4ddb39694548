import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from sr_core.backbones.adapters import (
    active_loras,
    add_lora,
    convolution_names,
    load_lora,
    lora_names,
    lora_parameters,
    lora_set,
    merge_adapter,
    merge_loras,
    use_loras,
    using_loras,
)
from sr_core.backbones.flow_head import FlowHead
from sr_core.backbones.flux import LORA_TARGETS
from sr_core.backbones.lora_files import LoraSet, sum_loras, write_lora
from sr_core.errors import ConfigError, WeightsError
from tests.sr_core.backbones.conftest import random_head
from tests.sr_core.backbones.test_flow_head import photo_input
from tests.tiny_flux import TRANSFORMER, flux_inputs, random_lora, randomise


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


ONE, OTHER = "one", "other"


@pytest.fixture
def flux() -> FluxTransformer2DModel:
    """Return a small FLUX transformer with two LoRA sets, none of them at work."""
    transformer = FluxTransformer2DModel(**TRANSFORMER).eval().requires_grad_(False)
    randomise(transformer, 0)
    sets = [random_lora(copy.deepcopy(transformer), seed, rank=rank) for seed, rank in ((1, 4), (2, 3))]
    for name, lora in zip((ONE, OTHER), sets, strict=True):
        load_lora(transformer, name, lora)
    return transformer


def flux_prediction(transformer: FluxTransformer2DModel) -> torch.Tensor:
    return transformer(**flux_inputs(), return_dict=False)[0].detach()


def test_loading_sets_puts_none_at_work(flux: FluxTransformer2DModel) -> None:
    assert lora_names(flux) == (ONE, OTHER)
    assert active_loras(flux) == ()
    bare = FluxTransformer2DModel(**TRANSFORMER)
    randomise(bare, 0)
    torch.testing.assert_close(flux_prediction(flux), flux_prediction(bare))


def test_two_sets_at_work_equal_their_sum_as_one(flux: FluxTransformer2DModel) -> None:
    use_loras(flux, (ONE, OTHER))
    both = flux_prediction(flux)
    load_lora(flux, "total", sum_loras([lora_set(flux, ONE), lora_set(flux, OTHER)]))
    use_loras(flux, ("total",))
    torch.testing.assert_close(flux_prediction(flux), both, atol=1e-5, rtol=1e-5)
    use_loras(flux, (ONE,))
    assert float((flux_prediction(flux) - both).abs().max()) > 1e-2


def test_merged_weights_predict_what_the_sets_at_work_predict(flux: FluxTransformer2DModel) -> None:
    names = {name.replace(".base_layer", "") for name in flux.state_dict() if "lora_" not in name}
    use_loras(flux, (ONE, OTHER))
    both = flux_prediction(flux)
    merge_loras(flux, (ONE, OTHER))
    torch.testing.assert_close(flux_prediction(flux), both, atol=1e-5, rtol=1e-5)
    assert set(flux.state_dict()) == names
    assert lora_names(flux) == ()


def test_merging_one_set_leaves_the_other_out(flux: FluxTransformer2DModel) -> None:
    use_loras(flux, (OTHER,))
    one = copy.deepcopy(flux)
    use_loras(one, (ONE,))
    wanted = flux_prediction(one)
    merge_loras(flux, (ONE,))
    torch.testing.assert_close(flux_prediction(flux), wanted, atol=1e-5, rtol=1e-5)


def test_a_fresh_set_changes_nothing_and_its_seed_decides_it(flux: FluxTransformer2DModel) -> None:
    use_loras(flux, (ONE,))
    before = flux_prediction(flux)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        add_lora(flux, name, rank=2, alpha=2.0, targets=LORA_TARGETS, seed=seed)
    assert active_loras(flux) == (ONE,)
    use_loras(flux, (ONE, "a"))
    assert torch.equal(flux_prediction(flux), before)
    a, b, c = (lora_set(flux, name).down["x_embedder"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_block_with_other_sets_restores_sets_and_gradients_even_if_it_fails(flux: FluxTransformer2DModel) -> None:
    use_loras(flux, (ONE, OTHER), trained=OTHER)
    before = {name for name, parameter in flux.named_parameters() if parameter.requires_grad}
    assert before == {name for name, _ in flux.named_parameters() if f".{OTHER}." in name}

    def fail() -> None:
        with using_loras(flux, ()):
            assert active_loras(flux) == ()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert active_loras(flux) == (ONE, OTHER)
    assert {name for name, parameter in flux.named_parameters() if parameter.requires_grad} == before


def test_only_the_trained_set_learns(flux: FluxTransformer2DModel) -> None:
    use_loras(flux, (ONE, OTHER), trained=OTHER)
    flux(**flux_inputs(), return_dict=False)[0].square().mean().backward()
    assert all(p.grad is None for p in lora_parameters(flux, ONE).values())
    assert all(p.grad is not None for p in lora_parameters(flux, OTHER).values())


def test_the_listed_layers_are_asasrs_and_no_others(flux: FluxTransformer2DModel) -> None:
    layers = set(lora_set(flux, ONE).down)
    double = {"norm1.linear", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.2"}
    single = {"norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v"}
    wanted = {f"transformer_blocks.{k}.{name}" for k in (0, 1) for name in double}
    wanted |= {f"single_transformer_blocks.{k}.{name}" for k in (0, 1) for name in single}
    assert layers == {"x_embedder", *wanted}


@pytest.mark.parametrize("kind", ["lora.safetensors", "folder"])
def test_an_exported_sum_is_loaded_by_diffusers_and_peft_themselves(
    flux: FluxTransformer2DModel, tmp_path: Path, kind: str
) -> None:
    use_loras(flux, (ONE, OTHER))
    both = flux_prediction(flux)
    total = sum_loras([lora_set(flux, ONE), lora_set(flux, OTHER)])
    path = write_lora(tmp_path / kind, total, component="transformer")
    bare = FluxTransformer2DModel(**TRANSFORMER).eval()
    randomise(bare, 0)
    if kind == "folder":
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(bare, str(path)).base_model.model
    else:
        bare.load_lora_adapter(str(path.parent), weight_name=path.name, local_files_only=True)
        loaded = bare
    torch.testing.assert_close(flux_prediction(loaded), both, atol=1e-5, rtol=1e-5)


def test_a_set_for_another_network_is_refused_by_the_layer(flux: FluxTransformer2DModel) -> None:
    lora = lora_set(flux, ONE)
    renamed = LoraSet({"blocks.0": lora.down["x_embedder"]}, {"blocks.0": lora.up["x_embedder"]}, {"blocks.0": 4.0})
    with pytest.raises(WeightsError, match=r"this one has no layer blocks\.0"):
        load_lora(flux, "new", renamed)
    narrow = lora._replace(down=lora.down | {"x_embedder": lora.down["x_embedder"][:, :60]})
    with pytest.raises(WeightsError, match="x_embedder must map 64 to 32 values, got 60 to 32"):
        load_lora(flux, "new", narrow)


def test_names_that_are_not_there_or_taken_are_refused(flux: FluxTransformer2DModel) -> None:
    for call in (lambda: use_loras(flux, ("no",)), lambda: lora_set(flux, "no"), lambda: merge_loras(flux, ["no"])):
        with pytest.raises(ConfigError, match="one of one, other, got 'no'"):
            call()
    with pytest.raises(ConfigError, match="a name of its own"):
        load_lora(flux, ONE, lora_set(flux, OTHER))
    with pytest.raises(ConfigError, match="must name layers"):
        add_lora(flux, "new", rank=2, alpha=2.0, targets="nothing_like_it")


def test_a_quantised_base_is_not_merged_into(flux: FluxTransformer2DModel) -> None:
    layer = flux.get_submodule("x_embedder.base_layer")
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="full precision"):
        merge_loras(flux, [ONE])
