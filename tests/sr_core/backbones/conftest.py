import pytest
import torch

from sr_core.backbones.flow_head import FlowHead
from sr_core.backbones.prior import Prior, load_prior


@pytest.fixture(scope="session")
def prior() -> Prior:
    """Return the real prior in float32; it must be copied before its dtype is changed."""
    return load_prior()


@pytest.fixture
def head() -> FlowHead:
    """Return a small head that has been moved away from its zero start."""
    return random_head()


def random_head(seed: int = 0) -> FlowHead:
    torch.manual_seed(seed)
    head = FlowHead((8, 8, 16), (1, 1, 1))
    torch.nn.init.normal_(head.out.weight, std=0.03)
    head.gain_coefficients.copy_(torch.tensor([0.2, 0.2, 0.1, -4.0]))
    head.component_std.copy_(torch.tensor([1.0, 0.4, 0.3]))
    head.trunk_std.fill_(0.5)
    return head.eval()
