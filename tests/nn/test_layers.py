"""LUTLinear and LUTConv2d: one meaning in the oracle, the op, the training form's eval() and the frozen form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.nn import LUTConv2d, LUTLinear
from lutc.nn.frozen import FrozenLUTConv2d, FrozenLUTLayer, FrozenLUTLinear
from tests import oracle

CONFIGS = [
    LUTConfig(encode_dtype=encode, table_dtype=table)
    for encode in ("int8", "int6", "float32")
    for table in ("int8", "float32")
]


def expect(frozen: FrozenLUTLayer, x: torch.Tensor) -> np.ndarray:
    tensors = {k: None if v is None else v.numpy() for k, v in frozen.tensors().items()}
    attributes = {k: v for k, v in frozen.op_attributes.items() if k != "layer"}
    function = oracle.conv2d if isinstance(frozen, FrozenLUTConv2d) else oracle.dense
    return function(x.numpy(), **tensors, **attributes)[0]


def check(layer: LUTLinear | LUTConv2d, x: torch.Tensor) -> None:
    """oracle == eval() == frozen; bit-equal with integer tables, else to the last bits of the sum."""
    form = FrozenLUTLinear if isinstance(layer, LUTLinear) else FrozenLUTConv2d
    frozen = form(layer.eval(), "layer")
    expected = expect(frozen, x)
    with torch.no_grad():
        assert torch.equal(layer(x), frozen(x))
    if layer.config.table_dtype == "int8":
        np.testing.assert_array_equal(frozen(x).numpy(), expected)
    else:
        np.testing.assert_allclose(frozen(x).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.encode_dtype}-{c.table_dtype}")
@pytest.mark.parametrize(
    ("shape", "outputs", "length", "centroids"),
    [
        ((1, 16), 1, 16, 16),
        ((3, 35), 5, 16, 16),
        ((17, 7), 33, 4, 8),
        ((2, 3, 10), 4, 3, 4),
        ((2, 1, 2, 9), 6, 1, 32),
        ((5,), 3, 4, 16),
    ],
)
def test_linear_equals_the_oracle(config, shape, outputs, length, centroids):
    torch.manual_seed(0)
    config = LUTConfig(centroids, length, "l2", config.encode_dtype, config.table_dtype)
    layer = LUTLinear(shape[-1], outputs, bias=outputs % 2 == 0, config=config)
    check(layer, torch.randn(shape))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.encode_dtype}-{c.table_dtype}")
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "options", "length"),
    [
        (1, 1, 3, {}, None),
        (3, 5, 3, {"padding": 1, "bias": False}, None),
        (5, 8, 1, {"stride": 2}, None),
        (4, 7, (3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}, 5),
        (2, 3, 2, {"padding": "same", "dilation": 1}, 4),
        (2, 3, 3, {"padding": "valid", "dilation": 2}, 18),
        (4, 6, 3, {"padding": 1, "groups": 2}, None),
        (6, 6, 1, {"groups": 3}, 4),
    ],
)
def test_conv2d_equals_the_oracle_and_has_the_shape_of_its_twin(config, channels, outputs, kernel, options, length):
    torch.manual_seed(0)
    config = LUTConfig(16, length, "l2", config.encode_dtype, config.table_dtype)
    layer = LUTConv2d(channels, outputs, kernel, config=config, **options)
    x = torch.randn(3, channels, 9, 8)
    assert layer(x).shape == nn.Conv2d(channels, outputs, kernel, **options)(x).shape
    check(layer, x)


def test_asymmetric_pads_of_the_op():
    torch.manual_seed(0)
    frozen = FrozenLUTConv2d(LUTConv2d(2, 3, 3, config=LUTConfig()), "c")
    frozen.op_attributes["pads"] = [0, 1, 2, 3]
    x = torch.randn(1, 2, 5, 4)
    padded = nn.functional.pad(x, (1, 3, 0, 2))
    np.testing.assert_array_equal(frozen(x).numpy(), expect(frozen, x))
    frozen.op_attributes["pads"] = [0, 0, 0, 0]
    np.testing.assert_array_equal(frozen(padded).numpy(), expect(frozen, padded))


def test_mult_and_large_sums_stay_exact():
    """2000 codebooks with multiplier 127 exceed what float32 holds exactly."""
    torch.manual_seed(0)
    layer = LUTLinear(2000, 3, config=LUTConfig(4, 1))
    frozen = FrozenLUTLinear(layer, "layer")
    frozen.mult = torch.randint(100, 128, (2000,), dtype=torch.uint8)
    frozen.table = torch.full_like(frozen.table, 127) - torch.randint(0, 3, frozen.table.shape, dtype=torch.int8)
    x = torch.randn(5, 2000)
    np.testing.assert_array_equal(frozen(x).numpy(), expect(frozen, x))


def test_grouped_convolution_approaches_its_float_twin():
    """With one-element subvectors on a fine grid: whatever is outside a group must not count."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 2, groups=2)
    config = LUTConfig(256, 1, encode_dtype="float32", table_dtype="float32")
    layer = LUTConv2d.from_float(conv, config).eval()
    x = torch.rand(3, 6, 5, 5) * 4 - 2
    with torch.no_grad():
        layer.centroids.copy_(torch.linspace(-4, 4, 256)[None, :, None].expand(24, -1, -1))
        torch.testing.assert_close(layer(x), conv(x), rtol=0, atol=0.05)
    layer.train()(x).square().sum().backward()
    assert conv.weight.grad.shape == conv.weight.shape
    assert (layer.constants()["table"][:12, :, 2:] == 0).all()


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_tables_of_four_bits(encode_dtype):
    torch.manual_seed(0)
    layer = LUTLinear(32, 9, config=LUTConfig(encode_dtype=encode_dtype, table_bits=4))
    x = torch.randn(20, 32)
    table = layer.constants()["table"]
    assert table.dtype == torch.int8
    assert table.abs().amax((0, 1)).tolist() == [7] * 9
    assert "of 4 bits" in repr(layer)
    check(layer, x)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x), rtol=1e-5, atol=1e-5)
    layer.train()(x).sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_free_tables(encode_dtype, tmp_path):
    torch.manual_seed(0)
    config = LUTConfig(encode_dtype=encode_dtype)
    layer = LUTConv2d(4, 6, 3, config=config)
    x = torch.rand(2, 4, 6, 6)
    before = layer.eval()(x)
    layer.free_table()
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-4)
    assert layer.weight is None
    assert "(free)" in repr(layer)
    layer.train()(x).square().sum().backward()
    assert layer.table.grad.any() and layer.centroids.grad.any()
    check(layer, x)

    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = LUTConv2d(4, 6, 3, config=config)
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other.eval()(x), layer.eval()(x))


