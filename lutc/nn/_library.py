"""torch.ops.lutc: the inference meaning of the two lookup-table layers, in exact arithmetic, for torch.export."""

from __future__ import annotations

from typing import List, Optional  # noqa: UP035  (torch.library reads these annotations)

import torch
from torch import Tensor

from lutc.config import INTEGER_GRIDS
from lutc.nn.input_grid import round_to_grid_
from lutc.nn.patches import conv_output_size, extract_patches, split_subvectors

_EXACT_IN_FLOAT32 = 2**24


def encode(
    subvectors: Tensor,
    centroids: Tensor,
    inv_scale: Optional[Tensor],  # noqa: UP045
    score_bias: Optional[Tensor],  # noqa: UP045
    input_signed: bool,
    grid: int = 1,
) -> Tensor:
    """Closest centroids: subvectors [C, N, V], centroids [C, K, V] -> codes int64 [C, N], lowest index on ties."""
    if inv_scale is None or score_bias is None:
        exact = centroids.double()
        # x.P - |P|^2/2 orders the centroids as -|x-P|^2 does; float64 keeps the cancellation below float32 resolution
        offset = -0.5 * (exact**2).sum(-1) if score_bias is None else score_bias.double()
        return torch.baddbmm(offset[:, None, :], subvectors.double(), exact.mT).argmax(-1)
    return closest(quantize_input(subvectors, inv_scale, input_signed, grid), centroids, score_bias)


def closest(grid: Tensor, centroids: Tensor, score_bias: Tensor) -> Tensor:
    """The integer search: 8-bit inputs held in float32 [C, N, V], centroids int8 [C, K, V] -> codes int64 [C, N]."""
    exact_dtype = torch.float32 if 255 * 127 * centroids.shape[2] < _EXACT_IN_FLOAT32 else torch.float64
    dot = torch.bmm(grid.to(exact_dtype), centroids.to(exact_dtype).mT)
    return ((dot.to(torch.int32) + score_bias[:, None, :]) >> 4).argmax(-1)


def quantize_input(subvectors: Tensor, inv_scale: Tensor, input_signed: bool, grid: int = 1) -> Tensor:
    """Float subvectors [C, N, V] -> their 8-bit values, multiples of `grid`, still as float32."""
    return round_to_grid_(subvectors * inv_scale[:, None, None], input_signed, grid)


def descend(
    subvectors: Tensor,
    split_dims: Tensor,
    split_thresholds: Tensor,
    inv_scale: Optional[Tensor],  # noqa: UP045
    input_signed: bool,
) -> Tensor:
    """Hash trees: subvectors [C, N, V], split_dims int [C, L], split_thresholds [C, 2^L - 1] -> codes int64 [C, N].

    Node i has the children 2i + 1 (value < threshold, or not a number) and 2i + 2 (value >= threshold).
    """
    values = subvectors.gather(2, split_dims.long()[:, None, :].expand(-1, subvectors.shape[1], -1))
    if inv_scale is not None:
        values = quantize_input(values, inv_scale, input_signed)
    node = torch.zeros_like(values[..., 0], dtype=torch.int64)
    for level in range(split_dims.shape[1]):
        node = 2 * node + 1 + (values[..., level] >= split_thresholds.gather(1, node))
    return node - split_thresholds.shape[1]


def _codes(
    rows: Tensor,
    centroids: Optional[Tensor],  # noqa: UP045
    inv_scale: Optional[Tensor],  # noqa: UP045
    score_bias: Optional[Tensor],  # noqa: UP045
    split_dims: Optional[Tensor],  # noqa: UP045
    split_thresholds: Optional[Tensor],  # noqa: UP045
    subvector_len: int,
    encode_dtype: str,
    input_signed: bool,
) -> Tensor:
    """Rows [N, D] -> codes int64 [C, N] of the encoder whose constants are given."""
    if centroids is not None:
        subvectors = split_subvectors(rows, centroids.shape[0], centroids.shape[2])
        return encode(subvectors, centroids, inv_scale, score_bias, input_signed, INTEGER_GRIDS.get(encode_dtype, 1))
    if split_dims is None or split_thresholds is None or subvector_len < 1:
        raise ValueError("a layer needs centroids, or split_dims, split_thresholds and subvector_len")
    subvectors = split_subvectors(rows, split_dims.shape[0], subvector_len)
    return descend(subvectors, split_dims, split_thresholds, inv_scale, input_signed)


