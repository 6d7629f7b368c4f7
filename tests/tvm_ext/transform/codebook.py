"""Codebooks and named float layers for the tests of the rewrite passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax


@dataclass
class Codebook:
    """What the passes read of a codebook; the integer form is fixed random numbers."""

    centroids: np.ndarray
    encode_dtype: str = "float32"
    table_dtype: str = "int8"
    input_signed: bool = True
    encoder: str = "l2"

    def integer_form(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(9)
        c, k, v = self.centroids.shape
        return (
            rng.integers(-127, 128, (c, k, v)).astype("int8"),
            rng.uniform(1, 2, c).astype("float32"),
            rng.integers(-999, 999, (c, k)).astype("int32"),
        )

    def float_form(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.centroids, None


def random_codebook(c: int, k: int, v: int, **options) -> Codebook:
    return Codebook(np.random.default_rng(c * k * v).standard_normal((c, k, v)).astype("float32"), **options)


def table_of(book: Codebook, weight: np.ndarray) -> tuple[relax.Expr, relax.Expr]:
    """(table, table_scale) of weight [M, D], term by term from their definition."""
    c, k, v = book.centroids.shape
    padded = np.zeros((len(weight), c * v))
    padded[:, : weight.shape[1]] = weight
    table = np.zeros((c, k, len(weight)))
    for i in range(c):
        table[i] = book.centroids[i].astype("float64") @ padded[:, i * v : (i + 1) * v].T
    if book.table_dtype == "float32":
        return relax.const(table.astype("float32")), relax.const(np.ones(len(weight), "float32"))
    scale = (np.abs(table).max((0, 1)) / 127).astype("float32")
    scale[scale == 0] = 1
    return relax.const(np.clip(np.rint(table / scale), -127, 127).astype("int8")), relax.const(scale)


def named(call: relax.Call, name: str) -> relax.Call:
    """`call` with the layer's name as its span, as the importers write it."""
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, tvm.ir.Span(tvm.ir.SourceName(name), 0, 0, 0, 0))


def module(params: list[relax.Var], emit) -> tvm.IRModule:
    """main(params) -> emit(block builder), in one dataflow block."""
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        with bb.dataflow():
            result = bb.emit_output(emit(bb))
        bb.emit_func_output(result)
    return bb.get()


def tensor(name: str, *shape: int, dtype: str = "float32") -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, dtype))
