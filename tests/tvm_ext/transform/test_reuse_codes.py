"""ReuseCodes: equal searches of one tensor become one, different ones stay."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import tvm_ext  # noqa: F401 (registers R.lut)
from tvm_ext.transform import ReuseCodes

_RNG = np.random.default_rng(0)
_CENTROIDS = _RNG.standard_normal((3, 16, 4)).astype("float32")
P, SAME = relax.const(_CENTROIDS), relax.const(_CENTROIDS.copy())
OTHER = relax.const(_CENTROIDS + np.float32(1))
T, T2 = (relax.const(_RNG.integers(-127, 128, (3, 16, 6)).astype("int8")) for _ in range(2))
S = relax.const(np.ones(6, "float32"))


def test_equal_codebooks_encode_once() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((5, 12), "float32")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                a = R.lut.encode(x, P, layer="query")
                ya = R.lut.lookup_accumulate(a, T, S, layer="query")
                b = R.lut.encode(x, SAME, layer="key")
                yb = R.lut.lookup_accumulate(b, T2, S, layer="key")
                y = R.add(ya, yb)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((5, 12), "float32")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                a = R.lut.encode(x, P, layer="query")
                ya = R.lut.lookup_accumulate(a, T, S, layer="query")
                yb = R.lut.lookup_accumulate(a, T2, S, layer="key")
                y = R.add(ya, yb)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(ReuseCodes()(Before), Expected)


@pytest.mark.parametrize(
    ("centroids", "attrs"),
    [(OTHER, {}), (SAME, {"input_signed": False})],
    ids=["other centroids", "other attributes"],
)
def test_different_searches_stay(centroids: relax.Expr, attrs: dict) -> None:
    def second(x):
        return R.lut.encode(x, centroids, layer="b", **attrs)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((5, 12), "float32")) -> R.Tuple(R.Tensor((5, 3), "uint8"), R.Tensor((5, 3), "uint8")):
            with R.dataflow():
                a = R.lut.encode(x, P, layer="a")
                b = second(x)
                y = (a, b)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(ReuseCodes()(Before), Before)


def test_different_tensors_stay() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((5, 12), "float32"), z: R.Tensor((5, 12), "float32")) -> R.Tuple(
            R.Tensor((5, 3), "uint8"), R.Tensor((5, 3), "uint8")
        ):
            with R.dataflow():
                a = R.lut.encode(x, P, layer="a")
                b = R.lut.encode(z, P, layer="b")
                y = (a, b)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(ReuseCodes()(Before), Before)


def test_functions_do_not_share_codes() -> None:
    """Codes of one function are no value of another one."""

    @I.ir_module
    class Before:
        @R.function
        def one() -> R.Tensor((3, 3), "uint8"):
            return R.lut.encode(X, P)

        @R.function
        def two() -> R.Tensor((3, 3), "uint8"):
            return R.lut.encode(X, P)

    after = ReuseCodes()(Before)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after, Before)


X = relax.const(np.ones((3, 12), "float32"))


def test_codes_do_not_leave_their_dataflow_block() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((5, 12), "float32")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                a = R.lut.encode(x, P)
                ya = R.lut.lookup_accumulate(a, T, S)
                R.output(ya)
            b = R.lut.encode(x, P)
            yb = R.lut.lookup_accumulate(b, T2, S)
            with R.dataflow():
                y = R.add(ya, yb)
                R.output(y)
            return y

    relax.analysis.well_formed(ReuseCodes()(Before))
