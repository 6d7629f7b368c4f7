"""Two processes (gloo): one set of codebooks, and the gradients of one process on the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys, torch, torch.distributed as dist
from torch import nn
from lutc.nn import LUTConfig, param_groups, quantize_
from lutc.nn.distributed import broadcast_layers_
torch.set_num_threads(1)
ranks = int(os.environ.get("WORLD_SIZE", 1))
rank = int(os.environ.get("RANK", 0))
if ranks > 1:
    dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=ranks)
torch.manual_seed(0)
data, target = torch.randn(32, 12), torch.randn(32, 3)
torch.manual_seed(rank)
model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
config = LUTConfig(8, 4)
quantize_(model, config, calibration=[data] if rank == 0 else None)
if rank == 0:
    for layer in (model[0], model[2]):
        layer.free_table()
broadcast_layers_(model)
wrapped = nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
optimizer = torch.optim.SGD(param_groups(model, 0.1, 0.1, 0.1))
losses = []
for _ in range(3):
    mine = slice(rank * 32 // ranks, (rank + 1) * 32 // ranks)
    loss = (wrapped(data[mine]) - target[mine]).square().mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()
    losses.append(loss.detach())
torch.save({"losses": torch.stack(losses), "state": model.state_dict()}, sys.argv[1] + f"/{ranks}-{rank}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_do_what_one_does(tmp_path: Path):
    def start(rank: int, ranks: int) -> subprocess.Popen:
        environment = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "meeting")]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    for process in [start(0, 1), start(0, 2), start(1, 2)]:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name, value in first["state"].items():
        assert torch.equal(second["state"][name], value), name
        torch.testing.assert_close(alone["state"][name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, alone["losses"], rtol=1e-4, atol=1e-5)
