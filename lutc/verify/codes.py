"""The codes of one layer: compiled kernel against the definition, on inputs of the reference model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lutc import reference
from lutc.importers.lut_layer import LUTLayer
from lutc.verify.report import VerifyRow

NEAR_TIE = 1e-5
Encode = Callable[[np.ndarray], np.ndarray]
MakeEncode = Callable[[LUTLayer, tuple[int, ...]], Encode]


def compiled_encode(target: Mapping[str, Any]) -> MakeEncode:
    """(layer, input shape) -> the encode kernel that the compiler makes for a TVM target of this host."""

    def make(layer: LUTLayer, shape: tuple[int, ...]) -> Encode:
        from tvm_ext.encoder import compile_encode

        table = layer.constants["table"]
        assert table is not None
        return compile_encode(
            shape,
            *(layer.constants[name] for name in ("centroids", "inv_scale", "score_bias")),
            target=target,
            geometry=layer.geometry or None,
            table_dtype=table.dtype.name,
            encoder=layer.encoder,
            encode_dtype=layer.encode_dtype,
            input_signed=layer.input_signed,
        )

    return make


def compare_codes(layer: LUTLayer, inputs: Sequence[np.ndarray], make: MakeEncode) -> VerifyRow:
    """Every code of every input; a float search may differ where two centroids are equally near up to rounding."""
    encode = make(layer, inputs[0].shape)
    compared = flips = near_ties = 0
    for x in inputs:
        got = encode(x)
        if layer.geometry:
            got = got.transpose(0, 2, 3, 1)
        expected = reference.codes(layer, x)
        different = got != expected
        near = int(_near_ties(layer, x, got, expected, different).sum()) if different.any() else 0
        compared, near_ties = compared + expected.size, near_ties + near
        flips += int(different.sum()) - near
    return VerifyRow(layer.name, "codes", compared, flips == 0, flips=flips, near_ties=near_ties)


def _near_ties(
    layer: LUTLayer, x: np.ndarray, got: np.ndarray, expected: np.ndarray, different: np.ndarray
) -> np.ndarray:
    """Of the codes that differ, which ones are as near as the expected ones, to one part in 10^5 of the terms."""
    if layer.encode_dtype != "float32":
        return np.zeros(int(different.sum()), bool)  # integers have no rounding
    rows, _ = reference.layer_rows(layer, x)
    count = rows.shape[1]
    at, codebook = np.nonzero(different.reshape(-1, count))
    sub = rows[at, codebook]
    codes = (array.reshape(-1, count)[at, codebook] for array in (got, expected))
    far, near = (reference.distances(layer, sub, codebook, code) for code in codes)
    # a kernel computes |x - P|^2 from terms as large as |x|^2, and those are what it rounds
    terms = np.maximum((sub.astype(np.float64) ** 2).sum(-1), near)
    return np.abs(far - near) <= NEAR_TIE * terms
