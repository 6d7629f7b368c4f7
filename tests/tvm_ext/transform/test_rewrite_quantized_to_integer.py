"""Which layers become integer ones, what stays float, and what the whole pipeline makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tvm
from tvm import relax

from tests import oracle_levels
from tests.execute import build_and_execute, execute
from tests.tvm_ext.targets import TARGETS
from tvm_ext import op, pipeline
from tvm_ext.transform import RewriteQuantizedToInteger, layer_rows

F = np.float32
THRESHOLDS = (np.arange(15, dtype=F) + F(0.5)) * F(0.2)
LEVELS = np.arange(16, dtype=F) * F(0.2)
WEIGHTS = np.arange(-7, 8, dtype=F) * F(0.0513717)
REAL = np.cumsum(np.exp(0.4 * np.random.default_rng(3).standard_normal(16))).astype(F)
Build = Callable[[relax.BlockBuilder, relax.Var], relax.Expr]


def _module(shape: Sequence[int], build: Build) -> tvm.IRModule:
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(list(shape), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(build(bb, x))
        bb.emit_func_output(result)
    return bb.get()


def _weight(shape: Sequence[int], palette: np.ndarray = WEIGHTS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(palette, shape)


def _quantize(bb: relax.BlockBuilder, x: relax.Expr, levels: np.ndarray = LEVELS) -> relax.Var:
    return bb.emit(op.quantize(x, relax.const(THRESHOLDS), relax.const(levels), layer="q"))


def _rows(mod: tvm.IRModule, **options) -> list[dict]:
    return layer_rows(RewriteQuantizedToInteger(**options)(mod))


def _dense(levels: np.ndarray = LEVELS, palette: np.ndarray = WEIGHTS) -> tvm.IRModule:
    weight = relax.const(_weight((24, 10), palette))
    return _module((4, 24), lambda bb, x: relax.op.matmul(_quantize(bb, x, levels), weight))


def test_take_of_bucketize_is_a_quantizer() -> None:
    def build(bb: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        codes = bb.emit(relax.op.bucketize(x, relax.const(THRESHOLDS), right=True))
        values = bb.emit(relax.op.take(relax.const(LEVELS), codes, axis=0))
        return relax.op.matmul(values, bb.emit(relax.op.permute_dims(relax.const(_weight((10, 24))))))

    assert [row["kind"] for row in _rows(_module((4, 24), build))] == ["integer"]


def test_left_bucketize_is_none() -> None:
    """Its ties go down, which is another staircase."""

    def build(bb: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        codes = bb.emit(relax.op.bucketize(x, relax.const(THRESHOLDS), right=False))
        values = bb.emit(relax.op.take(relax.const(LEVELS), codes, axis=0))
        return relax.op.matmul(values, relax.const(_weight((24, 10))))

    assert not _rows(_module((4, 24), build))


def test_float_weights_stay_float() -> None:
    weight = relax.const(np.random.default_rng(0).standard_normal((24, 20)).astype(F))
    assert not _rows(_module((4, 24), lambda bb, x: relax.op.matmul(_quantize(bb, x), weight)))


def test_float_inputs_stay_float() -> None:
    assert not _rows(_module((4, 24), lambda _, x: relax.op.matmul(x, relax.const(_weight((24, 10))))))


def test_thresholds_per_channel_stay_float() -> None:
    t, y = relax.const(np.tile(THRESHOLDS, (24, 1))), relax.const(np.tile(LEVELS, (24, 1)))
    weight = relax.const(_weight((24, 10)))
    assert not _rows(_module((4, 24), lambda bb, x: relax.op.matmul(bb.emit(op.quantize(x, t, y, axis=1)), weight)))


def test_layers_can_be_kept_float() -> None:
    span = tvm.ir.Span(tvm.ir.SourceName("fc"), 0, 0, 0, 0)

    def build(bb: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        call = relax.op.matmul(_quantize(bb, x), relax.const(_weight((24, 10))))
        return relax.Call(call.op, list(call.args), call.attrs, call.ty_args, span)

    assert [row["name"] for row in _rows(_module((4, 24), build))] == ["fc"]
    assert not _rows(_module((4, 24), build), keep_float=("fc",))


def test_multiples_are_exact_and_others_tell_their_error() -> None:
    (exact,) = _rows(_dense())
    assert exact["level_error"] == 0 and (exact["input_levels"], exact["weight_levels"]) == (16, 15)
    (rounded,) = _rows(_dense(levels=REAL, palette=REAL))
    (wide,) = _rows(_dense(levels=REAL, palette=REAL), exact=True)
    assert 1e-4 < rounded["level_error"] < 0.02
    assert wide["level_error"] < 2e-4


def test_one_quantizer_of_two_layers_makes_levels_once() -> None:
    def build(bb: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        q = _quantize(bb, x)
        left = bb.emit(relax.op.matmul(q, relax.const(_weight((24, 10)))))
        right = bb.emit(relax.op.matmul(q, relax.const(_weight((24, 10), seed=1))))
        return relax.op.add(left, right)

    mod = RewriteQuantizedToInteger()(_module((4, 24), build))
    assert mod.script().count("R.lut.levels") == 1 and "R.lut.quantize(" not in mod.script()


def test_the_new_ops_print_and_parse() -> None:
    mod = RewriteQuantizedToInteger()(_dense())
    text = mod.script(show_meta=True)
    assert "R.lut.quantized_dense" in text
    tvm.ir.assert_structural_equal(tvm.script.from_source(text), mod, map_free_vars=True)


def _network(
    palette: np.ndarray, levels: np.ndarray
) -> tuple[tvm.IRModule, Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """(conv - bn - relu - conv - flatten - dense, its float64 meaning, an input that no rounding can tip)"""
    w1, w2, w3 = (_weight(s, palette, i) for i, s in enumerate([(24, 5, 3, 3), (7, 24, 3, 3), (10, 7 * 9)]))
    shift = np.random.default_rng(1).standard_normal((24, 1, 1)).astype(F)

    def build(bb: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(_quantize(bb, x, levels), relax.const(w1), padding=(1, 1)))
        y = bb.emit(relax.op.nn.relu(bb.emit(relax.op.add(y, relax.const(shift)))))
        y = bb.emit(relax.op.nn.conv2d(_quantize(bb, y, levels), relax.const(w2), strides=(2, 2), padding=(1, 1)))
        flat = bb.emit(relax.op.reshape(_quantize(bb, y, levels), (2, 63)))
        return relax.op.matmul(flat, bb.emit(relax.op.permute_dims(relax.const(w3))))

    def conv(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
        x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        size = (x.shape[2] - 3) // stride + 1
        parts = [x[:, :, i : i + stride * size - stride + 1 : stride, j : j + stride * size - stride + 1 : stride]
                 for i in range(3) for j in range(3)]  # fmt: skip
        return np.einsum("tbchw,mct->bmhw", np.stack(parts), w.reshape(*w.shape[:2], 9).astype(np.float64))

    margins: list[float] = []

    def meaning(x: np.ndarray) -> np.ndarray:
        y = np.maximum(conv(oracle_levels.quantize(x, THRESHOLDS, levels), w1, 1) + shift, 0)
        z = conv(oracle_levels.quantize(y.astype(F), THRESHOLDS, levels), w2, 2)
        margins[:] = [np.abs(v[..., None] - THRESHOLDS).min() for v in (y, z)]
        return oracle_levels.quantize(z.astype(F), THRESHOLDS, levels).reshape(2, -1).astype(np.float64) @ w3.T

    for seed in range(200):
        x = np.abs(np.random.default_rng(seed).standard_normal((2, 5, 6, 6)) * 1.5).astype(F)
        meaning(x)
        if min(margins) > 2e-5:
            return _module(x.shape, build), meaning, x
    raise AssertionError("every input is near a threshold")


@pytest.mark.parametrize("isa", TARGETS)
def test_a_network_computes_what_the_float_one_means(isa: str) -> None:
    """Codes are exact, so only float32 rounding of the last sums is left."""
    mod, meaning, x = _network(WEIGHTS, LEVELS)
    (y,), built = build_and_execute(pipeline.rewrite(mod, {}), [x], TARGETS[isa])
    assert [row["kind"] for row in built.layers] == ["integer"] * 3
    np.testing.assert_allclose(y, meaning(x), rtol=2e-6, atol=2e-5)


def test_one_level_is_a_constant_input() -> None:
    weight = _weight((24, 10))
    t, y = relax.const(THRESHOLDS[:0]), relax.const(np.array([0.6], F))
    mod = _module((4, 24), lambda bb, x: relax.op.matmul(bb.emit(op.quantize(x, t, y)), relax.const(weight)))
    built = pipeline.build(pipeline.rewrite(mod, {}), TARGETS["avx2"])
    assert [row["kind"] for row in built.layers] == ["integer"]
    (got,) = execute(built.executable, [np.zeros((4, 24), F)], TARGETS["avx2"])
    np.testing.assert_allclose(got, np.full((4, 24), 0.6) @ weight, rtol=1e-5, atol=1e-6)


def test_sums_that_may_not_fit_int32_stay_float() -> None:
    depth = 70000
    levels, weights = np.arange(256, dtype=F), np.array([-127, 126], F)
    t = relax.const(np.arange(255, dtype=F))
    weight = relax.const(np.resize(weights, (depth, 1)))
    mod = _module((1, depth), lambda bb, x: relax.op.matmul(bb.emit(op.quantize(x, t, relax.const(levels))), weight))
    assert not _rows(mod)


def test_channels_stay_innermost_between_layers() -> None:
    mod, _, _ = _network(WEIGHTS, LEVELS)
    scheduled = pipeline.schedule(pipeline.rewrite(mod, {}), TARGETS["avx2"])
    assert "R.Tensor((2, 6, 6, 24)" in scheduled["main"].script()


def test_a_quantizer_that_no_layer_reads_computes_floats() -> None:
    for count in (0, 1, 15):
        t, y = THRESHOLDS[:count], LEVELS[: count + 1]
        mod = _module((3, 7), lambda bb, x, t=t, y=y: op.quantize(x, relax.const(t), relax.const(y)))
        x = np.random.default_rng(0).standard_normal((3, 7)).astype(F)
        (got,) = execute(pipeline.build(pipeline.rewrite(mod, {}), TARGETS["avx2"]).executable, [x], TARGETS["avx2"])
        np.testing.assert_array_equal(got, oracle_levels.quantize(x, t, y))


def test_a_quantizer_of_channels_computes_floats() -> None:
    rng = np.random.default_rng(0)
    t, y = np.sort(rng.standard_normal((4, 3)).astype(F)), rng.standard_normal((4, 4)).astype(F)
    mod = _module((2, 4, 5), lambda bb, x: op.quantize(x, relax.const(t), relax.const(y), axis=1))
    x = rng.standard_normal((2, 4, 5)).astype(F)
    (got,) = execute(pipeline.build(pipeline.rewrite(mod, {}), TARGETS["avx2"]).executable, [x], TARGETS["avx2"])
    np.testing.assert_array_equal(got, oracle_levels.quantize(x, t, y))
