"""Float layers in 8-bit integers: which ones, what they compute to the bit, and how near that is to float."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.execute import build_and_execute, execute, skip_unless_runnable
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline
from tvm_ext.compute.uniform_levels import UniformLevels, fit_uniform, integer_layer, quantize_weight
from tvm_ext.transform import QuantizeRemainder, expose_inputs, layer_rows, remainder_layers

F = np.float32


@dataclass(frozen=True, eq=False)
class Read:
    rows: np.ndarray
    low: float
    high: float


@dataclass(frozen=True)
class Layer:
    """A float layer called `name` over x of a shape; `kernel` makes it a conv."""

    name: str
    x: tuple[int, ...]
    outputs: int
    kernel: tuple[int, int] | None = None
    options: dict = field(default_factory=dict)
    positive: bool = False

    def inputs(self) -> np.ndarray:
        x = np.random.default_rng(len(self.name)).standard_normal(self.x).astype(F)
        x = np.abs(x) if self.positive else x
        x.reshape(-1)[:2] = [9.0, 0.0 if self.positive else -7.0]
        return x

    def weight(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        shape = (
            (self.outputs, self.x[1] // self.options.get("groups", 1), *self.kernel)
            if self.kernel
            else (self.x[-1], self.outputs)
        )
        return rng.standard_normal(shape).astype(F)

    def call(self, x: relax.Expr) -> relax.Call:
        w = relax.const(self.weight())
        call = relax.op.nn.conv2d(x, w, **self.options) if self.kernel else relax.op.matmul(x, w)
        span = tvm.ir.Span(tvm.ir.SourceName(self.name), 0, 0, 0, 0)
        return relax.Call(call.op, list(call.args), call.attrs, call.ty_args, span)


LAYERS = [
    Layer("fc", (1, 70), 10, positive=True),
    Layer("tokens", (2, 5, 24), 33),
    Layer("stem", (2, 3, 15, 18), 20, (7, 7), {"strides": (2, 2), "padding": (3, 3)}),
    Layer("uneven", (1, 5, 7, 9), 6, (3, 2), {"padding": (1, 0, 2, 1), "dilation": (2, 1)}, True),
    Layer("pointwise", (1, 19, 4, 6), 7, (1, 1), {"strides": (2, 2)}),
]


def _module(layers: list[Layer]) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    xs = [relax.Var(f"x{i}", relax.TensorType(list(layer.x), "float32")) for i, layer in enumerate(layers)]
    with bb.function("main", xs):
        with bb.dataflow():
            results = [bb.emit(layer.call(x)) for layer, x in zip(layers, xs, strict=True)]
            result = bb.emit_output(relax.Tuple(results))
        bb.emit_func_output(result)
    return bb.get()


def _reads(layers: list[Layer]) -> dict[str, Read]:
    """What layers read, as if all values were rows: scales and means are of the whole tensor anyway."""
    found = {}
    for layer in layers:
        x, depth = layer.inputs(), int(np.prod(layer.weight().shape[1:])) if layer.kernel else layer.x[-1]
        found[layer.name] = Read(np.resize(x, (-(-x.size // depth), depth)), float(x.min()), float(x.max()))
    return found


def _sums(layer: Layer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """int64 sums of integers x and w, shaped like the result."""
    if not layer.kernel:
        return x.astype(np.int64) @ w.astype(np.int64).T
    padding = layer.options.get("padding", (0, 0))
    top, left, bottom, right = padding * (4 // len(padding))
    (sh, sw), (dh, dw) = (layer.options.get(name, (1, 1)) for name in ("strides", "dilation"))
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = (dh * (layer.kernel[0] - 1) + 1, dw * (layer.kernel[1] - 1) + 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
    return np.einsum("bchwij,mcij->bmhw", windows, w.astype(np.int64))


def _expected(layer: Layer, row: dict) -> np.ndarray:
    """What the layer computes by definition: exact sums, then float32 with one rounding of each constant."""
    levels = UniformLevels(row["inv_scale"], row["input_low"], row["input_high"])
    weight = layer.weight() if layer.kernel else layer.weight().T
    integers, scale, bias = integer_layer(weight, levels, row["input_mean"])
    sums = _sums(layer, levels.integers(layer.inputs()), integers).astype(F)
    along = (slice(None), None, None) if layer.kernel else (slice(None),)
    return sums * scale.astype(F)[along] + bias.astype(F)[along]


@pytest.mark.parametrize("isa", TARGETS)
def test_layers_compute_the_definition(isa: str) -> None:
    """Bit for bit up to whether scale and bias are applied with one rounding or two."""
    target = TARGETS[isa]
    mod = pipeline.quantize_remainder(pipeline.rewrite(_module(LAYERS), {}), target, _reads(LAYERS))
    results, built = build_and_execute(mod, [layer.inputs() for layer in LAYERS], target)
    rows = {row["name"]: row for row in built.layers}
    assert {row["kind"] for row in built.layers} == {"integer"}
    assert all(f"product {isa}".startswith(row["kernel"]) or isa.startswith("neon_") for row in built.layers)
    for layer, y in zip(LAYERS, results, strict=True):
        expected = _expected(layer, rows[layer.name])
        np.testing.assert_allclose(
            y, expected, rtol=3e-7, atol=3e-7 * float(np.abs(expected).max()), err_msg=layer.name
        )


def test_layers_are_near_float() -> None:
    mod = QuantizeRemainder(_reads(LAYERS))(_module(LAYERS))
    for layer, row in zip(LAYERS, layer_rows(mod), strict=True):
        weight = layer.weight() if layer.kernel else layer.weight().T
        exact = _sums_float(layer, weight)
        error = np.sqrt(np.square(_expected(layer, row) - exact).mean() / exact.var())
        assert error < 0.03, layer.name
        assert 0 < row["level_error"] < 0.03 and row["input_levels"] == 256


def _sums_float(layer: Layer, weight: np.ndarray) -> np.ndarray:
    return _sums(layer, np.rint(layer.inputs() * 2.0**20), np.rint(weight * 2.0**20)) / 2.0**40


def test_unsigned_bytes_get_all_levels_where_inputs_are_not_negative() -> None:
    levels = fit_uniform(0.0, 10.0, np.linspace(0, 10, 999, dtype=F), 256)
    assert (levels.low, levels.high) == (0, 255)
    assert abs(levels.scale - 10 / 255) < 1e-3


def test_an_outlier_may_be_cut_off() -> None:
    x = np.random.default_rng(0).standard_normal(9999).astype(F)
    x[0] = 30
    kept = fit_uniform(-3.0, 30.0, x[1:], 256)
    assert kept.scale < 30 / 255 / 2


@pytest.mark.parametrize("low,high", [(0.0, 0.0), (-1.0, -0.5), (2.0, 3.0), (-1e-20, 1e-20), (-1e30, 1e25)])
def test_zero_is_a_level(low: float, high: float) -> None:
    levels = fit_uniform(low, high, np.array([low, high], F), 256)
    assert levels.low <= 0 <= levels.high and levels.high - levels.low == 255
    x = np.array([low, high, 0], F)
    np.testing.assert_allclose(levels.integers(x) * levels.scale, x, atol=levels.scale)


def test_thresholds_are_where_the_rounding_goes_up() -> None:
    rng = np.random.default_rng(0)
    for inv_scale in np.exp(rng.uniform(-20, 20, 30)).astype(F):
        levels = UniformLevels(float(inv_scale), -100, 155)
        t = levels.thresholds()
        np.testing.assert_array_equal(levels.integers(t), levels.values()[1:])
        np.testing.assert_array_equal(levels.integers(np.nextafter(t, F(-np.inf))), levels.values()[:-1])


def test_a_channel_of_zeros_has_a_scale() -> None:
    integers, scale = quantize_weight(np.array([[0, 0], [1, -2]], F))
    np.testing.assert_array_equal(integers, [[0, 0], [64, -127]])
    np.testing.assert_allclose(scale, [1, 2 / 127])


def test_what_cannot_be_quantized_says_why() -> None:
    infinite = Layer("infinite", (1, 8), 4)
    mod = _module([Layer("grouped", (1, 8, 5, 5), 4, (3, 3), {"groups": 2}), LAYERS[0]])
    told = {layer.name: layer.reason for layer in remainder_layers(mod)}
    assert told == {"grouped": "grouped convolution (2 groups)", "fc": ""}
    object.__setattr__(infinite, "weight", lambda: np.full((8, 4), np.inf, F))
    assert [layer.reason for layer in remainder_layers(_module([infinite]))] == ["its weight holds NaN or infinity"]
    long = Layer("long", (1, 70000), 1)
    assert "may not fit int32" in remainder_layers(_module([long]))[0].reason


def test_products_of_two_inputs_are_no_layers() -> None:
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([4, 4], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(relax.op.matmul(x, x))
        bb.emit_func_output(result)
    assert not remainder_layers(bb.get())


def test_layers_that_read_one_tensor_share_its_levels() -> None:
    left, right = Layer("left", (4, 24), 5), Layer("right", (4, 24), 6)
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([4, 24], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(relax.Tuple([bb.emit(left.call(x)), bb.emit(right.call(x))]))
        bb.emit_func_output(result)
    exposed, calls = expose_inputs(bb.get(), {"left", "right"})
    assert calls == [("left", 0), ("right", 0)] and "matmul" not in exposed.script()
    read = _reads([left])["left"]
    assert QuantizeRemainder({"left": read, "right": read})(bb.get()).script().count("R.lut.levels") == 1


@pytest.mark.parametrize("isa", ["generic", "avx512_vbmi"])
def test_pooling_behind_a_conv_stays_channels_last(isa: str) -> None:
    """conv - relu - pool - conv: the result is that of the layers one by one, and no map is turned in between."""
    skip_unless_runnable(TARGETS[isa])
    first, second = (
        Layer("first", (2, 3, 14, 18), 20, (3, 3), {"padding": (1, 1)}),
        Layer("next", (2, 20, 7, 9), 6, (1, 1)),
    )
    pool = {"pool_size": (3, 3), "strides": (2, 2), "padding": (1, 1)}

    def build(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.relu(bb.emit(first.call(x))))
        return second.call(bb.emit(relax.op.nn.max_pool2d(y, **pool)))

    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(list(first.x), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(build(bb, x))
        bb.emit_func_output(result)
    reads = {
        "first": _reads([first])["first"],
        "next": Read(np.linspace(0, 30, 200, dtype=F).reshape(10, 20), 0.0, 30.0),
    }
    mod = QuantizeRemainder(reads, 128)(bb.get())
    rows = {row["name"]: row for row in layer_rows(mod)}
    scheduled = pipeline.schedule(mod, TARGETS[isa])
    assert "transpose" not in scheduled["main"].script()
    (got,) = execute(pipeline.codegen(scheduled, TARGETS[isa]).executable, [first.inputs()], TARGETS[isa])

    y = np.maximum(_expected(first, rows["first"]), 0)
    padded = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    pooled = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max((-2, -1))
    levels = UniformLevels(*(rows["next"][name] for name in ("inv_scale", "input_low", "input_high")))
    position = np.abs(pooled * levels.inv_scale % 1 - 0.5).min()
    assert position > 1e-5, "an input of the second layer is too near to a threshold to tell"
    integers, scale, bias = integer_layer(second.weight(), levels, rows["next"]["input_mean"])
    expected = _sums(second, levels.integers(pooled.astype(F)), integers) * scale[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
