"""The R.lut operators: result types, messages for wrong arguments, text and JSON forms, and their meaning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.execute import execute
from tests.tvm_ext.layers import Layer, check, check_codes, inputs_of, module_of
from tests.tvm_ext.targets import TARGETS
from tests.tvm_ext.transform.codebook import module, tensor
from tvm_ext import op
from tvm_ext.transform import DecomposeLUT

OPS = ("encode", "lookup_accumulate", "dense", "conv2d")


def _infer(call: relax.Expr) -> tuple[tuple[int, ...], str]:
    ty = relax.BlockBuilder().normalize(call).ty
    return tuple(int(d) for d in ty.shape), str(ty.dtype)


def _search(
    c: int = 3, k: int = 16, v: int = 4, *, centroids: str = "int8", inv: tuple = (), bias: tuple = ()
) -> list[relax.Var]:
    """centroids, inv_scale, score_bias of an int8 search."""
    return [
        tensor("centroids", c, k, v, dtype=centroids),
        tensor("inv_scale", *(inv or (c,))),
        tensor("score_bias", *(bias or (c, k)), dtype="int32"),
    ]


X, IMAGE = tensor("x", 5, 12), tensor("x", 2, 3, 8, 8)
P, T, S = tensor("p", 3, 16, 4), tensor("t", 3, 16, 6, dtype="int8"), tensor("s", 6)
P9 = tensor("p", 3, 16, 9)
CODES, CODES4 = tensor("codes", 5, 3, dtype="uint8"), tensor("codes", 2, 3, 4, 4, dtype="uint8")
INT8 = {"encode_dtype": "int8"}
K3 = {"kernel_shape": (3, 3)}

_RIGHT: dict[str, tuple[Callable[[], relax.Expr], tuple[int, ...], str]] = {
    "encode": (lambda: op.encode(X, P), (5, 3), "uint8"),
    "encode, padded": (lambda: op.encode(tensor("x", 5, 9), P), (5, 3), "uint8"),
    "encode, rank 1": (lambda: op.encode(tensor("x", 12), P), (3,), "uint8"),
    "encode, rank 4": (lambda: op.encode(tensor("x", 2, 1, 5, 12), P), (2, 1, 5, 3), "uint8"),
    "encode, int8": (lambda: op.encode(X, *_search(), **INT8), (5, 3), "uint8"),
    "encode, conv": (lambda: op.encode(IMAGE, P9, **K3), (2, 3, 6, 6), "uint8"),
    "encode, conv geometry": (
        lambda: op.encode(IMAGE, P9, **K3, strides=(2, 1), pads=(0, 1, 1, 0), dilations=(1, 3)),
        (2, 3, 4, 3),
        "uint8",
    ),
    "encode, rowwise": (lambda: op.encode(tensor("x", 2, 4, 12), P, layout="rowwise"), (8, 3), "uint8"),
    "encode, conv rowwise": (lambda: op.encode(IMAGE, P9, **K3, layout="rowwise"), (2, 3, 36), "uint8"),
    "encode, 256 centroids": (lambda: op.encode(X, tensor("p", 3, 256, 4)), (5, 3), "uint8"),
    "lookup": (lambda: op.lookup_accumulate(CODES, T, S), (5, 6), "float32"),
    "lookup, rank 3": (
        lambda: op.lookup_accumulate(tensor("c", 2, 5, 3, dtype="uint8"), T, S, S), (2, 5, 6), "float32",
    ),
    "lookup, conv": (lambda: op.lookup_accumulate(CODES4, T, S, axis=1), (2, 6, 4, 4), "float32"),
    "lookup, all": (
        lambda: op.lookup_accumulate(
            CODES, T, S, S, tensor("m", 3, dtype="uint8"), tensor("r", 5, 6), activation="relu"
        ),
        (5, 6),
        "float32",
    ),
    "lookup, float table": (lambda: op.lookup_accumulate(CODES, tensor("t", 3, 16, 6), S), (5, 6), "float32"),
    "dense": (lambda: op.dense(X, P, T, S), (5, 6), "float32"),
    "dense, rank 3": (lambda: op.dense(tensor("x", 2, 5, 12), P, T, S, S), (2, 5, 6), "float32"),
    "dense, int8": (lambda: op.dense(X, _search()[0], T, S, S, *_search()[1:], **INT8), (5, 6), "float32"),
    "conv2d": (lambda: op.conv2d(IMAGE, P9, T, S, **K3, pads=(1, 1, 1, 1)), (2, 6, 8, 8), "float32"),
    "conv2d, stride": (
        lambda: op.conv2d(IMAGE, P9, T, S, **K3, strides=(2, 3), dilations=(2, 1)), (2, 6, 2, 2), "float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _RIGHT)
def test_result_type(case: str) -> None:
    make, shape, dtype = _RIGHT[case]
    assert _infer(make()) == (shape, dtype)


def _u8(name: str, *shape: int) -> relax.Var:
    return tensor(name, *shape, dtype="uint8")


_WRONG: dict[str, tuple[Callable[[], relax.Expr], str]] = {
    "x int8": (lambda: op.encode(tensor("x", 5, 12, dtype="int8"), P), "lut.encode: x must be float32, got int8"),
    "no rows": (lambda: op.dense(tensor("x", 0, 12), P, T, S), r"lut.dense: x must not be empty, got shape \[0, 12\]"),
    "batch 0": (
        lambda: op.conv2d(tensor("x", 0, 3, 8, 8), P9, T, S, **K3),
        r"lut.conv2d: x must not be empty, got shape \[0, 3, 8, 8\]",
    ),
    "x scalar": (lambda: op.encode(tensor("x"), P), "x must have at least one axis"),
    "too few codebooks": (
        lambda: op.encode(tensor("x", 5, 13), P),
        r"3 codebooks of subvector_len 4 do not cover a row of 13 elements \(needs 4\)",
    ),
    "too many codebooks": (lambda: op.dense(tensor("x", 5, 8), P, T, S), r"row of 8 elements \(needs 2\)"),
    "conv codebooks": (lambda: op.conv2d(IMAGE, P, T, S, **K3), r"row of 27 elements \(needs 7\)"),
    "centroids rank": (lambda: op.encode(X, tensor("p", 16, 4)), r"centroids must be \[C, K, V\], got shape \[16, 4\]"),
    "257 centroids": (lambda: op.encode(X, tensor("p", 3, 257, 4)), "num_centroids must be in 1..256, got 257"),
    "no centroids": (lambda: op.encode(X, tensor("p", 3, 0, 4)), "num_centroids must be in 1..256, got 0"),
    "empty subvectors": (lambda: op.encode(X, tensor("p", 3, 16, 0)), "subvector_len"),
    "float centroids with int8": (
        lambda: op.encode(X, *_search(centroids="float32"), **INT8), "centroids must be int8, got float32",
    ),
    "int8 centroids with float": (lambda: op.encode(X, _search()[0]), "centroids must be float32, got int8"),
    "no inv_scale": (lambda: op.encode(X, _search()[0], **INT8), "inv_scale is needed with int8"),
    "no score_bias": (lambda: op.encode(X, *_search()[:2], **INT8), "score_bias is needed with int8"),
    "inv_scale with float": (
        lambda: op.encode(X, P, tensor("i", 3)), "inv_scale must be absent with float32 encode",
    ),
    "inv_scale shape": (
        lambda: op.encode(X, *_search(inv=(4,)), **INT8), r"inv_scale must have shape \[3\], got \[4\]",
    ),
    "score_bias shape": (
        lambda: op.encode(X, *_search(bias=(3, 15)), **INT8), r"score_bias must have shape \[3, 16\], got \[3, 15\]",
    ),
    "score_bias dtype": (
        lambda: op.encode(X, *_search()[:2], tensor("b", 3, 16), **INT8), "score_bias must be int32, got float32",
    ),
    "encoder": (lambda: op.encode(X, P, encoder="magic"), r"encoder must be one of .*got 'magic'"),
    "encode_dtype": (lambda: op.encode(X, P, encode_dtype="int4"), r"encode_dtype must be one of .*got 'int4'"),
    "conv rank": (lambda: op.conv2d(X, P, T, S, **K3), r"x must be \[B, C, H, W\], got shape \[5, 12\]"),
    "kernel too large": (
        lambda: op.conv2d(tensor("x", 2, 3, 2, 8), P9, T, S, **K3), r"kernel \(3, 3\).*larger than the padded input",
    ),
    "stride 0": (lambda: op.conv2d(IMAGE, P9, T, S, **K3, strides=(0, 1)), "strides.* must be positive"),
    "negative pads": (lambda: op.conv2d(IMAGE, P9, T, S, **K3, pads=(0, -1, 0, 0)), "pads must not be negative"),
    "kernel of one number": (lambda: op.conv2d(IMAGE, P9, T, S, kernel_shape=(3,)), "kernel_shape"),
    "two pads": (lambda: op.conv2d(IMAGE, P9, T, S, **K3, pads=(1, 1)), "pads"),
    "one stride": (lambda: op.conv2d(IMAGE, P9, T, S, **K3, strides=(1,)), "strides"),
    "layout": (lambda: op.encode(X, P, layout="sse9"), "no ISA named 'sse9'"),
    "codes dtype": (
        lambda: op.lookup_accumulate(tensor("c", 5, 3), T, S),
        "lut.lookup_accumulate: codes must be uint8, got float32",
    ),
    "table rank": (lambda: op.lookup_accumulate(CODES, tensor("t", 3, 16), S), r"table must be \[C, K, M\]"),
    "table codebooks": (lambda: op.lookup_accumulate(_u8("c", 5, 4), T, S), "table has 3 codebooks, codes have 4"),
    "table outputs": (
        lambda: op.lookup_accumulate(CODES, T, tensor("s", 7)), "table has 6 output columns, table_scale has 7",
    ),
    "table dtype": (
        lambda: op.lookup_accumulate(CODES, _u8("t", 3, 16, 6), S), "table must be int8 or float32, got uint8",
    ),
    "table_scale rank": (
        lambda: op.lookup_accumulate(CODES, T, tensor("s", 1, 6)), r"table_scale must be \[M\], got shape \[1, 6\]",
    ),
    "table_scale dtype": (
        lambda: op.lookup_accumulate(CODES, T, tensor("s", 6, dtype="float16")), "table_scale must be float32",
    ),
    "bias shape": (lambda: op.lookup_accumulate(CODES, T, S, tensor("b", 5)), r"bias must have shape \[6\], got \[5\]"),
    "mult shape": (
        lambda: op.lookup_accumulate(CODES, T, S, None, _u8("m", 6)), r"mult must have shape \[3\], got \[6\]",
    ),
    "mult dtype": (
        lambda: op.lookup_accumulate(CODES, T, S, None, tensor("m", 3, dtype="int8")), "mult must be uint8, got int8",
    ),
    "residual shape": (
        lambda: op.lookup_accumulate(CODES, T, S, residual=tensor("r", 1, 6)), r"residual must have shape \[5, 6\]",
    ),
    "axis": (lambda: op.lookup_accumulate(CODES, T, S, axis=0), "axis must be -1 or 1, got 0"),
    "axis 1 of a matrix": (
        lambda: op.lookup_accumulate(CODES, T, S, axis=1), "codes with axis 1 must have 3 or 4 axes",
    ),
    "activation": (lambda: op.lookup_accumulate(CODES, T, S, activation="gelu"), "activation must be one of"),
    "centroids and table disagree on K": (
        lambda: op.dense(X, P, tensor("t", 3, 15, 6, dtype="int8"), S), "(?i)table.*15|15.*centroids",
    ),
    "symbolic rows": (
        lambda: op.dense(relax.Var("x", relax.TensorType((tvm.tirx.Var("n", "int64"), 12), "float32")), P, T, S),
        "x must have a static shape",
    ),
    "unknown shape": (
        lambda: op.dense(relax.Var("x", relax.TensorType(dtype="float32", ndim=2)), P, T, S),
        "x must be a tensor of known shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _WRONG)
def test_wrong_arguments_are_refused(case: str) -> None:
    make, message = _WRONG[case]
    with pytest.raises(ValueError, match=message):
        _infer(make())


_LAYERS = [
    Layer("dense", (2, 5, 10), 6, codes=True, affine=True),
    Layer("float", (5, 10), 6, search="f32", table="float32", mult=True),
    Layer("scored", (5, 10), 6, search="f32", scored=True),
    Layer("conv", (2, 3, 7, 8), 6, length=9, kernel=(3, 3), pads=(1, 0, 2, 1), strides=(2, 1), search="s8", codes=True),
    Layer("k40", (2, 2, 7, 8), 5, length=5, kernel=(3, 3), dilations=(2, 1), centroids=40, codes=True),
    Layer("padding", (1, 3, 5, 4), 2, length=18, kernel=(3, 3), pads=(1, 1, 1, 1), table="identity", codes=True),
    Layer("padding_f32", (1, 3, 5, 4), 5, length=6, kernel=(3, 3), pads=(1, 1, 1, 1), table="identity", search="f32"),
]


def _decomposed() -> tvm.IRModule:
    return DecomposeLUT()(module_of(_LAYERS))


@pytest.mark.parametrize("make", [lambda: module_of(_LAYERS), _decomposed], ids=["layers", "decomposed"])
def test_text_round_trip(make: Callable[[], tvm.IRModule]) -> None:
    mod = make()
    text = mod.script(show_meta=True)
    assert "R.lut.encode(" in text
    assert ("R.lut.dense(" in text and "R.lut.conv2d(" in text) or "R.lut.lookup_accumulate(" in text
    tvm.ir.assert_structural_equal(tvm.script.from_source(text), mod)


@pytest.mark.parametrize("make", [lambda: module_of(_LAYERS), _decomposed], ids=["layers", "decomposed"])
def test_json_round_trip(make: Callable[[], tvm.IRModule]) -> None:
    mod = make()
    tvm.ir.assert_structural_equal(tvm.ir.load_json(tvm.ir.save_json(mod)), mod)


@pytest.mark.parametrize("name", OPS)
def test_registration(name: str) -> None:
    registered = tvm.ir.Op.get(f"relax.lut.{name}")
    assert registered.get_attr("FPurity")
    assert registered.get_attr("FInferType") is not None and registered.get_attr("FLegalize") is not None
    assert len(registered.arguments) == registered.num_inputs


def test_plain_legalization_is_the_meaning() -> None:
    """LegalizeOps alone, with TVM's own lowering and no schedule of ours, computes what the oracle says."""
    target = TARGETS["generic"]
    values = execute(relax.transform.LegalizeOps()(module_of(_LAYERS)), inputs_of(_LAYERS), target)
    codes = [layer for layer in _LAYERS if layer.codes]
    for layer, got in zip(_LAYERS, values, strict=False):
        check(layer, got)
    for layer, got in zip(codes, values[len(_LAYERS) :], strict=True):
        check_codes(layer, got)


def test_rowwise_layout_and_epilogue_are_the_meaning() -> None:
    layer = _LAYERS[0]
    x, residual = layer.inputs(), layer.residual_value()
    constants = {k: relax.const(v) for k, v in layer.constants().items()}
    xv, rv = tensor("x", *layer.x), tensor("r", *residual.shape)

    def emit(bb: relax.BlockBuilder) -> relax.Expr:
        codes = bb.emit(layer.encode(xv))
        table = [constants[k] for k in ("table", "table_scale", "bias")]
        return op.lookup_accumulate(codes, *table, residual=rv, activation="relu")

    (got,) = execute(module([xv, rv], emit), [x, residual], TARGETS["generic"])
    np.testing.assert_allclose(got, np.maximum(layer.reference()[0] + residual, 0), rtol=2e-6, atol=2e-5)
