import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from train.flops import PEAK_BF16, count_flops, utilisation


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_linear_layer_costs_two_flops_per_weight_and_row_and_three_times_that_with_its_gradients(device: str) -> None:
    layer, x = nn.Linear(5, 7, device=device), torch.randn(3, 5, device=device, requires_grad=True)
    forward = 2 * 3 * 5 * 7
    assert count_flops(lambda: layer(x)) == forward
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_costs_two_products_of_tokens_with_tokens(device: str) -> None:
    batch, heads, tokens, width = 2, 3, 16, 8
    x = torch.randn(batch, heads, tokens, width, device=device)
    expected = 2 * (2 * batch * heads * tokens * tokens * width)
    assert count_flops(lambda: scaled_dot_product_attention(x, x, x)) == expected


def test_a_convolution_costs_two_flops_per_weight_and_place() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1, device="meta")
    assert count_flops(lambda: layer(torch.randn(1, 3, 6, 5, device="meta"))) == 2 * 3 * 4 * 9 * 6 * 5


def test_a_device_that_does_its_peak_for_a_second_is_used_whole() -> None:
    assert utilisation(int(PEAK_BF16), 1.0) == 1
    assert utilisation(int(PEAK_BF16), 2.0) == 0.5
