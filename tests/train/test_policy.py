"""Sets of LoRA weights on one network: what each predicts, which takes gradients, and in what precision."""

import copy
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from sr_core.backbones.flow_head import FlowHead, HeadInput
from tests.sr_core.backbones.conftest import random_head
from train.policy import ADVERSARY, POLICY, REFERENCE, HeadPolicy

RANK, ALPHA = 2, 4.0


def policy_of(head: FlowHead) -> HeadPolicy:
    return HeadPolicy(head, rank=RANK, alpha=ALPHA)


def moved(policy: HeadPolicy, name: str) -> HeadPolicy:
    generator = torch.Generator().manual_seed(5)
    for value in policy.tensors(name).values():
        value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return policy


def answer(head: FlowHead, *, half: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    x, trunk, prior, lq, gain = (torch.rand((2, c, 8, 8), generator=generator) for c in (48, 64, 48, 3, 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        photo = head.photo_embedding(HeadInput(trunk, prior, lq, gain + 0.1))
        return head.clean(x, torch.tensor([0.4, 1.0]), photo)


def with_summed_weights(policy: HeadPolicy, bare: FlowHead, name: str) -> FlowHead:
    """Return a copy of the bare head whose convolutions hold W + (alpha / rank) B A, summed here."""
    summed, tensors = copy.deepcopy(bare), policy.tensors(name)
    modules = dict(summed.named_modules())
    for key, first in tensors.items():
        if "lora_A" not in key:
            continue
        second = tensors[key.replace("lora_A", "lora_B")]
        convolution = modules[key.split(".lora_A")[0]]
        assert isinstance(convolution, torch.nn.Conv2d)
        product = torch.einsum("or,rikl->oikl", second[:, :, 0, 0], first)
        convolution.weight.data.add_(ALPHA / RANK * product)
    return summed


def test_a_reference_at_zero_predicts_what_the_bare_network_does() -> None:
    bare = random_head()
    policy = moved(policy_of(copy.deepcopy(bare)), POLICY)
    with policy.using(REFERENCE), torch.no_grad():
        assert torch.equal(answer(policy.head), answer(bare))
    with torch.no_grad():
        assert not torch.equal(answer(policy.head), answer(bare))


@pytest.mark.parametrize("name", [REFERENCE, POLICY])
def test_a_set_predicts_what_its_summed_weights_do(name: str) -> None:
    bare = random_head()
    policy = policy_of(copy.deepcopy(bare))
    with policy.using(name):  # a reference that was at zero before it moved must be seen to have moved
        moved(policy, name)
    with policy.using(name), torch.no_grad():
        expected = answer(with_summed_weights(policy, bare, name))
        torch.testing.assert_close(answer(policy.head), expected, rtol=1e-4, atol=1e-5)
        assert float((expected - answer(bare)).abs().max()) > 1e-3


def test_a_reference_at_zero_computes_none_of_its_products() -> None:
    policy = policy_of(random_head())
    layers = [module for module in policy.head.modules() if isinstance(module, LoraLayer)]
    calls: list[str] = []
    for layer in layers:
        for name, first in layer.lora_A.items():
            first.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        answer(policy.head)
        seen = list(calls)
        with policy.using(REFERENCE):
            answer(policy.head)
    assert seen
    assert set(seen) == {POLICY}
    assert calls == seen


def test_gradients_reach_the_policy_alone_before_and_after_the_reference_has_spoken() -> None:
    policy = policy_of(random_head())
    for _ in range(2):
        with policy.using(REFERENCE):
            assert not any(parameter.requires_grad for parameter in policy.head.parameters())
            assert not answer(policy.head).requires_grad
        torch.autograd.backward(answer(policy.head).square().mean())
        taught = {key for key, value in policy.head.named_parameters() if value.grad is not None}
        assert taught == {key for key, _ in policy.head.named_parameters() if f".{POLICY}." in key}
        policy.head.zero_grad(set_to_none=True)


def test_the_adversary_takes_gradients_where_it_is_the_one_in_use() -> None:
    policy = policy_of(random_head())
    policy.add(ADVERSARY, rank=RANK, alpha=ALPHA)
    with policy.using(ADVERSARY):
        torch.autograd.backward(answer(policy.head).square().mean())
    taught = {key for key, value in policy.head.named_parameters() if value.grad is not None}
    assert taught == {key for key, _ in policy.head.named_parameters() if f".{ADVERSARY}." in key}


def test_half_precision_rounds_where_pefts_own_cast_would() -> None:
    policy = moved(policy_of(random_head()), POLICY)

    def loss_and_gradients() -> list[Tensor]:
        loss = answer(policy.head, half=True).square().mean()
        parameters = [p for p in policy.head.parameters() if p.requires_grad]
        return [loss, *torch.autograd.grad(loss, parameters)]

    ours = loss_and_gradients()
    for module in policy.head.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = True
    theirs = loss_and_gradients()
    assert len(ours) == len(theirs) > 1
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_saved_set_comes_back_as_it_was(tmp_path: Path) -> None:
    policy = moved(policy_of(random_head()), POLICY)
    folder = policy.save(tmp_path / "adapter")
    again = HeadPolicy(random_head(), rank=RANK, alpha=ALPHA, start=folder)
    assert again.set_hash(REFERENCE) == again.set_hash(POLICY) == policy.set_hash(POLICY)
    with torch.no_grad(), again.using(REFERENCE):
        assert torch.equal(answer(again.head), answer(policy.head))
