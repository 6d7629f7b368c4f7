"""Every method's deployed form is a staircase that its thresholds and levels reproduce to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from lutc.errors import LutcError
from lutc.nn.levels import find_palette
from lutc.nn.quantizers import (
    LCQ,
    LLT,
    LSQ,
    QUANTIZERS,
    NuLSQ,
    QuantizationNetwork,
    ScalarQuantizer,
)
from tests.nn.probes import mismatches

_ACTIVATIONS = sorted(set(QUANTIZERS) - {"ttq"})


def forms(methods: list[str], *, is_weight: bool) -> Iterator[tuple[str, int, bool]]:
    """(method, bits, signed) that exist."""
    for method in methods:
        for bits in (1, 2, 3, 4, 8):
            for signed in (True,) if is_weight else (False, True):
                try:
                    QUANTIZERS[method](bits, signed=signed, is_weight=is_weight)
                except ValueError:
                    continue
                yield method, bits, signed


def trained(method: str, bits: int, signed: bool, **place) -> ScalarQuantizer:
    """A quantizer that has seen data and whose parameters are no longer at their start."""
    torch.manual_seed(bits)
    quantizer = QUANTIZERS[method](bits, signed=signed, **place)
    x = torch.randn(6, 4, 50)
    quantizer.observe(x if signed else x.relu())
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3)).add_(0.02 * torch.rand_like(parameter))
    return quantizer.eval()


@pytest.mark.parametrize(("method", "bits", "signed"), forms(_ACTIVATIONS, is_weight=False))
def test_levels_are_exact(method: str, bits: int, signed: bool) -> None:
    quantizer = trained(method, bits, signed)
    found = quantizer.levels()
    assert len(found.levels) <= 2**bits
    wrong, probes = mismatches(quantizer, found, limit=1e37)
    assert wrong == 0 and probes > 200_000


@pytest.mark.parametrize(("method", "bits", "signed"), forms(_ACTIVATIONS, is_weight=False))
def test_levels_are_exact_per_channel(method: str, bits: int, signed: bool) -> None:
    quantizer = trained(method, bits, signed, num_channels=4)
    found = quantizer.levels()
    assert found.levels.shape[0] == 4
    x = torch.randn(20, 4, 300) * 2
    finite = found.thresholds.clamp(max=1e30)
    x[0, :, : finite.shape[1]] = finite
    x[1, :, : finite.shape[1]] = torch.nextafter(finite, torch.tensor(-math.inf))
    assert torch.equal(found.quantize(x), quantizer(x))


@pytest.mark.parametrize(("method", "bits", "signed"), forms(sorted(QUANTIZERS), is_weight=True))
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_become_palettes(method: str, bits: int, signed: bool, per_channel: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 40) * torch.arange(1, 6)[:, None] / 10
    quantizer = QUANTIZERS[method](bits, signed=signed, is_weight=True, axis=0, num_channels=5 if per_channel else None)
    quantizer.observe(weight)
    quantizer.eval()
    _, levels = find_palette(quantizer(weight), per_channel)
    assert levels.shape[-1] <= 2**bits
    quantizer.train()
    trained_value = quantizer(weight)
    if method in ("llt", "quantization_network"):
        assert not torch.equal(trained_value, quantizer.eval()(weight))  # soft at first
    elif method != "lqnets":  # whose basis has moved
        assert torch.equal(trained_value, quantizer.eval()(weight))


@pytest.mark.parametrize("method", ["llt", "quantization_network"])
@pytest.mark.parametrize("signed", [False, True])
def test_soft_staircases_end_hard(method: str, signed: bool) -> None:
    torch.manual_seed(0)
    options = {} if method == "llt" else {"temperature_step": 400.0}
    quantizer = QUANTIZERS[method](3, signed=signed, **options)
    x = torch.rand(2000) * 4 - 2 * signed
    quantizer.observe(x)
    if method == "llt":
        torch.nn.init.normal_(quantizer.table)
    quantizer.set_progress(1.0)
    soft = quantizer(x)
    apart = (soft - quantizer.eval()(x)).abs()
    assert (apart > 1e-3).float().mean() < 0.01


@pytest.mark.parametrize("method", _ACTIVATIONS)
def test_nan_and_infinity_give_levels(method: str) -> None:
    quantizer = trained(method, 2, False)
    levels = quantizer.levels().levels
    y = quantizer(torch.tensor([math.nan, math.inf, -math.inf, 1.0]))
    if method in ("llt", "nulsq", "quantization_network", "apot", "lqnets"):
        assert set(y.tolist()) <= set(levels.tolist())
    assert y[1] == levels[-1] and y[2] == levels[0]


def test_negative_alpha_and_beta() -> None:
    x = torch.randn(4000)
    for alpha, beta in ((-1.0, 1.0), (1.0, -1.0), (-0.5, -2.0)):
        quantizer = QuantizationNetwork(3, signed=True)
        quantizer.observe(x)
        with torch.no_grad():
            quantizer.alpha.mul_(alpha)
            quantizer.beta.mul_(beta)
        found = quantizer.eval().levels()
        assert bool((found.thresholds.diff() > 0).all())
        assert bool((found.levels.diff() * (alpha * beta) > 0).all())
        assert mismatches(quantizer, found)[0] == 0


def test_zero_steps_and_coincident_thresholds_drop_levels() -> None:
    quantizer = NuLSQ(3, signed=False)
    quantizer.observe(torch.rand(100))
    with torch.no_grad():
        quantizer.steps[0, 2] = 0
    found = quantizer.eval().levels()
    assert len(found.levels) == 7 and mismatches(quantizer, found)[0] == 0
    binary = QuantizationNetwork(2, signed=True)
    binary.observe(torch.randn(100))
    binary.biases.zero_()
    assert len(binary.eval().levels().levels) == 2


def test_one_level_is_left_where_a_scale_is_tiny() -> None:
    quantizer = LSQ(2, signed=False).eval()
    quantizer.initialized.fill_(True)
    with torch.no_grad():
        quantizer.step.fill_(-1.0)  # a step below zero counts as the least one
    assert quantizer.levels().levels[-1] < 1e-6
    constant = QuantizationNetwork(1, signed=False).eval()
    constant.initialized.fill_(True)
    with torch.no_grad():
        constant.alpha.zero_()
    found = constant.levels()
    assert found.levels.tolist() == [0.0] and found.thresholds.shape == (0,)


def test_steps_stay_positive_in_training() -> None:
    quantizer = NuLSQ(2, signed=False)
    quantizer.observe(torch.rand(100))
    with torch.no_grad():
        quantizer.steps[0, 1] = -0.3
    quantizer(torch.rand(10))
    assert bool((quantizer.steps > 0).all()) and quantizer.dead_steps() == 1


def test_starting_values() -> None:
    torch.manual_seed(0)
    x = torch.randn(200_000)
    for init, expected in (("nmse", 0.3352), ("lsq", 2 * 0.79788 / math.sqrt(7)), ("const", 3 / 7)):
        quantizer = NuLSQ(4, signed=True, is_weight=True, init=init)
        quantizer.observe(x)
        torch.testing.assert_close(quantizer.steps.mean().item(), expected, rtol=0.01, atol=0)
    quantizer = NuLSQ(4, signed=False)
    quantizer.observe(x.relu() / 2)
    quantizer.observe(x.relu())  # the largest over the batches
    quantizer.observe(x.relu() / 3)
    torch.testing.assert_close(quantizer.steps.mean().item(), 0.1932, rtol=0.01, atol=0)
    table = LLT(4, signed=False)
    table.observe(x)
    torch.testing.assert_close(table.log_scale.exp().item(), 3.0, rtol=0.01, atol=0)
    for bits, expected in ((2, 1.224), (3, 3 * 0.6508), (1, 0.7979)):
        table = LLT(bits, signed=True, init="nmse")
        table.observe(x)
        torch.testing.assert_close(table.log_scale.exp().item(), expected, rtol=0, atol=0.06)
    network = QuantizationNetwork(2, signed=True, is_weight=True)
    network.observe(x.clamp(-2, 2))
    torch.testing.assert_close(network.beta.item(), 1.25 / 2)
    torch.testing.assert_close((network.alpha * network.beta).item(), 1.0)


def test_a_hard_table_gives_no_subnormal_values() -> None:
    quantizer = LLT(4, signed=False).train()
    quantizer.initialized.fill_(True)
    quantizer.table.data.copy_(torch.linspace(0, 0.1, 9))  # softmax at 0.001: from exp(-100), subnormal, to 1
    quantizer.set_progress(1.0)
    y = quantizer(torch.linspace(0, 1, 1000))
    assert (y[:40] == 0).any() and y[y > 0].min() > 1e-21


def test_companding_starts_as_a_uniform_grid() -> None:
    quantizer = LCQ(4, signed=False, clip=1.5).eval()
    quantizer.initialized.fill_(True)
    torch.testing.assert_close(quantizer.levels().levels, torch.arange(16) * 0.1)


def test_what_a_quantizer_refuses(golden) -> None:
    with pytest.raises(LutcError) as caught:
        LSQ(4, signed=False).train()(torch.tensor([-1.0, 1.0]))
    golden(str(caught.value), "nn/quantizer-negative.txt")
    with pytest.raises(LutcError) as caught:
        LSQ(4, signed=False).eval()(torch.tensor([1.0]))
    golden(str(caught.value), "nn/quantizer-no-parameters.txt")
    with pytest.raises(LutcError) as caught:
        LSQ(4, signed=False).observe(torch.tensor([math.nan]))
    golden(str(caught.value), "nn/quantizer-nan.txt")
    with pytest.raises(ValueError, match="bits must be"):
        LSQ(9, signed=False)
