"""RewriteConv2dToLUT: convolutions with constant weights that have a codebook."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.tvm_ext.transform.codebook import Codebook, module, named, random_codebook, table_of, tensor
from tvm_ext import op
from tvm_ext.transform import RewriteConv2dToLUT, layer_rows

_RNG = np.random.default_rng(0)
WEIGHT = _RNG.standard_normal((6, 4, 3, 3)).astype("float32")


def _float(x: relax.Expr, weight: relax.Expr | np.ndarray = WEIGHT, **geometry) -> relax.Call:
    weight = relax.const(weight) if isinstance(weight, np.ndarray) else weight
    return named(relax.op.nn.conv2d(x, weight, **geometry), "conv")


def _lut(x: relax.Expr, book: Codebook, weight: np.ndarray = WEIGHT, **geometry) -> relax.Call:
    table, scale = table_of(book, weight.reshape(len(weight), -1))
    search = {"encode_dtype": book.encode_dtype, "input_signed": book.input_signed, "layer": "conv"}
    constants = [relax.const(book.centroids), table, scale]
    if book.encode_dtype == "int8":
        centroids, inv_scale, score_bias = (relax.const(a) for a in book.integer_form())
        constants = [centroids, table, scale, None, inv_scale, score_bias]
    return op.conv2d(x, *constants, kernel_shape=weight.shape[2:], **geometry, **search)


@pytest.mark.parametrize("options", [{}, {"encode_dtype": "int8", "input_signed": False}, {"table_dtype": "float32"}])
@pytest.mark.parametrize(("c", "v"), [(4, 9), (2, 18), (8, 5), (1, 36)])
def test_plain(c: int, v: int, options: dict) -> None:
    x, book = tensor("x", 2, 4, 8, 8), random_codebook(c, 16, v, **options)
    after = RewriteConv2dToLUT({"conv": book})(module([x], lambda bb: _float(x)))
    tvm.ir.assert_structural_equal(after["main"], module([x], lambda bb: _lut(x, book))["main"])
    assert layer_rows(after) == [{"name": "conv", "op": "conv2d", "kind": "lut", "reason": ""}]


@pytest.mark.parametrize(
    ("padding", "pads"),
    [(1, (1, 1, 1, 1)), ((1, 2), (1, 2, 1, 2)), ((0, 1, 2, 3), (0, 1, 2, 3))],
    ids=["one", "two", "four"],
)
def test_geometry(padding: int | tuple[int, ...], pads: tuple[int, ...]) -> None:
    x, book = tensor("x", 1, 4, 11, 12), random_codebook(4, 16, 9)
    before = module([x], lambda bb: _float(x, padding=padding, strides=(2, 3), dilation=(1, 2)))
    after = RewriteConv2dToLUT({"conv": book})(before)
    expected = module([x], lambda bb: _lut(x, book, pads=pads, strides=(2, 3), dilations=(1, 2)))
    tvm.ir.assert_structural_equal(after["main"], expected["main"])
    assert after["main"].ret_ty.shape[2] == before["main"].ret_ty.shape[2]


def test_1x1() -> None:
    weight = _RNG.standard_normal((6, 10, 1, 1)).astype("float32")
    x, book = tensor("x", 1, 10, 5, 5), random_codebook(3, 16, 4)
    after = RewriteConv2dToLUT({"conv": book})(module([x], lambda bb: _float(x, weight)))
    tvm.ir.assert_structural_equal(after["main"], module([x], lambda bb: _lut(x, book, weight))["main"])


def _grouped() -> tuple:
    x = tensor("x", 1, 8, 8, 8)
    return [x], _float(x, WEIGHT, groups=2), "grouped convolution (2 groups)"


def _depthwise() -> tuple:
    x = tensor("x", 1, 6, 8, 8)
    return [x], _float(x, WEIGHT[:, :1].copy(), groups=6), "depthwise convolution (6 groups)"


def _channels_last() -> tuple:
    x, weight = tensor("x", 1, 8, 8, 4), WEIGHT.transpose(2, 3, 1, 0).copy()
    return [x], _float(x, weight, data_layout="NHWC", kernel_layout="HWIO"), "layout NHWC/HWIO is not NCHW/OIHW"


def _half() -> tuple:
    x = tensor("x", 1, 4, 8, 8, dtype="float16")
    return [x], _float(x, WEIGHT.astype("float16")), "computes in float16, not float32"


def _variable() -> tuple:
    x, w = tensor("x", 1, 4, 8, 8), tensor("w", 6, 4, 3, 3)
    return [x, w], _float(x, w), "weight is not a constant"


@pytest.mark.parametrize("make", [_grouped, _depthwise, _channels_last, _half, _variable])
def test_stays_float_and_says_why(make) -> None:
    params, call, reason = make()
    before = module(params, lambda bb: call)
    after = RewriteConv2dToLUT({"conv": random_codebook(4, 16, 9)})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    assert layer_rows(after) == [{"name": "conv", "op": "conv2d", "kind": "float", "reason": reason}]


def test_no_codebook() -> None:
    x = tensor("x", 1, 4, 8, 8)
    before = module([x], lambda bb: _float(x))
    after = RewriteConv2dToLUT({"other": random_codebook(4, 16, 9)})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    assert [(r["kind"], r["reason"]) for r in layer_rows(after)] == [("float", "no codebook for this layer")]


def test_codebook_that_does_not_fit_is_an_error() -> None:
    x = tensor("x", 1, 4, 8, 8)
    before = module([x], lambda bb: _float(x))
    after = RewriteConv2dToLUT({"conv": random_codebook(3, 16, 9)})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    (row,) = layer_rows(after)
    assert row["kind"] == "error" and "rows of 36 elements: subvector_len 9 needs 4 codebooks, not 3" in row["reason"]


def test_symbolic_batch_is_recorded_not_raised() -> None:
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 4, 8, 8), "float32"))
    before = module([x], lambda bb: _float(x))
    after = RewriteConv2dToLUT({"conv": random_codebook(4, 16, 9)})(before)
    (row,) = layer_rows(after)
    assert row["kind"] in ("float", "error") and "static" in row["reason"]
