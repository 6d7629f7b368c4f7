"""What encode and integer layers mean, in plain numpy: the codes and sums that every compiled kernel must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lutc.config import INTEGER_GRIDS
from lutc.importers.lut_layer import LUTLayer

_BLOCK = 1 << 22  # differences held at a time


def codes(layer: LUTLayer, x: np.ndarray) -> np.ndarray:
    """Codes uint8 of a layer's input: [..., C] of x [..., D], or [B, OH, OW, C] of x [B, Cin, H, W] for a conv.

    With encode_dtype="float32" the closest centroid in float64; else the definition's integers, where
    xq = clip(round_half_even(x * inv_scale)) is float32 arithmetic and "int6" rounds it to multiples of 4. The lowest
    index wins ties. Trees compare with the same x or xq.
    """
    rows, lead = layer_rows(layer, x)
    search = _descend if layer.encoder == "tree" else _search
    found = np.empty(rows.shape[:2], np.uint8)
    for c in range(rows.shape[1]):
        for start in range(0, len(rows), _chunk(layer)):
            part = slice(start, start + _chunk(layer))
            found[part, c] = search(layer, c, rows[part, c])
    return found.reshape(*lead, -1)


def layer_rows(layer: LUTLayer, x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """(subvectors float32 [N, C, V], the last one zero-padded, and the leading shape that N flattens)."""
    count, _, length = layer.shape
    rows = _patches(layer.geometry, x) if layer.geometry else np.asarray(x, np.float32)
    flat = rows.reshape(-1, rows.shape[-1])
    padded = np.zeros((len(flat), count * length), np.float32)
    padded[:, : flat.shape[1]] = flat
    return padded.reshape(-1, count, length), rows.shape[:-1]


def sums(x: np.ndarray, weight: np.ndarray, geometry: Mapping[str, Sequence[int]] | None) -> np.ndarray:
    """int64 sums of products of integers: [B, M, OH, OW] of x [B, Cin, H, W] and weight [M, Cin, kh, kw], or [..., M].

    geometry : kernel_shape, strides, pads, dilations of a conv.
    """
    rows = x if geometry is None else _patches(geometry, x)
    total = rows.astype(np.float64) @ weight.reshape(len(weight), -1).T.astype(np.float64)  # exact below 2^53
    return (total if geometry is None else total.transpose(0, 3, 1, 2)).astype(np.int64)


def distances(
    layer: LUTLayer, subvectors: np.ndarray, codebook: np.ndarray, code: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a float32 search minimises, in float64, for rows of subvectors [n, V], their codebook [n] and a code [n]
    each: |x - P|^2, or -2 (x.P + score_bias); and the size of the terms that a kernel makes it from and rounds."""
    centroids, score_bias = layer.constants["centroids"], layer.constants.get("score_bias")
    assert centroids is not None
    x, center = subvectors.astype(np.float64), centroids[codebook, code].astype(np.float64)
    if score_bias is None:
        found = ((x - center) ** 2).sum(-1)
        return found, np.maximum((x**2).sum(-1), found)
    bias = score_bias[codebook, code].astype(np.float64)
    return -2 * ((x * center).sum(-1) + bias), 2 * (np.abs(x * center).sum(-1) + np.abs(bias))


def _search(layer: LUTLayer, c: int, rows: np.ndarray) -> np.ndarray:
    centroids, inv_scale, score_bias = (layer.constants.get(n) for n in ("centroids", "inv_scale", "score_bias"))
    assert centroids is not None
    if inv_scale is None or score_bias is None:
        exact, centers = rows.astype(np.float64), centroids[c].astype(np.float64)
        if score_bias is not None:
            return (exact @ centers.T + score_bias[c].astype(np.float64)).argmax(-1)
        return ((exact[:, None, :] - centers) ** 2).sum(-1).argmin(-1)
    xq = np.nan_to_num(_quantized(layer, c, rows)).astype(np.int32)
    score = xq @ centroids[c].astype(np.int32).T + score_bias[c]
    return (score >> 4).argmax(-1)


def _descend(layer: LUTLayer, c: int, rows: np.ndarray) -> np.ndarray:
    dims, thresholds = layer.constants.get("split_dims"), layer.constants.get("split_thresholds")
    assert dims is not None and thresholds is not None
    values = rows[:, dims[c]]
    if layer.encode_dtype in INTEGER_GRIDS:
        values = _quantized(layer, c, values)
    node = np.zeros(len(rows), np.int64)
    for level in range(dims.shape[1]):
        node = 2 * node + np.where(values[:, level] >= thresholds[c, node], 2, 1)
    return node - thresholds.shape[1]


def _quantized(layer: LUTLayer, c: int, values: np.ndarray) -> np.ndarray:
    """8-bit values of inputs of codebook c, still float32."""
    inv_scale = layer.constants.get("inv_scale")
    assert inv_scale is not None
    low, high = (-128, 127) if layer.input_signed else (0, 255)
    rounded = np.clip(np.rint(values * inv_scale[c]), low, high)
    grid = INTEGER_GRIDS[layer.encode_dtype]
    return rounded if grid == 1 else np.floor(np.minimum(rounded + grid // 2, high) / grid) * grid


def _chunk(layer: LUTLayer) -> int:
    _, num_centroids, length = layer.shape
    return max(_BLOCK // (num_centroids * length), 1)


def _patches(geometry: Mapping[str, Sequence[int]], x: np.ndarray) -> np.ndarray:
    """[B, OH, OW, Cin*kh*kw], flattened channel first, then kernel row, then kernel column."""
    (kh, kw), (sh, sw) = geometry["kernel_shape"], geometry["strides"]
    (dh, dw), (top, left, bottom, right) = geometry["dilations"], geometry["pads"]
    padded = np.pad(np.asarray(x, np.float32), ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, ::sh, ::sw, ::dh, ::dw].transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(*windows.shape[:3], -1)
