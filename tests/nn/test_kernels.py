"""The soft-PQ passes in C: the codes and gradients of the same steps as torch operations."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lutc.config import LUTConfig
from lutc.nn import LUTConv2d, LUTLinear, kernels
from lutc.nn.layer import LUTLayer


def _compiles_c() -> bool:
    command = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("LUTC_NN_KERNELS") == "0" or not command or shutil.which(command[0]) is None:
        return False
    code = "#include <math.h>\nint main(void) { return 0; }\n"
    return subprocess.run([*command, "-fsyntax-only", "-x", "c", "-"], input=code, text=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    """Skips for want of a compiler alone: one that does not take kernels.c is a failure."""
    if not _compiles_c():
        pytest.skip("no C compiler")
    assert kernels.usable(16, 3, torch.zeros(1))


def layer_of(kind: str, config: LUTConfig, outputs: int) -> tuple[LUTLayer, Tensor]:
    if kind == "conv":
        return LUTConv2d(3, outputs, 3, stride=2, padding=1, config=config), torch.randn(5, 3, 23, 13)
    if kind == "two channels a codebook":  # the last has one
        config = replace(config, subvector_len=18)
        return LUTConv2d(5, outputs, 3, padding=(2, 0), dilation=(2, 1), config=config), torch.randn(3, 5, 9, 40)
    if kind == "part of a channel a codebook":
        return LUTConv2d(2, outputs, 3, padding=1, config=replace(config, subvector_len=5)), torch.randn(3, 2, 9, 9)
    return LUTLinear(22, outputs, config=config), torch.randn(131, 22)


def run(layer: LUTLayer, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * upstream).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    ("kind", "num_centroids", "outputs", "temperature", "threads"),
    [("conv", 16, 7, 1.0, 1), ("conv", 16, 48, 0.02, 2), ("linear", 16, 70, 0.3, 1), ("linear", 2, 1, 1.0, 3),
     ("conv", 64, 16, 0.3, 1), ("two channels a codebook", 16, 9, 0.3, 2),
     ("part of a channel a codebook", 8, 3, 0.3, 1)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("encoder", "encode_dtype", "tree_gradient"),
    [("l2", "int8", "flips"), ("l2", "int6", "flips"), ("l2", "float32", "flips"), ("tree", "int8", "flips"),
     ("tree", "float32", "flips"), ("tree", "int8", "softmax"), ("tree", "float32", "softmax")],
)  # fmt: skip
def test_codes_and_gradients_are_those_of_the_torch_operations(
    kind: str, num_centroids: int, outputs: int, temperature: float, threads: int, encode_dtype: str,
    free: bool, encoder: str, tree_gradient: str, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    torch.manual_seed(0)
    metric = "inputs" if threads == 2 else "outputs"
    config = LUTConfig(
        num_centroids, encode_dtype=encode_dtype, encoder=encoder, metric=metric, tree_gradient=tree_gradient
    )
    layer, x = layer_of(kind, config, outputs)
    if layer.metric is not None:
        root = torch.randn_like(layer.metric)
        layer.metric.copy_(root @ root.mT / len(root[0]))
    layer.log_temperature.data.fill_(temperature).log_()
    layer.train()
    if free:
        layer.free_table()
    upstream = torch.randn_like(layer(x).detach())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = run(layer, x, upstream)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    expected = run(layer, x, upstream)
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        slack = 0.0 if theirs.dim() else 1e-3  # the temperature's is a sum of numbers that cancel, in float32 in both
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + slack


def test_not_a_number_has_the_last_code(monkeypatch: pytest.MonkeyPatch):
    layer = LUTLinear(8, 4, config=LUTConfig()).train()
    x = torch.randn(3, 8)
    x[1, 2] = torch.nan
    found = layer(x).detach()
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    assert torch.equal(found, layer(x).detach())


def test_without_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch):
    kernels._library.cache_clear()
    monkeypatch.setenv("CC", "/nowhere/cc")
    try:
        assert not kernels.usable(16, 3, torch.zeros(1))
        layer = LUTLinear(8, 4).train()
        layer(torch.randn(3, 8)).sum().backward()
    finally:
        kernels._library.cache_clear()
