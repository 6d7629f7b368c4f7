"""The training forward and its gradient: against finite differences, plain torch, the oracle, and itself in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lutc.config import LUTConfig
from lutc.nn import LUTConv2d, LUTLinear, columns
from lutc.nn.frozen import FrozenLUTConv2d, FrozenLUTLinear
from lutc.nn.lookup import codes_of
from lutc.nn.patches import extract_patches, split_subvectors
from tests import oracle

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": (0, 2), "dilation": (2, 1)},
    {"kernel_size": (2, 3), "stride": (1, 2), "padding": 1},
    {"kernel_size": 1, "stride": 2},
]


def soft_output(layer: LUTConv2d | LUTLinear, x: Tensor, table: Tensor) -> Tensor:
    """The paper's soft path, written out: softmax over un-squared distances, times the table; rows [N, M]."""
    if isinstance(layer, LUTConv2d):
        rows, _ = extract_patches(x, layer.kernel_size, layer.stride, layer.pads, layer.dilation)
    else:
        rows = x.reshape(-1, x.shape[-1])
    subvectors = split_subvectors(rows, layer.num_codebooks, layer.subvector_len)
    difference = subvectors[:, :, None] - layer.centroids[:, None]
    seen = difference if layer.metric is None else torch.einsum("cvw,cnkw->cnkv", layer.metric, difference)
    distance = (difference * seen).sum(-1).clamp_min(1e-12).sqrt()
    attention = torch.softmax(-distance / layer.log_temperature.exp(), -1)
    return torch.einsum("cnk,ckm->nm", attention, table)


def set_metric(layer: LUTConv2d | LUTLinear) -> None:
    """A random one, where the layer has one."""
    if layer.metric is not None:
        root = torch.randn_like(layer.metric)
        square = root @ root.mT
        layer.metric.copy_((square + square.mT) / 2)


def float_layer(double: bool = True, metric: str = "inputs", **options) -> LUTConv2d:
    torch.manual_seed(1)
    length = options.pop("length", None)
    config = LUTConfig(5, length, encode_dtype="float32", table_dtype="float32", metric=metric)
    layer = LUTConv2d(3, 4, bias=False, config=config, **options)
    set_metric(layer)
    with torch.no_grad():
        layer.log_temperature.fill_(0.3)
    return layer.double() if double else layer