def lookup_accumulate(
    codes: Tensor,
    table: Tensor,
    table_scale: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    mult: Optional[Tensor],  # noqa: UP045
) -> Tensor:
    """Codes int64 [C, N], table [C, K, M] -> y float32 [N, M]; the sum is exact for an int8 table."""
    num_codebooks, num_centroids, outputs = table.shape
    bound = num_codebooks * 127 * (1 if mult is None else 127)
    small = table.dtype == torch.int8 and bound < _EXACT_IN_FLOAT32
    dtype = torch.float32 if small else torch.float64
    values = table.to(dtype) if mult is None else table.to(dtype) * mult.to(dtype)[:, None, None]
    one_hot = torch.nn.functional.one_hot(codes.T, num_centroids).to(dtype)
    total = one_hot.flatten(1) @ values.reshape(-1, outputs)
    y = total.to(torch.float32) * table_scale
    return y if bias is None else y + bias


@torch.library.custom_op("lutc::lut_dense", mutates_args=())
def lut_dense(
    x: Tensor,
    centroids: Optional[Tensor],  # noqa: UP045
    table: Tensor,
    table_scale: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    inv_scale: Optional[Tensor],  # noqa: UP045
    score_bias: Optional[Tensor],  # noqa: UP045
    mult: Optional[Tensor],  # noqa: UP045
    encode_dtype: str,
    encoder: str,
    input_signed: bool,
    layer: str,
    split_dims: Optional[Tensor] = None,  # noqa: UP045
    split_thresholds: Optional[Tensor] = None,  # noqa: UP045
    subvector_len: int = 0,
) -> Tensor:
    """x float32 [..., D] -> float32 [..., M]; see docs/ops/LUTDense_v1.md."""
    rows = x.reshape(-1, x.shape[-1])
    codes = _codes(
        rows, centroids, inv_scale, score_bias, split_dims, split_thresholds, subvector_len, encode_dtype, input_signed
    )
    y = lookup_accumulate(codes, table, table_scale, bias, mult)
    return y.reshape(*x.shape[:-1], table.shape[2])


@lut_dense.register_fake
def _(
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, encode_dtype, encoder, input_signed, layer,
    split_dims=None, split_thresholds=None, subvector_len=0,
):  # fmt: skip
    return x.new_empty((*x.shape[:-1], table.shape[2]))


@torch.library.custom_op("lutc::lut_conv2d", mutates_args=())
def lut_conv2d(
    x: Tensor,
    centroids: Optional[Tensor],  # noqa: UP045
    table: Tensor,
    table_scale: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    inv_scale: Optional[Tensor],  # noqa: UP045
    score_bias: Optional[Tensor],  # noqa: UP045
    mult: Optional[Tensor],  # noqa: UP045
    kernel_shape: List[int],  # noqa: UP006
    strides: List[int],  # noqa: UP006
    pads: List[int],  # noqa: UP006
    dilations: List[int],  # noqa: UP006
    encode_dtype: str,
    encoder: str,
    input_signed: bool,
    layer: str,
    split_dims: Optional[Tensor] = None,  # noqa: UP045
    split_thresholds: Optional[Tensor] = None,  # noqa: UP045
    subvector_len: int = 0,
) -> Tensor:
    """x float32 [B, Cin, H, W] -> float32 [B, M, OH, OW]; see docs/ops/LUTConv2d_v1.md."""
    rows, size = extract_patches(x, kernel_shape, strides, pads, dilations)
    codes = _codes(
        rows, centroids, inv_scale, score_bias, split_dims, split_thresholds, subvector_len, encode_dtype, input_signed
    )
    y = lookup_accumulate(codes, table, table_scale, bias, mult)
    return y.reshape(x.shape[0], *size, table.shape[2]).permute(0, 3, 1, 2).contiguous()


@lut_conv2d.register_fake
def _(
    x, centroids, table, table_scale, bias, inv_scale, score_bias, mult,
    kernel_shape, strides, pads, dilations, encode_dtype, encoder, input_signed, layer,
    split_dims=None, split_thresholds=None, subvector_len=0,
):  # fmt: skip
    size = conv_output_size(x.shape[2:], kernel_shape, strides, pads, dilations)
    return x.new_empty((x.shape[0], table.shape[2], *size))
