"""The exact meaning of the lookup-table layers in numpy, written from docs/ops alone."""

from __future__ import annotations

import numpy as np


def dense(
    x: np.ndarray,
    centroids: np.ndarray | None,
    table: np.ndarray,
    table_scale: np.ndarray,
    bias: np.ndarray | None = None,
    inv_scale: np.ndarray | None = None,
    score_bias: np.ndarray | None = None,
    mult: np.ndarray | None = None,
    split_dims: np.ndarray | None = None,
    split_thresholds: np.ndarray | None = None,
    *,
    subvector_len: int = 0,
    encode_dtype: str = "float32",
    encoder: str = "l2",
    input_signed: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """x [..., D] -> (y float32 [..., M], codes uint8 [..., C])."""
    lead = x.shape[:-1]
    rows = np.asarray(x, np.float32).reshape(int(np.prod(lead)), x.shape[-1])
    if encoder == "tree":
        assert centroids is None and score_bias is None and split_dims is not None and split_thresholds is not None
        codes = _descend(rows, split_dims, split_thresholds, subvector_len, inv_scale, encode_dtype, input_signed)
    else:
        assert encoder == "l2" and centroids is not None and split_dims is None and split_thresholds is None
        codes = _encode(rows, centroids, inv_scale, score_bias, encode_dtype, input_signed)
    total = np.zeros((rows.shape[0], table.shape[2]), np.int64 if table.dtype == np.int8 else np.float64)
    for c in range(table.shape[0]):
        factor = 1 if mult is None else int(mult[c])
        total += factor * table[c][codes[:, c]].astype(total.dtype)
    y = total.astype(np.float32) * np.asarray(table_scale, np.float32)
    if bias is not None:
        y = y + np.asarray(bias, np.float32)
    return y.reshape(*lead, -1), codes.reshape(*lead, -1)


def conv2d(
    x: np.ndarray,
    centroids: np.ndarray | None,
    table: np.ndarray,
    table_scale: np.ndarray,
    bias: np.ndarray | None = None,
    inv_scale: np.ndarray | None = None,
    score_bias: np.ndarray | None = None,
    mult: np.ndarray | None = None,
    split_dims: np.ndarray | None = None,
    split_thresholds: np.ndarray | None = None,
    *,
    subvector_len: int = 0,
    kernel_shape: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    encode_dtype: str = "float32",
    encoder: str = "l2",
    input_signed: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """x [B, Cin, H, W] -> (y float32 [B, M, OH, OW], codes uint8 [B, OH, OW, C]); pads are top, left, bottom, right."""
    assert group == 1
    patches = im2col(x, kernel_shape, strides, pads, dilations)
    y, codes = dense(
        patches, centroids, table, table_scale, bias, inv_scale, score_bias, mult, split_dims, split_thresholds,
        subvector_len=subvector_len, encode_dtype=encode_dtype, encoder=encoder, input_signed=input_signed,
    )  # fmt: skip
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2)), codes


def im2col(
    x: np.ndarray,
    kernel_shape: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """x [B, Cin, H, W] -> patches [B, OH, OW, Cin*kh*kw]: channel first, then kernel row, then kernel column."""
    (kh, kw), (sh, sw), (dh, dw) = kernel_shape, strides, dilations
    top, left, bottom, right = pads
    padded = np.pad(np.asarray(x, np.float32), ((0, 0), (0, 0), (top, bottom), (left, right)))
    batch, channels, height, width = padded.shape
    out_h = (height - dh * (kh - 1) - 1) // sh + 1
    out_w = (width - dw * (kw - 1) - 1) // sw + 1
    patches = np.empty((batch, out_h, out_w, channels * kh * kw), np.float32)
    for oy in range(out_h):
        for ox in range(out_w):
            ys, xs = oy * sh + dh * np.arange(kh), ox * sw + dw * np.arange(kw)
            patches[:, oy, ox] = padded[:, :, ys[:, None], xs].reshape(batch, -1)
    return patches


def _encode(
    rows: np.ndarray,
    centroids: np.ndarray,
    inv_scale: np.ndarray | None,
    score_bias: np.ndarray | None,
    encode_dtype: str,
    input_signed: bool,
) -> np.ndarray:
    num_codebooks, _, length = centroids.shape
    padded = np.zeros((rows.shape[0], num_codebooks * length), np.float32)
    padded[:, : rows.shape[1]] = rows
    codes = np.empty((rows.shape[0], num_codebooks), np.uint8)
    for c in range(num_codebooks):
        sub = padded[:, c * length : (c + 1) * length]
        if encode_dtype == "float32":
            exact, centers = sub.astype(np.float64), centroids[c].astype(np.float64)
            if score_bias is not None:
                codes[:, c] = (exact @ centers.T + score_bias[c].astype(np.float64)).argmax(1)
            else:
                codes[:, c] = ((exact[:, None, :] - centers) ** 2).sum(-1).argmin(1)
        else:
            assert inv_scale is not None and score_bias is not None and centroids.dtype == np.int8
            low, high = (-128, 127) if input_signed else (0, 255)
            xq = np.clip(np.rint(sub * np.float32(inv_scale[c])), low, high).astype(np.int64)
            if encode_dtype == "int6":
                xq = np.minimum(xq + 2, high) // 4 * 4
            score = xq @ centroids[c].astype(np.int64).T + score_bias[c].astype(np.int64)
            codes[:, c] = (score >> 4).argmax(1)
    return codes


def _descend(
    rows: np.ndarray,
    split_dims: np.ndarray,
    split_thresholds: np.ndarray,
    length: int,
    inv_scale: np.ndarray | None,
    encode_dtype: str,
    input_signed: bool,
) -> np.ndarray:
    num_codebooks, levels = split_dims.shape
    assert split_dims.dtype == np.int32 and split_thresholds.dtype == np.float32
    assert split_thresholds.shape == (num_codebooks, 2**levels - 1)
    padded = np.zeros((rows.shape[0], num_codebooks * length), np.float32)
    padded[:, : rows.shape[1]] = rows
    codes = np.empty((rows.shape[0], num_codebooks), np.uint8)
    for n in range(rows.shape[0]):
        for c in range(num_codebooks):
            node = 0
            for level in range(levels):
                value = padded[n, c * length + split_dims[c, level]]
                if encode_dtype == "int8":
                    assert inv_scale is not None
                    low, high = (-128, 127) if input_signed else (0, 255)
                    value = np.clip(np.rint(value * np.float32(inv_scale[c])), low, high)
                node = 2 * node + (2 if value >= split_thresholds[c, node] else 1)
            codes[n, c] = node - (2**levels - 1)
    return codes
