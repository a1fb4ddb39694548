import copy

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from sr_core.backbones.adapters import load_lora, merge_loras, use_loras, using_loras
from sr_core.backbones.flux_conditioned import ConditionedFlux, condition_flux
from tests.tiny_flux import TRANSFORMER, flux_inputs, random_lora, randomise

CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture
def plain() -> FluxTransformer2DModel:
    """Return a small FLUX transformer as diffusers has it."""
    transformer = FluxTransformer2DModel(**TRANSFORMER).eval().requires_grad_(False)
    randomise(transformer, 0)
    return transformer


def photo_inputs(seed: int = 1) -> dict[str, Tensor]:
    inputs = flux_inputs(seed)
    return {"photo": inputs["hidden_states"], "photo_ids": inputs["img_ids"]}


def no_photo() -> dict[str, Tensor]:
    return {"photo": torch.zeros(2, 0, 64), "photo_ids": torch.zeros(0, 3)}


def with_lora(plain: FluxTransformer2DModel, lora_tokens: str, *, name: str = "sft") -> ConditionedFlux:
    lora = random_lora(copy.deepcopy(plain), 3)
    load_lora(plain, name, lora)
    use_loras(plain, (name,))
    return condition_flux(plain, lora_tokens=lora_tokens)


def test_without_the_photos_tokens_it_is_the_plain_transformer(plain: FluxTransformer2DModel) -> None:
    wanted = plain(**flux_inputs(), return_dict=False)[0]
    names = list(plain.state_dict())
    conditioned = condition_flux(plain)
    torch.testing.assert_close(conditioned(**flux_inputs(), **no_photo()), wanted, **CLOSE)
    assert list(conditioned.state_dict()) == names


@pytest.mark.parametrize("guided", [True, False])
def test_at_time_zero_the_photo_is_one_more_part_of_the_image(guided: bool) -> None:
    """Both streams then have one modulation, and the plain transformer on the joined tokens is the reference."""
    plain = FluxTransformer2DModel(**TRANSFORMER | {"guidance_embeds": guided}).eval().requires_grad_(False)
    randomise(plain, 0)
    inputs, photo = flux_inputs() | {"timestep": torch.zeros(2)}, photo_inputs()
    if not guided:
        inputs["guidance"] = None
    ids = photo["photo_ids"] + torch.tensor([0.0, 1.0, 2.0])
    joined = inputs | {
        "hidden_states": torch.cat([inputs["hidden_states"], photo["photo"]], dim=1),
        "img_ids": torch.cat([inputs["img_ids"], ids]),
    }
    wanted = plain(**joined, return_dict=False)[0][:, : inputs["hidden_states"].shape[1]]
    found = condition_flux(plain)(**inputs, photo=photo["photo"], photo_ids=ids)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_the_photo_its_places_and_nothing_else_of_it_change_the_prediction(plain: FluxTransformer2DModel) -> None:
    conditioned, inputs, photo = condition_flux(plain), flux_inputs(), photo_inputs()
    found = conditioned(**inputs, **photo)
    other = conditioned(**inputs, **photo_inputs(2))
    moved = conditioned(**inputs, photo=photo["photo"], photo_ids=photo["photo_ids"] + torch.tensor([0.0, 9.0, 0.0]))
    for changed in (other, moved):
        assert float((changed - found).abs().max()) > 1e-2
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = conditioned(**inputs, photo=photo["photo"][:, order], photo_ids=photo["photo_ids"][order])
    torch.testing.assert_close(shuffled, found, **CLOSE)


def test_a_lora_on_the_photos_tokens_does_nothing_without_them(plain: FluxTransformer2DModel) -> None:
    bare = plain(**flux_inputs(), return_dict=False)[0]
    conditioned = with_lora(plain, "photo")
    torch.testing.assert_close(conditioned(**flux_inputs(), **no_photo()), bare, **CLOSE)
    seen = conditioned(**flux_inputs(), **photo_inputs())
    with using_loras(conditioned, ()):
        assert float((conditioned(**flux_inputs(), **photo_inputs()) - seen).abs().max()) > 1e-2


def test_a_lora_on_all_tokens_is_diffusers_own_and_equals_its_merged_weights(plain: FluxTransformer2DModel) -> None:
    reference = copy.deepcopy(plain)
    load_lora(reference, "sft", random_lora(copy.deepcopy(plain), 3))
    use_loras(reference, ("sft",))
    wanted = reference(**flux_inputs(), return_dict=False)[0]
    conditioned = with_lora(plain, "all")
    torch.testing.assert_close(conditioned(**flux_inputs(), **no_photo()), wanted, **CLOSE)
    seen = conditioned(**flux_inputs(), **photo_inputs())
    merge_loras(conditioned, ["sft"])
    torch.testing.assert_close(conditioned(**flux_inputs(), **photo_inputs()), seen, **CLOSE)


def test_a_lora_at_zero_changes_nothing_wherever_it_works(plain: FluxTransformer2DModel) -> None:
    bare = condition_flux(copy.deepcopy(plain))(**flux_inputs(), **photo_inputs())
    zero = random_lora(copy.deepcopy(plain), 3, spread=0.0)
    for lora_tokens in ("photo", "all"):
        own = copy.deepcopy(plain)
        load_lora(own, "sft", zero)
        use_loras(own, ("sft",))
        conditioned = condition_flux(own, lora_tokens=lora_tokens)
        torch.testing.assert_close(conditioned(**flux_inputs(), **photo_inputs()), bare, **CLOSE)


def test_gradients_with_checkpointing_are_those_without(plain: FluxTransformer2DModel) -> None:
    conditioned = with_lora(plain, "photo")
    use_loras(conditioned, ("sft",), trained="sft")
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            conditioned.enable_gradient_checkpointing()
            conditioned.train()
        conditioned.zero_grad()
        conditioned(**flux_inputs(), **photo_inputs()).square().mean().backward()
        trained = {name: p.grad for name, p in conditioned.named_parameters() if p.requires_grad}
        grads.append({name: grad.clone() for name, grad in trained.items() if grad is not None})
        # What the photo's tokens become after the last attention is read by nothing.
        idle = {name.split(".lora_")[0] for name in trained.keys() - grads[-1].keys()}
        assert idle == {f"single_transformer_blocks.1.{layer}" for layer in ("proj_mlp", "proj_out")}
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, **CLOSE)


def test_half_precision_stays_close(plain: FluxTransformer2DModel) -> None:
    """At times and guidance that bfloat16 holds exactly; others are rounded, as in every use of FLUX in bfloat16."""
    conditioned = condition_flux(plain)
    numbers = {"timestep": torch.tensor([0.25, 0.5]), "guidance": torch.full((2,), 2.0)}
    inputs = flux_inputs() | photo_inputs() | numbers
    exact = conditioned(**inputs)
    conditioned.to(torch.bfloat16)
    found = conditioned(**{key: value.to(torch.bfloat16) for key, value in inputs.items()})
    assert found.dtype == torch.bfloat16
    assert float((found.float() - exact).abs().mean()) < 0.05 * float(exact.abs().mean())