def test_ties_take_the_lowest_centroid():
    layer = LUTLinear(2, 1, bias=False, config=LUTConfig(4, 2, encode_dtype="float32", table_dtype="float32"))
    with torch.no_grad():
        layer.centroids.copy_(torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]))
        layer.weight.copy_(torch.tensor([[1.0, 10.0]]))
        assert layer.eval()(torch.zeros(1, 2)).item() == 1.0
        assert layer.eval()(torch.tensor([[1.0, 0.0]])).item() == 1.0


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_training_forward_has_the_value_of_eval(encode_dtype):
    torch.manual_seed(0)
    layer = LUTConv2d(3, 6, 3, padding=1, config=LUTConfig(encode_dtype=encode_dtype))
    x = torch.randn(4, 3, 8, 8)
    trained = layer.train()(x).detach()
    torch.testing.assert_close(trained, layer.eval()(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_gradients_reach_every_parameter_and_the_input(encode_dtype):
    torch.manual_seed(0)
    layer = LUTLinear(10, 6, config=LUTConfig(8, 4, encode_dtype=encode_dtype))
    x = torch.randn(20, 10, requires_grad=True)
    layer(x).square().sum().backward()
    for tensor in (layer.centroids, layer.weight, layer.bias, layer.log_temperature, x):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_backward_is_that_of_the_soft_path():
    """With float32 encode and a float table the gradient is autograd's own of softmax(-|x-P|/t) @ table."""
    torch.manual_seed(0)
    layer = LUTLinear(6, 5, bias=False, config=LUTConfig(4, 3, encode_dtype="float32", table_dtype="float32")).double()
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(7, 5, dtype=torch.float64)
    parameters = (x, layer.centroids, layer.weight, layer.log_temperature)
    actual = torch.autograd.grad((layer(x) * upstream).sum(), parameters)

    sub = x.reshape(7, 2, 3).transpose(0, 1)
    distance = (sub[:, :, None, :] - layer.centroids[:, None]).norm(dim=-1)
    attention = torch.softmax(-distance / layer.log_temperature.exp(), -1)
    table = torch.einsum("ckv,mcv->ckm", layer.centroids, layer.weight.reshape(5, 2, 3))
    soft = torch.einsum("cnk,ckm->nm", attention, table)
    expected = torch.autograd.grad((soft * upstream).sum(), parameters)
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_dead_inputs_give_finite_values_and_gradients():
    layer = LUTConv2d(2, 3, 3, padding=1, config=LUTConfig())
    with torch.no_grad():
        layer.centroids.zero_()
        layer.set_input_range(torch.zeros(2), torch.zeros(2))
    x = torch.zeros(2, 2, 4, 4)
    y = layer(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    check(layer, x)


def test_nan_and_infinity_do_not_crash():
    for encode_dtype in ("int8", "float32"):
        layer = LUTLinear(8, 3, config=LUTConfig(4, 4, encode_dtype=encode_dtype)).eval()
        y = layer(torch.tensor([[torch.nan] * 8, [torch.inf] * 8, [-torch.inf] * 8]))
        assert torch.isfinite(y).all()


def test_table_error_is_half_a_step_at_most():
    torch.manual_seed(0)
    layer = LUTLinear(32, 9, config=LUTConfig())
    constants = layer.constants()
    exact = torch.einsum("ckv,mcv->ckm", layer.centroids, layer.weight.reshape(9, 2, 16)).detach()
    error = (constants["table"] * constants["table_scale"] - exact).abs()
    assert constants["table"].abs().max() == 127
    assert (error <= 0.5001 * constants["table_scale"]).all()


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_state_dict_round_trip(encode_dtype, tmp_path):
    torch.manual_seed(0)
    config = LUTConfig(encode_dtype=encode_dtype)
    source, target = (LUTConv2d(4, 6, 3, config=config) for _ in range(2))
    source.set_input_range(torch.zeros(4), torch.rand(4) + 1)
    keys = {"centroids", "weight", "bias", "log_temperature", "metric"}
    assert set(source.state_dict()) == (keys | {"inv_scale", "input_signed"} if encode_dtype == "int8" else keys)
    torch.save(source.state_dict(), tmp_path / "layer.pt")
    target.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x = torch.rand(2, 4, 6, 6)
    assert torch.equal(source.eval()(x), target.eval()(x))

    frozen, other = FrozenLUTConv2d(source, "a"), FrozenLUTConv2d(LUTConv2d(4, 6, 3, config=config), "b")
    other.load_state_dict(frozen.state_dict())
    assert torch.equal(frozen(x), other(x))
    assert not list(frozen.parameters())


def test_float_twin_shares_weights_and_mode():
    linear = nn.Linear(8, 3).eval()
    layer = LUTLinear.from_float(linear, LUTConfig())
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert not layer.training
    assert "K=16, V=16, C=1" in repr(layer)


def test_unsupported_convolutions_are_told():
    with pytest.raises(LutcError, match="lookup-table") as error:
        LUTConv2d(4, 4, 3, padding_mode="reflect", padding=1)
    assert error.value.fix == "keep this layer float"


def test_more_centroids_approach_the_float_layer():
    """With one-element subvectors and centroids on a fine grid the layer computes the product itself."""
    torch.manual_seed(0)
    layer = LUTLinear(4, 3, config=LUTConfig(256, 1)).eval()
    with torch.no_grad():
        layer.centroids.copy_(torch.linspace(-4, 4, 256)[None, :, None].expand(4, -1, -1))
        x = torch.rand(50, 4) * 4 - 2
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0.1)
