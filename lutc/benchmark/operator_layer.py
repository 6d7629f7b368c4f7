"""An operator with numbers in it: input, float weights, codebooks learned from such inputs, and the right answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lutc import reference
from lutc.benchmark.operators import Operator
from lutc.calibrate.kmeans import kmeans
from lutc.calibrate.layers import Geometry
from lutc.calibrate.rows import patch_rows
from lutc.config import INTEGER_GRIDS
from lutc.errors import VerifyError
from lutc.importers.codebook import Codebook, inverse_scale
from lutc.importers.lut_layer import LUTLayer

_SAMPLE, _ITERATIONS = 512, 3
_CHECKED = 16


@dataclass(frozen=True, eq=False)
class OperatorLayer:
    """x float32 of the operator's input shape, weight [M, D], bias [M], and the same layer as tables."""

    operator: Operator
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    lut: LUTLayer

    def check(self, y: np.ndarray, table_bits: int = 8) -> None:
        """Compare some rows of the result y with the definition; raises VerifyError if they differ.

        `table_bits`: of the table that the kernel reads, where the compiler narrowed it for the target. One row in
        eight may differ for a float32 search, where two centroids are equally near up to rounding.
        """
        o = self.operator
        rows = np.random.default_rng(1).choice(o.positions, min(_CHECKED, o.positions), replace=False)
        got = y.reshape(o.outputs, -1).T[rows] if o.is_conv else y[rows]
        expected = self._expected(input_rows(o, self.x, rows), table_bits)
        wrong = int((~np.isclose(got, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))).any(1).sum())
        if wrong > (len(rows) // 8 if (o.encoder, o.encode_dtype) == ("l2", "float32") else 0):
            raise VerifyError(
                f'the kernel of "{o.name}" is wrong', where=f"{wrong} of {len(rows)} rows that were looked at",
                reason="its result differs from the definition, so its time means nothing",
                fix="report this as a bug in lutc, with the target",
            )  # fmt: skip

    def _expected(self, rows: np.ndarray, table_bits: int = 8) -> np.ndarray:
        """y [n, M] of rows [n, D]."""
        from tvm_ext.compute.narrow import narrow_table

        codes = reference.codes(replace(self.lut, geometry={}), rows)
        table, scale = self.lut.constants["table"], self.lut.constants["table_scale"]
        assert table is not None and scale is not None
        if table_bits < 8:
            table, scale = narrow_table(table, scale, 1 << (8 - table_bits))
        total = np.zeros((len(rows), table.shape[2]), np.int64)
        for c in range(len(table)):
            total += table[c][codes[:, c]]
        return np.maximum(total.astype(np.float32) * scale + self.bias, 0)


def make_layer(operator: Operator, seed: int = 0) -> OperatorLayer:
    """Gaussian weights and input (cut off below 0 for a conv, as behind a relu), and codebooks learned from it."""
    from tvm_ext.compute.pack import build_table

    o, rng = operator, np.random.default_rng(seed)
    x = _draw(o, rng, o.input_shape)
    weight = (rng.standard_normal((o.outputs, o.depth)) / np.sqrt(o.depth)).astype(np.float32)
    bias = (0.1 * rng.standard_normal(o.outputs)).astype(np.float32)
    book = _codebook(o, rng, x)
    table, scale = build_table(book.centroids, weight, "int8")
    constants: dict[str, np.ndarray | None] = {
        "centroids": book.centroids, "table": table, "table_scale": scale, "bias": bias,
    }  # fmt: skip
    if o.encoder == "tree":
        constants |= {"centroids": None, "inv_scale": book.inv_scale}
        constants |= dict(zip(("split_dims", "split_thresholds"), book.tree_form(), strict=True))
    elif o.encode_dtype in INTEGER_GRIDS:
        constants |= dict(zip(("centroids", "inv_scale", "score_bias"), book.integer_form(), strict=True))
    length = o.subvector_len if o.encoder == "tree" else 0
    lut = LUTLayer("op", constants, o.encode_dtype, o.encoder, not o.is_conv, _geometry(o), length)
    return OperatorLayer(o, x, weight, bias, lut)


def _draw(o: Operator, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = rng.standard_normal(shape, np.float32)
    return np.maximum(x, 0) if o.is_conv else x


def _codebook(o: Operator, rng: np.random.Generator, x: np.ndarray) -> Codebook:
    if o.is_conv:
        sample = input_rows(o, x, rng.permutation(o.positions)[:_SAMPLE])
    else:
        sample = _draw(o, rng, (_SAMPLE, o.inputs))
    padded = np.zeros((len(sample), o.num_codebooks * o.subvector_len), np.float32)
    padded[:, : o.depth] = sample
    data = np.ascontiguousarray(padded.reshape(len(sample), o.num_codebooks, -1).transpose(1, 0, 2))
    grid = INTEGER_GRIDS.get(o.encode_dtype)
    scale = None if grid is None else inverse_scale(data.min(axis=(1, 2)), data.max(axis=(1, 2)), not o.is_conv, grid)
    options = {
        "encode_dtype": o.encode_dtype, "encoder": o.encoder, "input_signed": not o.is_conv, "inv_scale": scale,
    }  # fmt: skip
    if o.encoder == "tree":
        return Codebook(o.name, **_trees(data, o.num_centroids), **options)
    return Codebook(o.name, kmeans(data, o.num_centroids, iterations=_ITERATIONS).astype(np.float32), **options)


def _trees(data: np.ndarray, leaves: int) -> dict[str, np.ndarray]:
    """Trees of [C, n, V] that halve the rows at every node, along the elements that vary most."""
    count, _, length = data.shape
    levels = leaves.bit_length() - 1
    order = data.var(axis=1).argsort(axis=1)[:, ::-1]
    dims = order[:, np.arange(levels) % length].astype(np.int32)
    thresholds = np.zeros((count, leaves - 1), np.float32)
    centroids = np.zeros((count, leaves, length), np.float32)
    for c in range(count):
        nodes = {0: data[c]}
        for node in range(2 * leaves - 1):
            rows = nodes.pop(node)
            if node >= leaves - 1:
                centroids[c, node - leaves + 1] = rows.mean(axis=0) if len(rows) else 0
                continue
            values = rows[:, dims[c, (node + 1).bit_length() - 1]]
            thresholds[c, node] = np.median(values) if len(rows) else 0
            right = values >= thresholds[c, node]
            nodes |= {2 * node + 1: rows[~right], 2 * node + 2: rows[right]}
    return {"centroids": centroids, "split_dims": dims, "split_thresholds": thresholds}


def input_rows(o: Operator, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows [n, D] at some positions."""
    if not o.is_conv:
        return x[index]
    geometry = Geometry(o.kernel_shape, (o.stride, o.stride), (o.dilation, o.dilation), o.pads)
    return patch_rows(x, geometry)[1](index)


def _geometry(o: Operator) -> dict[str, tuple[int, ...]]:
    if not o.is_conv:
        return {}
    return {
        "kernel_shape": o.kernel_shape, "strides": (o.stride, o.stride), "pads": o.pads,
        "dilations": (o.dilation, o.dilation),
    }  # fmt: skip
