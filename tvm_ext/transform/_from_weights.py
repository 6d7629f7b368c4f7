"""Shared by the two rewrite passes: whether a codebook fits a float layer, and the lut op it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from tvm import relax

from tvm_ext.compute.pack import build_table


class CodebookLike(Protocol):
    """What the passes read of a codebook: float32 centroids [C, K, V] and how inputs are searched."""

    centroids: np.ndarray
    inv_scale: np.ndarray | None
    encoder: str
    encode_dtype: str
    table_dtype: str
    input_signed: bool

    def integer_form(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(int8 centroids [C, K, V], inv_scale float32 [C], score_bias int32 [C, K])."""
        ...

    def float_form(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(float32 centroids [C, K, V], score_bias float32 [C, K] or None) of a float32 search."""
        ...

    def tree_form(self) -> tuple[np.ndarray, np.ndarray]:
        """(split_dims int32 [C, L], split_thresholds float32 [C, K - 1]) of a codebook with ``encoder="tree"``."""
        ...


@dataclass
class Decisions:
    """Rows for the layer report, in visiting order; `kind` is "lut", "float" or "error"."""

    op: str
    codebooks: Mapping[str, Any]
    rows: list[dict] = field(default_factory=list)

    def keep_float(self, name: str, reason: str) -> None:
        self.rows.append({"name": name, "op": self.op, "kind": "float", "reason": reason})

    def codebook(self, name: str, depth: int) -> CodebookLike | None:
        """The codebook for layer `name` with rows of `depth` elements, or None after recording why there is none."""
        book = self.codebooks.get(name)
        if book is None:
            self.keep_float(name, "no codebook for this layer")
            return None
        c, _, v = book.centroids.shape
        if c != -(-depth // v):
            reason = (f"centroids {list(book.centroids.shape)} do not fit rows of {depth} elements: "
                      f"subvector_len {v} needs {-(-depth // v)} codebooks, not {c}")  # fmt: skip
            self.rows.append({"name": name, "op": self.op, "kind": "error", "reason": reason})
            return None
        self.rows.append({"name": name, "op": self.op, "kind": "lut", "reason": ""})
        return book


def lut_arguments(book: CodebookLike, weight: np.ndarray) -> tuple[list[relax.Expr | None], dict]:
    """(centroids, table, table_scale, bias, inv_scale, score_bias) and the keyword arguments; weight is [M, D]."""
    table, table_scale = build_table(book.centroids, weight, book.table_dtype)
    inv_scale = score_bias = None
    attrs: dict = {"encoder": book.encoder, "encode_dtype": book.encode_dtype, "input_signed": bool(book.input_signed)}
    if book.encoder == "tree":
        centroids, inv_scale = None, book.inv_scale
        trees = zip(("split_dims", "split_thresholds"), book.tree_form(), strict=True)
        attrs |= {name: relax.const(value) for name, value in trees} | {"subvector_len": book.centroids.shape[2]}
    elif book.encode_dtype != "float32":
        centroids, inv_scale, score_bias = book.integer_form()
    else:
        centroids, score_bias = book.float_form()
    constants = [centroids, table, table_scale, None, inv_scale, score_bias]
    return [None if c is None else relax.const(np.ascontiguousarray(c)) for c in constants], attrs
