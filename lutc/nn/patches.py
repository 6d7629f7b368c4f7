"""Inputs as rows, and rows as subvectors: the layout every codebook is defined on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def conv_output_size(
    size: Sequence[int],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, int]:
    """(H, W) -> (OH, OW) of a convolution; pads are top, left, bottom, right."""
    height = (size[0] + pads[0] + pads[2] - dilations[0] * (kernel_shape[0] - 1) - 1) // strides[0] + 1
    width = (size[1] + pads[1] + pads[3] - dilations[1] * (kernel_shape[1] - 1) - 1) // strides[1] + 1
    return height, width


def extract_patches(
    x: Tensor,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[Tensor, tuple[int, int]]:
    """x [B, Cin, H, W] -> (rows [B*OH*OW, Cin*kh*kw], (OH, OW)).

    A row is flattened channel first, then kernel row, then kernel column, so V = kh*kw gives one codebook per channel.
    """
    size = conv_output_size(x.shape[2:], kernel_shape, strides, pads, dilations)
    top, left, bottom, right = pads
    padded = F.pad(x, (left, right, top, bottom)) if any(pads) else x
    columns = F.unfold(padded, list(kernel_shape), list(dilations), 0, list(strides))
    return columns.transpose(1, 2).reshape(x.shape[0] * size[0] * size[1], -1), size


def split_subvectors(rows: Tensor, num_codebooks: int, subvector_len: int) -> Tensor:
    """rows [N, D] -> subvectors [C, N, V]; the last subvector is zero-padded."""
    missing = num_codebooks * subvector_len - rows.shape[1]
    padded = F.pad(rows, (0, missing)) if missing else rows
    return padded.reshape(rows.shape[0], num_codebooks, subvector_len).transpose(0, 1)
