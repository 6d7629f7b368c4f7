"""DecomposeLUT: dense and conv2d become an encode and a table read with the same meaning."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import tvm_ext  # noqa: F401 (registers R.lut)
from tvm_ext.transform import DecomposeLUT

_RNG = np.random.default_rng(0)
P = relax.const(_RNG.standard_normal((3, 16, 4)).astype("float32"))
Q = relax.const(_RNG.integers(-127, 128, (3, 16, 9)).astype("int8"))
T = relax.const(_RNG.integers(-127, 128, (3, 16, 6)).astype("int8"))
S = relax.const(_RNG.standard_normal(6).astype("float32"))
B = relax.const(_RNG.standard_normal(6).astype("float32"))
INV = relax.const(np.ones(3, "float32"))
SB = relax.const(_RNG.integers(-99, 99, (3, 16)).astype("int32"))
MULT = relax.const(np.arange(1, 4, dtype="uint8"))


def test_dense() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 5, 12), "float32")) -> R.Tensor((2, 5, 6), "float32"):
            with R.dataflow():
                y = R.lut.dense(x, P, T, S, B, layer="fc")
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 5, 12), "float32")) -> R.Tensor((2, 5, 6), "float32"):
            with R.dataflow():
                codes: R.Tensor((2, 5, 3), "uint8") = R.lut.encode(x, P, layer="fc")
                y = R.lut.lookup_accumulate(codes, T, S, B, layer="fc")
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(DecomposeLUT()(Before), Expected)


def test_conv2d_keeps_geometry_and_integer_search() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3, 8, 8), "float32")) -> R.Tensor((2, 6, 5, 4), "float32"):
            with R.dataflow():
                y = R.lut.conv2d(
                    x, Q, T, S, None, INV, SB, MULT, kernel_shape=(3, 3), strides=(2, 2), pads=(2, 1, 3, 0),
                    dilations=(2, 1), encode_dtype="int8", input_signed=False, layer="conv",
                )  # fmt: skip
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3, 8, 8), "float32")) -> R.Tensor((2, 6, 5, 4), "float32"):
            with R.dataflow():
                codes: R.Tensor((2, 3, 5, 4), "uint8") = R.lut.encode(
                    x, Q, INV, SB, kernel_shape=(3, 3), strides=(2, 2), pads=(2, 1, 3, 0), dilations=(2, 1),
                    encode_dtype="int8", input_signed=False, layer="conv",
                )  # fmt: skip
                y = R.lut.lookup_accumulate(codes, T, S, None, MULT, axis=1, layer="conv")
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(DecomposeLUT()(Before), Expected)


def test_other_layers_are_untouched() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((5, 12), "float32"), w: R.Tensor((12, 6), "float32")) -> R.Tensor((5, 6), "float32"):
            with R.dataflow():
                y = R.matmul(x, w)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(DecomposeLUT()(Before), Before)


def test_constants_may_be_parameters() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((5, 12), "float32"), p: R.Tensor((3, 16, 4), "float32"), t: R.Tensor((3, 16, 6), "int8"),
            s: R.Tensor((6,), "float32"),
        ) -> R.Tensor((5, 6), "float32"):  # fmt: skip
            with R.dataflow():
                y = R.lut.dense(x, p, t, s)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((5, 12), "float32"), p: R.Tensor((3, 16, 4), "float32"), t: R.Tensor((3, 16, 6), "int8"),
            s: R.Tensor((6,), "float32"),
        ) -> R.Tensor((5, 6), "float32"):  # fmt: skip
            with R.dataflow():
                codes = R.lut.encode(x, p)
                y = R.lut.lookup_accumulate(codes, t, s)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(DecomposeLUT()(Before), Expected)
