import copy
from typing import Any

import accelerate
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from sr_core.backbones.backbone import LoadOptions
from sr_core.backbones.memory import check_memory_options, is_quantized, place, quantization, slice_attention
from sr_core.errors import ConfigError
from tests.tiny_flux import TRANSFORMER, flux_inputs, randomise
from tests.tiny_models import tiny_unet


@pytest.fixture
def transformer() -> FluxTransformer2DModel:
    """Return a small FLUX transformer."""
    network = FluxTransformer2DModel(**TRANSFORMER).eval().requires_grad_(False)
    randomise(network, 0)
    return network


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_a_machine_without_cuda_refuses_quantised_weights_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind} weights need a CUDA device, got cpu; use quantize none"):
        check_memory_options(LoadOptions(quantize=kind), "cpu")


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_a_machine_without_an_accelerator_refuses_to_offload(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"offload {kind} spares the memory of an accelerator; use offload none"):
        check_memory_options(LoadOptions(offload=kind), "cpu")


def test_quantised_layers_are_not_moved_one_by_one() -> None:
    with pytest.raises(ConfigError, match="8bit weights cannot be moved layer by layer"):
        check_memory_options(LoadOptions(quantize="8bit", offload="sequential"), "cuda")


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(quantize="4bit"), LoadOptions(offload="sequential")])
def test_what_a_machine_can_do_is_accepted(options: LoadOptions) -> None:
    device = "cpu" if options == LoadOptions() else "cuda"
    assert check_memory_options(options, device) is None


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_core.backbones.memory.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        check_memory_options(LoadOptions(quantize="8bit"), "cuda")


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_each_library_is_told_its_own_way(library: Any) -> None:
    assert quantization(LoadOptions(), library, dtype=torch.bfloat16) == {}
    eight = quantization(LoadOptions(quantize="8bit"), library, dtype=torch.bfloat16)["quantization_config"]
    four = quantization(LoadOptions(quantize="4bit"), library, dtype=torch.bfloat16)["quantization_config"]
    assert type(eight).__module__.startswith(library)
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    assert (four.load_in_8bit, four.load_in_4bit) == (False, True)
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


def test_layers_that_wait_are_away_between_calls_and_predict_the_same(transformer: FluxTransformer2DModel) -> None:
    wanted = transformer(**flux_inputs(), return_dict=False)[0]
    place([transformer], LoadOptions(offload="sequential"), "cpu")
    assert {parameter.device.type for parameter in transformer.parameters()} == {"meta"}
    torch.testing.assert_close(transformer(**flux_inputs(), return_dict=False)[0], wanted)
    assert {parameter.device.type for parameter in transformer.parameters()} == {"meta"}


def test_of_networks_in_turn_each_sends_the_one_before_away(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[nn.Module, torch.device, object]] = []

    def record(network: nn.Module, device: torch.device, prev_module_hook: object = None) -> tuple[nn.Module, object]:
        calls.append((network, device, prev_module_hook))
        return network, f"hook {len(calls)}"

    monkeypatch.setattr(accelerate, "cpu_offload_with_hook", record)
    first, second, beside = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    place([first, second], LoadOptions(offload="model"), "cuda", beside=[beside])
    device = torch.device("cuda", 0)
    assert calls == [(first, device, None), (second, device, "hook 1"), (beside, device, None)]


def test_networks_are_put_on_the_device_but_for_quantised_ones() -> None:
    plain, quantised = nn.Linear(1, 1), nn.Linear(1, 1)
    quantised.hf_quantizer = object()  # type: ignore[assignment]
    place([plain, quantised], LoadOptions(), "meta")
    assert (plain.weight.device.type, quantised.weight.device.type) == ("meta", "cpu")
    assert (is_quantized(plain), is_quantized(quantised)) == (False, True)


def test_attention_in_slices_predicts_the_same() -> None:
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 16))
    sliced = copy.deepcopy(unet)
    slice_attention(sliced)
    kinds = {type(processor).__name__ for processor in sliced.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    with torch.no_grad():
        torch.testing.assert_close(sliced(*inputs).sample, unet(*inputs).sample, atol=1e-5, rtol=1e-5)


def test_a_word_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of whole, sliced, got 'thin'"):
        LoadOptions(attention="thin")


def test_a_class_without_slices_says_so(transformer: FluxTransformer2DModel) -> None:
    with pytest.raises(ConfigError, match="must be whole for FluxTransformer2DModel"):
        slice_attention(transformer)