@pytest.mark.parametrize("metric", ["inputs", "outputs"])
@pytest.mark.parametrize("length", [None, 4, 18])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_gradients_are_the_finite_differences_of_the_soft_path(options, length, metric):
    """That of a free table, which is read at the codes and moves none of them, is the forward's own."""
    layer = float_layer(length=length, metric=metric, **options)
    layer.free_table(torch.randn(layer.num_codebooks, 5, 4))
    assert layer.table is not None
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    upstream = torch.randn_like(y)
    parameters = (x, layer.centroids, layer.table, layer.log_temperature)
    actual = torch.autograd.grad(y, parameters, upstream)
    rows = upstream.permute(0, 2, 3, 1).reshape(-1, 4)
    generator = torch.Generator().manual_seed(2)
    for parameter, gradient in zip(parameters, actual, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                if parameter is layer.table:
                    values.append(float((layer(x) * upstream).sum()))
                else:
                    values.append(float((soft_output(layer, x, layer.table) * rows).sum()))
                parameter -= step * direction
        assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("metric", ["inputs", "outputs"])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_gradients_are_those_of_plain_torch(options, metric):
    layer = float_layer(metric=metric, **options)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    upstream = torch.randn_like(y)
    parameters = (x, layer.centroids, layer.weight, layer.log_temperature)
    expected = soft_output(layer, x, layer.float_table())
    rows = upstream.permute(0, 2, 3, 1).reshape(-1, 4)
    for got, want in zip(
        torch.autograd.grad(y, parameters, upstream), torch.autograd.grad(expected, parameters, rows), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("metric", ["inputs", "outputs"])
def test_integer_search_passes_gradients_straight_through(metric):
    """Those of the float search at the inputs that the integers stand for, and 0 where clipped; at the centroids that
    they stand for too, or with a metric, where rounded scores stand for none, at the centroids themselves."""
    torch.manual_seed(0)
    layer = LUTLinear(8, 3, bias=False, config=LUTConfig(4, 4, metric=metric)).double()
    set_metric(layer)
    layer.set_input_range(torch.tensor([-2.0, -3.0]), torch.tensor([2.0, 3.0]))
    x = (2 * torch.randn(40, 8, dtype=torch.float64)).requires_grad_()
    upstream = torch.randn(40, 3, dtype=torch.float64)
    actual = torch.autograd.grad(layer(x), (x, layer.centroids, layer.weight, layer.log_temperature), upstream)

    constants, scale = layer.constants(), layer.inv_scale.repeat_interleave(4)
    grid = ((x * scale).round().clamp(-128, 127) / scale).detach().requires_grad_()
    twin = LUTLinear(8, 3, bias=False, config=LUTConfig(4, 4, encode_dtype="float32", metric=metric)).double()
    exact = layer.centroids.detach().clone().requires_grad_()
    peak = exact.detach().abs().amax((1, 2), keepdim=True)
    rounded = constants["centroids"] * peak / 127 if metric == "inputs" else exact.detach()
    del twin.centroids
    twin.centroids = exact + (rounded - exact.detach())
    with torch.no_grad():
        twin.metric = layer.metric
        twin.weight.copy_(layer.weight)
        twin.log_temperature.copy_(layer.log_temperature)
    table = torch.einsum("ckv,mcv->ckm", exact, twin.weight.reshape(3, 2, 4))
    parameters = (grid, exact, twin.weight, twin.log_temperature)
    soft = soft_output(twin, grid, table)
    expected = list(torch.autograd.grad(soft, parameters, upstream))
    expected[0] = torch.where((x * scale).round().clamp(-128, 127) == (x * scale).round(), expected[0], 0.0)
    assert (expected[0] == 0).any()
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encode_dtype", ["int8", "int6", "float32"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_pieces_do_not_change_anything(monkeypatch, kind, encode_dtype):
    def run() -> list[Tensor]:
        torch.manual_seed(0)
        config = LUTConfig(6, encode_dtype=encode_dtype)
        layer = LUTConv2d(4, 5, 3, config=config) if kind == "conv" else LUTLinear(33, 5, config=config)
        x = torch.randn((7, 4, 6, 6) if kind == "conv" else (7, 33), requires_grad=True)
        y = layer(x)
        return [y, *torch.autograd.grad(y.sin().sum(), (x, *layer.parameters()))]

    whole = run()
    for name in ("_PIECE_CPU", "_PIECE_KERNELS"):
        monkeypatch.setattr(columns, name, 3 * 3 * 6 * 16 if kind == "conv" else 60)
    for pieces, all_at_once in zip(run(), whole, strict=True):
        torch.testing.assert_close(pieces, all_at_once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("encode_dtype", ["int8", "int6"])
@pytest.mark.parametrize(("centroids", "length"), [(16, 9), (5, 4), (256, 1), (2, 27)])
def test_training_codes_are_the_oracles(centroids, length, encode_dtype, signed):
    torch.manual_seed(0)
    layer = LUTConv2d(3, 2, 3, padding=1, config=LUTConfig(centroids, length, encode_dtype=encode_dtype))
    layer.set_input_range(torch.full((layer.num_codebooks,), -3.0 * signed), torch.full((layer.num_codebooks,), 3.0))
    with torch.no_grad():
        layer.centroids.mul_(2).round_().div_(2)  # many ties
    x = (torch.randn(3, 3, 8, 7) if signed else torch.rand(3, 3, 8, 7) * 4).mul(4).round().div(4)
    frozen = FrozenLUTConv2d(layer, "layer")
    tensors = {k: None if v is None else v.numpy() for k, v in frozen.tensors().items()}
    attributes = {k: v for k, v in frozen.op_attributes.items() if k != "layer"}
    y, codes = oracle.conv2d(x.numpy(), **tensors, **attributes)
    found = codes_of(x, layer.columns(), layer.search())
    np.testing.assert_array_equal(found.T.reshape(codes.shape).numpy(), codes)
    with torch.no_grad():
        for training in (True, False):
            np.testing.assert_array_equal(layer.train(training)(x).numpy(), y)


def test_float_search_in_training_takes_the_lowest_of_equal_centroids():
    layer = LUTLinear(2, 1, bias=False, config=LUTConfig(4, 2, encode_dtype="float32", table_dtype="float32"))
    layer.free_table(torch.arange(4.0).reshape(1, 4, 1))
    with torch.no_grad():
        layer.centroids.copy_(torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]))
    assert layer.train()(torch.tensor([[0.0, 0.0], [0.9, 0.1], [0.0, 3.0]]))[:, 0].tolist() == [0.0, 0.0, 3.0]


@pytest.mark.parametrize("encode_dtype", ["int8", "int6", "float32"])
def test_training_survives_not_finite_inputs(encode_dtype):
    layer = LUTLinear(8, 3, config=LUTConfig(4, 4, encode_dtype=encode_dtype)).train()
    assert torch.isfinite(layer(torch.tensor([[torch.nan] * 8, [torch.inf] * 8, [0.0] * 8]))).all()


def test_no_rows():
    layer = LUTLinear(8, 3, config=LUTConfig(4, 4))
    x = torch.zeros(0, 8, requires_grad=True)
    layer(x).sum().backward()
    assert layer.centroids.grad is not None and not layer.centroids.grad.any()
    assert layer.eval()(torch.zeros(0, 8)).shape == (0, 3)
    assert FrozenLUTLinear(layer, "x")(torch.zeros(0, 8)).shape == (0, 3)


def test_large_score_biases_stay_exact():
    """Centroids far larger than the inputs' range need more than float32's 24 bits."""
    torch.manual_seed(0)
    layer = LUTLinear(6, 2, config=LUTConfig(16, 3))
    with torch.no_grad():
        layer.centroids.mul_(1000)
    x = torch.randn(50, 6) * 1000
    layer.set_input_range(torch.full((2,), -1.0), torch.full((2,), 1.0))
    frozen = FrozenLUTLinear(layer, "layer")
    assert frozen.score_bias.abs().max() > 2**20
    assert torch.equal(layer.eval()(x), frozen(x))
