"""RewriteDenseToLUT: products with constant weights that have a codebook."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.tvm_ext.transform.codebook import Codebook, module, named, random_codebook, table_of, tensor
from tvm_ext import op
from tvm_ext.transform import RewriteDenseToLUT, layer_rows

_RNG = np.random.default_rng(0)
WEIGHT = _RNG.standard_normal((6, 10)).astype("float32")  # [M, D]
LUT = {"name": "fc", "op": "dense", "kind": "lut", "reason": ""}


def _dense(x: relax.Expr, book: Codebook, weight: np.ndarray = WEIGHT, name: str = "fc") -> relax.Call:
    """What the layer must become."""
    table, scale = table_of(book, weight)
    search = {"encode_dtype": book.encode_dtype, "input_signed": book.input_signed, "layer": name}
    if book.encode_dtype == "float32":
        return op.dense(x, relax.const(book.centroids), table, scale, **search)
    centroids, inv_scale, score_bias = (relax.const(a) for a in book.integer_form())
    return op.dense(x, centroids, table, scale, None, inv_scale, score_bias, **search)


def _float(x: relax.Expr, weight: relax.Expr | None = None, name: str = "fc") -> relax.Call:
    return named(relax.op.matmul(x, relax.const(WEIGHT.T.copy()) if weight is None else weight), name)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("options", [{}, {"encode_dtype": "int8", "input_signed": False}, {"table_dtype": "float32"}])
def test_plain(shape: tuple[int, ...], options: dict) -> None:
    x, book = tensor("x", *shape, 10), random_codebook(3, 16, 4, **options)
    after = RewriteDenseToLUT({"fc": book})(module([x], lambda bb: _float(x)))
    tvm.ir.assert_structural_equal(after["main"], module([x], lambda bb: _dense(x, book))["main"])
    assert layer_rows(after) == [LUT]


@pytest.mark.parametrize("axes", [None, [1, 0]], ids=str)
def test_transposed_weight(axes: list[int] | None) -> None:
    x, book = tensor("x", 5, 10), random_codebook(3, 16, 4)
    before = module([x], lambda bb: _float(x, bb.emit(relax.op.permute_dims(relax.const(WEIGHT), axes))))
    after = RewriteDenseToLUT({"fc": book})(before)
    tvm.ir.assert_structural_equal(after["main"], module([x], lambda bb: _dense(x, book))["main"])
    assert layer_rows(after) == [LUT]


def test_bias_add_stays_behind() -> None:
    x, book, bias = tensor("x", 5, 10), random_codebook(3, 16, 4), relax.const(np.ones(6, "float32"))
    after = RewriteDenseToLUT({"fc": book})(module([x], lambda bb: relax.op.add(bb.emit(_float(x)), bias)))
    expected = module([x], lambda bb: relax.op.add(bb.emit(_dense(x, book)), bias))
    tvm.ir.assert_structural_equal(after["main"], expected["main"])


def test_zero_weight_column() -> None:
    weight = WEIGHT.copy()
    weight[2] = 0
    x, book = tensor("x", 5, 10), random_codebook(3, 16, 4)
    before = module([x], lambda bb: _float(x, relax.const(weight.T.copy())))
    after = RewriteDenseToLUT({"fc": book})(before)
    tvm.ir.assert_structural_equal(after["main"], module([x], lambda bb: _dense(x, book, weight))["main"])


def test_two_layers_by_name() -> None:
    square = _RNG.standard_normal((10, 10)).astype("float32")
    x, book = tensor("x", 5, 10), random_codebook(3, 16, 4)

    def both(bb):
        return _float(bb.emit(named(relax.op.matmul(x, relax.const(square.T.copy())), "first")), name="second")

    after = RewriteDenseToLUT({"second": book})(module([x], both))
    expected = module(
        [x], lambda bb: _dense(bb.emit(relax.op.matmul(x, relax.const(square.T.copy()))), book, name="second")
    )
    tvm.ir.assert_structural_equal(after["main"], expected["main"])
    assert layer_rows(after) == [
        {"name": "first", "op": "dense", "kind": "float", "reason": "no codebook for this layer"},
        {**LUT, "name": "second"},
    ]


def test_no_codebook_stays_float_and_says_so() -> None:
    x = tensor("x", 5, 10)
    before = module([x], lambda bb: _float(x))
    after = RewriteDenseToLUT({})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    assert layer_rows(after) == [{"name": "fc", "op": "dense", "kind": "float", "reason": "no codebook for this layer"}]


@pytest.mark.parametrize(("c", "v"), [(4, 4), (2, 4), (3, 6)])
def test_codebook_that_does_not_fit_is_an_error(c: int, v: int) -> None:
    x = tensor("x", 5, 10)
    before = module([x], lambda bb: _float(x))
    after = RewriteDenseToLUT({"fc": random_codebook(c, 16, v)})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    (row,) = layer_rows(after)
    needed = -(-10 // v)
    assert row["kind"] == "error"
    assert row["reason"] == (
        f"centroids [{c}, 16, {v}] do not fit rows of 10 elements: subvector_len {v} needs {needed} codebooks, not {c}"
    )


def test_product_of_activations_is_no_layer() -> None:
    x, w = tensor("x", 5, 10), tensor("w", 10, 6)
    before = module([x, w], lambda bb: _float(x, w))
    after = RewriteDenseToLUT({"fc": random_codebook(3, 16, 4)})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    assert layer_rows(after) == []


def test_batched_and_half_weights_stay_float() -> None:
    x, h = tensor("x", 2, 5, 10), tensor("h", 5, 10, dtype="float16")
    batched = relax.const(np.stack([WEIGHT.T, WEIGHT.T]))
    half = relax.const(WEIGHT.T.astype("float16"))
    for params, weight, reason in (
        ([x], batched, "weight is float32 with 3 axes, not a float32 matrix"),
        ([h], half, "weight is float16 with 2 axes, not a float32 matrix"),
    ):
        before = module(params, lambda bb, p=params, w=weight: _float(p[0], w))
        after = RewriteDenseToLUT({"fc": random_codebook(3, 16, 4)})(before)
        tvm.ir.assert_structural_equal(after["main"], before["main"])
        assert [(r["kind"], r["reason"]) for r in layer_rows(after)] == [("float", reason)]


def test_symbolic_rows_are_recorded_not_raised() -> None:
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 10), "float32"))
    before = module([x], lambda bb: _float(x))
    after = RewriteDenseToLUT({"fc": random_codebook(3, 16, 4)})(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    (row,) = layer_rows(after)
    assert row["kind"] in ("float", "error") and "static" in row["reason"]
