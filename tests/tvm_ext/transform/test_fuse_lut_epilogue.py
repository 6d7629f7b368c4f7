"""FuseLUTEpilogue: relu and residual add behind a table read become part of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import tvm_ext  # noqa: F401 (registers R.lut)
from tvm_ext.transform import FuseLUTEpilogue

_RNG = np.random.default_rng(0)
T, T2 = (relax.const(_RNG.integers(-127, 128, (3, 16, 6)).astype("int8")) for _ in range(2))
S = relax.const(np.ones(6, "float32"))
ZERO, FIVE, SIX = (relax.const(np.float32(value)) for value in (0, 5, 6))
ROW = relax.const(np.ones((5, 6), "float32"))


def _module(apply: Callable) -> tvm.IRModule:
    """apply(codes uint8 [5, 3], r float32 [5, 6]), a float32 [5, 6]."""

    @I.ir_module
    class Module:
        @R.function
        def main(codes: R.Tensor((5, 3), "uint8"), r: R.Tensor((5, 6), "float32")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                y = apply(codes, r)
                R.output(y)
            return y

    return Module


def _read(codes, **more):
    return R.lut.lookup_accumulate(codes, T, S, **more)


_FUSED = {
    "relu": (lambda c, r: R.nn.relu(_read(c)), lambda c, r: _read(c, activation="relu")),
    "maximum": (lambda c, r: R.maximum(ZERO, _read(c)), lambda c, r: _read(c, activation="relu")),
    "relu6 of two": (lambda c, r: R.minimum(R.maximum(_read(c), ZERO), SIX), lambda c, r: _read(c, activation="relu6")),
    "clip": (lambda c, r: R.clip(R.add(_read(c), r), 0, 6), lambda c, r: _read(c, residual=r, activation="relu6")),
    "relu, clip": (lambda c, r: R.clip(R.nn.relu(_read(c)), 0.0, 6.0), lambda c, r: _read(c, activation="relu6")),
    "relu, minimum with another": (
        lambda c, r: R.minimum(R.nn.relu(_read(c)), FIVE),
        lambda c, r: R.minimum(_read(c, activation="relu"), FIVE),
    ),
    "add": (lambda c, r: R.add(_read(c), r), lambda c, r: _read(c, residual=r)),
    "add from the left": (lambda c, r: R.add(r, _read(c)), lambda c, r: _read(c, residual=r)),
    "add, relu": (
        lambda c, r: R.nn.relu(R.add(_read(c), r)),
        lambda c, r: _read(c, residual=r, activation="relu"),
    ),
    "add of another op": (
        lambda c, r: R.add(_read(c), R.sigmoid(r)),
        lambda c, r: _read(c, residual=R.sigmoid(r)),
    ),
    "relu, relu": (
        lambda c, r: R.nn.relu(R.nn.relu(_read(c))),
        lambda c, r: R.nn.relu(_read(c, activation="relu")),
    ),
    "add, add": (
        lambda c, r: R.add(R.add(_read(c), r), r),
        lambda c, r: R.add(_read(c, residual=r), r),
    ),
}


@pytest.mark.parametrize("case", _FUSED)
def test_fused(case: str) -> None:
    before, expected = _FUSED[case]
    tvm.ir.assert_structural_equal(FuseLUTEpilogue()(_module(before)), _module(expected))


_KEPT = {
    "relu then add": lambda c, r: R.add(_read(c, activation="relu"), r),
    "residual of one row": lambda c, r: R.add(_read(c), R.strided_slice(r, [0], [0], [1])),
    "constant residual": lambda c, r: R.add(_read(c), ROW),
    "another activation": lambda c, r: R.sigmoid(_read(c)),
    "minimum alone": lambda c, r: R.minimum(_read(c), SIX),
    "maximum with another": lambda c, r: R.maximum(_read(c), FIVE),
    "maximum of two tensors": lambda c, r: R.maximum(_read(c), r),
    "other bounds": lambda c, r: R.clip(_read(c), -1, 6),
    "product": lambda c, r: R.multiply(_read(c), r),
}


@pytest.mark.parametrize("case", _KEPT)
def test_not_fused(case: str) -> None:
    before = _module(_KEPT[case])
    tvm.ir.assert_structural_equal(FuseLUTEpilogue()(before), before)


def test_of_two_table_reads_the_later_takes_the_other() -> None:
    before = _module(lambda c, r: R.nn.relu(R.add(R.lut.lookup_accumulate(c, T2, S, layer="short"), _read(c))))
    expected = _module(
        lambda c, r: _read(c, residual=R.lut.lookup_accumulate(c, T2, S, layer="short"), activation="relu")
    )
    tvm.ir.assert_structural_equal(FuseLUTEpilogue()(before), expected)


def test_two_readers() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(codes: R.Tensor((5, 3), "uint8")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                y = R.lut.lookup_accumulate(codes, T, S)
                a = R.nn.relu(y)
                z = R.multiply(a, y)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(FuseLUTEpilogue()(Before), Before)


def test_a_result_of_the_function_is_a_reader() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(codes: R.Tensor((5, 3), "uint8")) -> R.Tuple(R.Tensor((5, 6), "float32"), R.Tensor((5, 6), "float32")):
            with R.dataflow():
                y = R.lut.lookup_accumulate(codes, T, S)
                a = R.nn.relu(y)
                R.output(y, a)
            return (y, a)

    tvm.ir.assert_structural_equal(FuseLUTEpilogue()(Before), Before)


def test_added_to_itself() -> None:
    @I.ir_module
    class Twice:
        @R.function
        def main(codes: R.Tensor((5, 3), "uint8")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                y = R.lut.lookup_accumulate(codes, T, S)
                z = R.add(y, y)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(FuseLUTEpilogue()(Twice), Twice)
