import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from sr_core.errors import ConfigError
from train.sharding import shard_frozen

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import copy, os, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from train.sharding import shard_frozen

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(6, 6), nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x):
        return x + torch.tanh(self.base(x) + self.up(self.down(x)))

dist.init_process_group("gloo")
torch.manual_seed(0)
whole = nn.Sequential(Block(), Block(), nn.Linear(6, 3).requires_grad_(False))
shared = copy.deepcopy(whole)
count = shard_frozen(shared, ["Block"])
assert count == 2, count
for name, parameter in shared.named_parameters():
    assert isinstance(parameter, DTensor) != parameter.requires_grad, name
x = torch.randn(4, 6)
outputs = [model(x) for model in (whole, shared)]
assert torch.equal(*outputs)
for output in outputs:
    output.square().mean().backward()
for ours, theirs in zip(shared.parameters(), whole.parameters()):
    if theirs.requires_grad:
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
dist.barrier()
dist.destroy_process_group()
print("same")
"""


def test_two_processes_share_frozen_weights_and_predict_and_learn_as_one(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("same") == 2


def test_blocks_that_the_network_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="must name blocks of Sequential, got FluxTransformerBlock"):
        shard_frozen(nn.Sequential(nn.Linear(2, 2)), ["FluxTransformerBlock"])
