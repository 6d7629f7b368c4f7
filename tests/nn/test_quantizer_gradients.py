"""Each method's gradients against its equations, written out in tests/nn/quantizer_gradients.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lutc.nn.quantizers import QUANTIZERS, ScalarQuantizer
from tests.nn import quantizer_gradients as equations

_TOLERANCE = 1e-5
Equation = Callable[..., list[np.ndarray]]


def quantizer(
    method: str, bits: int, *, signed: bool, seed: int = 0, **options
) -> tuple[ScalarQuantizer, torch.Tensor]:
    """A quantizer in training whose parameters have moved, and values inside and outside its range."""
    torch.manual_seed(seed)
    made = QUANTIZERS[method](bits, signed=signed, **options).double()
    x = torch.randn(500, dtype=torch.float64) * 1.5
    if not signed:
        x = x.abs() - 0.05 * (torch.arange(500) % 7 == 0)
    made.initialized.fill_(False)
    made.observe(x if signed else x.relu())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 0.9)).add_(0.3 * torch.rand_like(parameter))
    return made, x


def compare(made: ScalarQuantizer, x: torch.Tensor, equation: Equation, **constants) -> None:
    """Gradients of the values and of all parameters, relative to the largest of each."""
    x = x.clone().requires_grad_(True)
    grad = torch.randn(len(x), dtype=torch.float64)
    parameters = [parameter.detach().numpy().copy() for parameter in made.parameters()]
    made(x).backward(grad)
    assert x.grad is not None
    found = [x.grad, *(parameter.grad for parameter in made.parameters())]
    expected = equation(x.detach().numpy(), grad.numpy(), *parameters, **constants)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None and ours.shape == theirs.shape
        assert float(np.abs(theirs).max()) > 0
        assert float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max()) < _TOLERANCE


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_lsq(bits: int, signed: bool) -> None:
    made, x = quantizer("lsq", bits, signed=signed)
    scale = 1 / math.sqrt(len(x) * made.high)
    compare(made, x, equations.lsq, low=made.low, high=made.high, scale=scale)


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("signed", [False, True])
def test_nulsq(bits: int, signed: bool) -> None:
    made, x = quantizer("nulsq", bits, signed=signed)
    compare(made, x, equations.nulsq, negative=made.negative)


def test_equal_steps_of_nulsq_are_lsq() -> None:
    (uniform, x), (steps, _) = (quantizer(method, 4, signed=True, grad_scale="none") for method in ("lsq", "nulsq"))
    with torch.no_grad():
        steps.steps.fill_(float(uniform.step))
    grad = torch.randn_like(x)
    for made in (uniform, steps):
        made(x).backward(grad)
    torch.testing.assert_close(steps.steps.grad.sum(), uniform.step.grad.sum())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("progress", [0.0, 0.1])
def test_llt(signed: bool, progress: float) -> None:
    made, x = quantizer("llt", 3, signed=signed)
    made.set_progress(progress)
    compare(made, x, equations.llt, tau=made.temperature, signed=signed)


@pytest.mark.parametrize("levels", [(0, 1, 2, 3), (0, 1, 2, 4), (-4, -2, -1, 0, 1, 2, 4)])
def test_quantization_network(levels: tuple[int, ...]) -> None:
    made, x = quantizer("quantization_network", 3, signed=levels[0] < 0, level_set=levels)
    made.set_progress(0.02)
    constants = {"levels": np.array(levels, float), "biases": made.biases[0].numpy(), "temperature": made.temperature}
    compare(made, x, equations.quantization_network, **constants)


@pytest.mark.parametrize("signed", [False, True])
def test_pact(signed: bool) -> None:
    made, x = quantizer("pact", 4, signed=signed, clip=2.0)
    compare(made, x, equations.pact, signed=signed)


def test_dorefa() -> None:
    made, x = quantizer("dorefa", 3, signed=False)
    compare(made, x, equations.dorefa_activation)
    made, x = quantizer("dorefa", 3, signed=True, is_weight=True)
    compare(made, x, equations.dorefa_weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_apot(bits: int) -> None:
    made, x = quantizer("apot", bits, signed=False, clip=3.0)
    compare(made, x, equations.apot_activation, levels=made.unit_levels.numpy())
    made, x = quantizer("apot", bits, signed=True, is_weight=True, clip=2.0)
    compare(made, x, equations.apot_weight, levels=made.unit_levels.numpy())


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_lcq(bits: int, signed: bool) -> None:
    made, x = quantizer("lcq", bits, signed=signed, clip=3.0)
    compare(made, x, equations.lcq, steps=made.steps, signed=signed)


def test_lqnets() -> None:
    made, x = quantizer("lqnets", 3, signed=False)
    compare(made, x, equations.lqnets, highest=float(made.basis.sum()))
    made, x = quantizer("lqnets", 3, signed=True, is_weight=True)
    compare(made, x, equations.lqnets, highest=None)


def test_the_basis_of_lqnets_finds_the_best_levels() -> None:
    """Of a normal variable: Lloyd and Max's four levels, 0.4528 and 1.510 deviations on either side."""
    torch.manual_seed(0)
    deviations = torch.tensor([[1.0], [3.0]])
    made = QUANTIZERS["lqnets"](2, signed=True, num_channels=2, axis=0).train()
    x = torch.randn(2, 20_000) * deviations
    for _ in range(300):
        made(x)
    levels = made.levels().levels / deviations
    torch.testing.assert_close(levels, torch.tensor([[-1.51, -0.4528, 0.4528, 1.51]] * 2), rtol=0.03, atol=0)


def test_ttq() -> None:
    made, x = quantizer("ttq", 2, signed=True, is_weight=True)
    compare(made, x, equations.ttq)


def test_minmax() -> None:
    made, x = quantizer("minmax", 8, signed=True)
    compare(made, x, equations.minmax)


def test_channels_are_independent() -> None:
    """Per channel, values and gradients are those of one quantizer a channel."""
    for method in sorted(set(QUANTIZERS) - {"ttq"}):
        torch.manual_seed(0)
        x = torch.randn(3, 200, dtype=torch.float64)
        grad = torch.randn_like(x)
        whole = QUANTIZERS[method](3, signed=True, num_channels=3, axis=0).double()
        whole.observe(x)
        singles = [QUANTIZERS[method](3, signed=True).double() for _ in range(3)]
        for single, row in zip(singles, x, strict=True):
            single.observe(row)
        y = whole(x)
        y.backward(grad) if y.requires_grad else None
        for index, single in enumerate(singles):
            z = single(x[index])
            torch.testing.assert_close(y[index], z, rtol=1e-6, atol=1e-6)
            if z.requires_grad:
                z.backward(grad[index])
            for ours, theirs in zip(whole.parameters(), single.parameters(), strict=True):
                torch.testing.assert_close(ours.grad[index], theirs.grad[0], rtol=1e-6, atol=1e-6)
