"""The extractor of thresholds and levels: exact for any staircase, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.nn.levels import extract_levels, find_palette, float_keys, key_floats
from tests import oracle_levels
from tests.nn.probes import mismatches

STAIRCASES: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda x: (x / 0.037).round().clamp(-8, 7) * 0.037,
    "unsigned": lambda x: (x.clamp(0, 1.3) * (15 / 1.3)).round() / (15 / 1.3),
    "falling": lambda x: -(x * 3).floor().clamp(-2, 5),
    "one level": lambda x: x * 0 + 0.25,
    "sign": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "far apart": lambda x: (x > 1e-40).float() + (x > 3e30).float(),
    "half the range": lambda x: (x / 3e38).round(),
    "8 bits": lambda x: (x * 40).round().clamp(-128, 127) / 40,
}


@pytest.mark.parametrize("name", STAIRCASES)
def test_exact(name: str) -> None:
    quantize = STAIRCASES[name]
    found = extract_levels(quantize)
    assert bool((found.thresholds.diff() > 0).all())
    assert bool((found.levels.diff() != 0).all())
    wrong, probes = mismatches(quantize, found, limit=1e30 if name == "one level" else 3.4e38)
    assert wrong == 0 and probes > 200_000


def test_exact_per_channel() -> None:
    scale = torch.tensor([[0.1], [0.5], [1.0]])
    low, high = torch.tensor([[-1], [-2], [0]]), torch.tensor([[1], [-2], [6]])

    def quantize(rows: Tensor) -> Tensor:
        return (rows / scale).round().clamp(low, high) * scale

    found = extract_levels(quantize, 3)
    assert found.thresholds.shape == (3, 6) and found.levels.shape == (3, 7)
    assert found.thresholds[1].isinf().all() and found.levels[1].unique().tolist() == [-1]
    x = torch.randn(4, 3, 50) * 3
    expected = quantize(x.movedim(1, 0).reshape(3, -1)).reshape(3, 4, 50).movedim(0, 1)
    assert torch.equal(found.quantize(x, axis=1), expected)
    numpy = [value.numpy() for value in (x, found.thresholds, found.levels)]
    np.testing.assert_array_equal(oracle_levels.quantize(*numpy, axis=1), expected.numpy())
    np.testing.assert_array_equal(found.codes(x), oracle_levels.codes(*numpy[:2]))


def test_levels_no_input_reaches_are_dropped() -> None:
    steps = torch.tensor([0.5, 0.5, 2.0])
    found = extract_levels(lambda x: torch.bucketize(x, steps, right=True).float())
    assert found.levels.tolist() == [0, 2, 3] and found.thresholds.tolist() == [0.5, 2.0]
    assert extract_levels(lambda x: x.round().clamp(-3, 3), low=0, high=2).levels.tolist() == [0, 1, 2]


def test_minus_zero_is_zero() -> None:
    found = extract_levels(lambda x: torch.copysign(torch.zeros_like(x), x))
    assert found.levels.tolist() == [0.0] and not bool(found.levels.signbit().any())


def test_levels_closer_than_rounding_merge() -> None:
    def quantize(x: Tensor) -> Tensor:
        y = x.round().clamp(0, 2)
        return torch.where(x > 5, torch.nextafter(y, torch.tensor(9.0)), y)

    assert len(extract_levels(quantize).levels) == 4
    assert extract_levels(quantize, merge_ulps=4).levels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "quantize"),
    [
        ("not-constant", lambda x: x),
        ("turns", lambda x: torch.where(x.abs() < 1, x.round(), 0.5 * x.sign())),
        ("nan", lambda x: (x * x).round().clamp(0, 3) - x.sqrt() * 0),
    ],
)
def test_what_is_not_a_staircase(name: str, quantize: Callable[[Tensor], Tensor], golden) -> None:
    with pytest.raises(LutcError) as caught:
        extract_levels(quantize)
    golden(str(caught.value), f"nn/levels-{name}.txt")


def test_keys_order_float32() -> None:
    x = torch.tensor([-np.inf, -3.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, np.inf])
    keys = float_keys(x)
    assert keys.tolist() == sorted(keys.tolist())
    assert torch.equal(key_floats(keys), x)
    assert keys[3] == keys[4] == 0 and keys[5] == 1 and keys[2] == -1


@pytest.mark.parametrize("per_channel", [False, True])
def test_palette(per_channel: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3).mul(2).round() * torch.arange(1, 7)[:, None, None, None] - 0.0
    codes, levels = find_palette(weight, per_channel)
    assert codes.dtype == torch.uint8 and levels.dim() == 1 + per_channel
    np.testing.assert_array_equal(oracle_levels.palette(codes.numpy(), levels.numpy()), weight.numpy())
    if not per_channel:
        assert bool((levels.diff() > 0).all())


def test_no_palette(golden) -> None:
    with pytest.raises(LutcError) as caught:
        find_palette(torch.linspace(0, 1, 300)[:, None], per_channel=False)
    golden(str(caught.value), "nn/palette-too-many.txt")
