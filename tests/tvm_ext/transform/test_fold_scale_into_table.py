"""FoldScaleIntoTable: per-channel arithmetic behind a table read becomes its scale and bias."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import tvm_ext  # noqa: F401 (registers R.lut)
from tvm_ext.transform import FoldScaleIntoTable, FuseLUTEpilogue

M = 6
_RNG = np.random.default_rng(0)
T = relax.const(_RNG.integers(-127, 128, (3, 16, M)).astype("int8"))
SCALE, BIAS = _RNG.uniform(0.5, 2, M).astype("float32"), _RNG.standard_normal(M).astype("float32")
S, B = relax.const(SCALE), relax.const(BIAS)
VALUE = _RNG.uniform(0.5, 2, M).astype("float32")
FULL = relax.const(np.ones((5, M), "float32"))


def _const(value: np.ndarray | float) -> relax.Expr:
    return relax.const(np.asarray(value, "float32"))


def _dense(apply: Callable, bias: relax.Expr | None = B) -> tvm.IRModule:
    """apply(table read [5, M])."""

    def read(codes):
        return R.lut.lookup_accumulate(codes, T, S, bias)

    @I.ir_module
    class Module:
        @R.function
        def main(codes: R.Tensor((5, 3), "uint8")) -> R.Tensor((5, M), "float32"):
            with R.dataflow():
                y = read(codes)
                z = apply(y)
                R.output(z)
            return z

    return Module


def _conv(apply: Callable) -> tvm.IRModule:
    """apply(table read [2, M, 4, 4])."""

    @I.ir_module
    class Module:
        @R.function
        def main(codes: R.Tensor((2, 3, 4, 4), "uint8")) -> R.Tensor((2, M, 4, 4), "float32"):
            with R.dataflow():
                y = R.lut.lookup_accumulate(codes, T, S, B, axis=1)
                z = apply(y)
                R.output(z)
            return z

    return Module


def _canonical(mod: tvm.IRModule) -> tvm.IRModule:
    """Without the tuple that batch norm leaves behind."""
    return tvm.transform.Sequential([relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()])(
        mod
    )


def _folded(shape: tuple[int, ...], axis: int, scale: np.ndarray, bias: np.ndarray) -> tvm.IRModule:
    s, b = _const(scale.astype("float32")), _const(bias.astype("float32"))
    out = (shape[0], M, *shape[2:]) if axis == 1 else (*shape[:-1], M)

    @I.ir_module
    class Module:
        @R.function
        def main(codes: R.Tensor(shape, "uint8")) -> R.Tensor(out, "float32"):
            with R.dataflow():
                z = R.lut.lookup_accumulate(codes, T, s, b, axis=axis)
                R.output(z)
            return z

    return Module


_W, _HALF = VALUE.astype("float64"), 0.5
_ARITHMETIC = {
    "add": (lambda y, v: R.add(y, v), SCALE, BIAS + _W),
    "add from the left": (lambda y, v: R.add(v, y), SCALE, BIAS + _W),
    "subtract": (lambda y, v: R.subtract(y, v), SCALE, BIAS - _W),
    "multiply": (lambda y, v: R.multiply(y, v), SCALE * _W, BIAS * _W),
    "multiply from the left": (lambda y, v: R.multiply(v, y), SCALE * _W, BIAS * _W),
    "divide": (lambda y, v: R.divide(y, v), SCALE * (1 / _W), BIAS * (1 / _W)),
}


@pytest.mark.parametrize("case", _ARITHMETIC)
@pytest.mark.parametrize("shape", [(M,), (1, M)], ids=str)
def test_per_channel_constant_behind_dense(case: str, shape: tuple[int, ...]) -> None:
    make, scale, bias = _ARITHMETIC[case]
    value = _const(VALUE.reshape(shape))
    after = FoldScaleIntoTable()(_dense(lambda y: make(y, value)))
    tvm.ir.assert_structural_equal(after, _folded((5, 3), -1, scale, bias))


@pytest.mark.parametrize("case", _ARITHMETIC)
@pytest.mark.parametrize("shape", [(1, M, 1, 1), (M, 1, 1)], ids=str)
def test_per_channel_constant_behind_conv(case: str, shape: tuple[int, ...]) -> None:
    make, scale, bias = _ARITHMETIC[case]
    value = _const(VALUE.reshape(shape))
    after = FoldScaleIntoTable()(_conv(lambda y: make(y, value)))
    tvm.ir.assert_structural_equal(after, _folded((2, 3, 4, 4), 1, scale, bias))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_scalar(shape: tuple[int, ...]) -> None:
    value = _const(np.full(shape, 0.5))
    after = FoldScaleIntoTable()(_dense(lambda y: R.multiply(y, value)))
    tvm.ir.assert_structural_equal(after, _folded((5, 3), -1, SCALE * _HALF, BIAS * _HALF))


def test_absent_bias_counts_as_zero() -> None:
    value = _const(VALUE)
    after = FoldScaleIntoTable()(_dense(lambda y: R.add(y, value), bias=None))
    tvm.ir.assert_structural_equal(after, _folded((5, 3), -1, SCALE, VALUE))


def test_a_chain_folds_from_the_inside() -> None:
    w, v = _const(VALUE), _const(0.5)
    after = FoldScaleIntoTable()(_dense(lambda y: R.add(R.multiply(y, w), v)))
    tvm.ir.assert_structural_equal(after, _folded((5, 3), -1, SCALE * _W, (BIAS * _W).astype("float32") + _HALF))


_NORM = [_RNG.uniform(0.5, 2, M).astype("float32") for _ in range(4)]
GAMMA, BETA, MEAN, VAR = (relax.const(a) for a in _NORM)


@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False)])
def test_batch_norm(center: bool, scale: bool) -> None:
    def norm(y):
        return R.nn.batch_norm(
            y, GAMMA, BETA, MEAN, VAR, axis=1, epsilon=1e-3, center=center, scale=scale, training=False
        )[0]

    gamma, beta, mean, var = (a.astype("float64") for a in _NORM)
    factor = 1 / np.sqrt(var + 1e-3)
    factor = factor * gamma if scale else factor
    bias = (BIAS - mean) * factor + (beta if center else 0)
    after = _canonical(FoldScaleIntoTable()(_conv(norm)))
    tvm.ir.assert_structural_equal(after, _folded((2, 3, 4, 4), 1, SCALE.astype("float64") * factor, bias))


def test_what_stands_behind_batch_norm_is_reached_too() -> None:
    """conv, batch norm, relu is the commonest layer there is: all of it must end up in the table read."""

    def layer(y):
        return R.nn.relu(R.nn.batch_norm(y, GAMMA, BETA, MEAN, VAR, axis=1, training=False)[0])

    passes = tvm.transform.Sequential([FoldScaleIntoTable(), FuseLUTEpilogue()])
    after = _canonical(passes(_conv(layer)))
    text = after.script()
    assert "batch_norm" not in text and "R.nn.relu" not in text and 'activation="relu"' in text


def test_batch_norm_in_training_stays() -> None:
    def norm(y):
        return R.nn.batch_norm(y, GAMMA, BETA, MEAN, VAR, axis=1, training=True)[0]

    before = _conv(norm)
    tvm.ir.assert_structural_equal(FoldScaleIntoTable()(before), before)


def test_batch_norm_along_another_axis_stays() -> None:
    value = relax.const(np.ones(4, "float32"))

    def norm(y):
        return R.nn.batch_norm(y, value, value, value, value, axis=2, training=False)[0]

    before = _conv(norm)
    tvm.ir.assert_structural_equal(FoldScaleIntoTable()(before), before)


_KEPT = {
    "constant minus y": lambda y: R.subtract(_const(VALUE), y),
    "constant over y": lambda y: R.divide(_const(VALUE), y),
    "division by zero": lambda y: R.divide(y, _const(np.arange(M))),
    "a value for every element": lambda y: R.add(y, FULL),
    "a value for every row": lambda y: R.add(y, _const(np.ones((5, 1)))),
    "behind relu": lambda y: R.multiply(R.nn.relu(y), _const(VALUE)),
    "two readers": lambda y: R.add(R.multiply(y, _const(VALUE)), R.nn.relu(y)),
    "its own square": lambda y: R.multiply(y, y),
}


@pytest.mark.parametrize("case", _KEPT)
def test_not_folded(case: str) -> None:
    before = _dense(_KEPT[case])
    tvm.ir.assert_structural_equal(FoldScaleIntoTable()(before), before)


def test_not_folded_into_a_read_with_activation_or_residual() -> None:
    value = _const(VALUE)

    @I.ir_module
    class Before:
        @R.function
        def main(codes: R.Tensor((5, 3), "uint8"), r: R.Tensor((5, M), "float32")) -> R.Tuple(
            R.Tensor((5, M), "float32"), R.Tensor((5, M), "float32")
        ):
            with R.dataflow():
                a = R.lut.lookup_accumulate(codes, T, S, activation="relu")
                b = R.lut.lookup_accumulate(codes, T, S, residual=r)
                c = R.multiply(a, value)
                d = R.multiply(b, value)
                y = (c, d)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(FoldScaleIntoTable()(Before), Before)


def test_two_readers_of_a_folded_value() -> None:
    """y * w folds; the result has two readers, so nothing more may."""
    value = _const(VALUE)

    def twice(y):
        z = R.multiply(y, value)
        return R.add(R.multiply(z, _const(2)), R.nn.relu(z))

    text = FoldScaleIntoTable()(_dense(twice)).script()
    assert text.count("lookup_accumulate(") == 1 and text.count("R.multiply(") == 1
