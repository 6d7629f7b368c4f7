"""Soft product quantization: hard codes forward, softmax over distances backward (LUT-NN, MobiCom 2023, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lutc.nn._library import closest, quantize_input
from lutc.nn.codebook import integer_codebook, quantize_table, table_scale

_DISTANCE_FLOOR = 1e-12  # keeps the derivative of the square root finite where an input sits on its centroid


@dataclass
class Search:
    """What the encoder of a layer sees: its scales for int8, nothing for float32."""

    inv_scale: Tensor | None
    input_signed: bool


def soft_lookup(subvectors: Tensor, centroids: Tensor, table: Tensor, temperature: Tensor, search: Search) -> Tensor:
    """Training forward of a layer, without bias.

    subvectors [C, N, V], centroids [C, K, V], float table [C, K, M], temperature [] -> [N, M]. The value is that of the
    compiled layer except for the table's dtype, which the caller decides with `fake_quantized`; the gradient is that
    of softmax(-|x-P| / temperature) times the float table: the distance is not squared, as in the reference.
    """
    if search.inv_scale is None:
        inputs, targets = subvectors, centroids
        distance = _distance(inputs, targets)
        codes = distance.detach().argmin(-1)
    else:
        integers, score_bias, scale = integer_codebook(centroids, search.inv_scale)
        grid = _QuantizeInput.apply(subvectors, search.inv_scale, search.input_signed)
        codes = closest(grid.detach(), integers, score_bias)
        inputs = grid / search.inv_scale[:, None, None]
        targets = _straight_through(centroids, (integers / scale[:, None, None]).to(centroids.dtype))
        distance = _distance(inputs, targets)
    attention = torch.softmax(distance * (-1 / temperature), dim=-1)
    return _HardForwardSoftBackward.apply(attention, table, codes)


def fake_quantized(table: Tensor) -> Tensor:
    """The float table as its int8 form reads it; the gradient passes through."""
    scale = table_scale(table)
    return _straight_through(table, (quantize_table(table, scale) * scale).to(table.dtype))


def _straight_through(value: Tensor, replacement: Tensor) -> Tensor:
    return value + (replacement - value).detach()


def _distance(inputs: Tensor, targets: Tensor) -> Tensor:
    """Euclidean distances [C, N, K] of inputs [C, N, V] to targets [C, K, V]."""
    norms = (inputs**2).sum(-1)[:, :, None] + (targets**2).sum(-1)[:, None, :]
    return torch.baddbmm(norms, inputs, targets.mT, alpha=-2.0).clamp_min(_DISTANCE_FLOOR).sqrt()


class _QuantizeInput(torch.autograd.Function):
    """The 8-bit grid of the inputs forward; gradient as of the scaling alone inside the range, 0 where clipped."""

    @staticmethod
    def forward(ctx, subvectors: Tensor, inv_scale: Tensor, signed: bool) -> Tensor:
        grid = quantize_input(subvectors, inv_scale, signed)
        ctx.save_for_backward((subvectors * inv_scale[:, None, None] - grid).abs() <= 0.5, inv_scale)
        return grid

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        inside, inv_scale = ctx.saved_tensors
        return grad * inside * inv_scale[:, None, None], None, None


class _HardForwardSoftBackward(torch.autograd.Function):
    """Forward reads the table at the codes; backward is that of attention @ table, which is never computed."""

    @staticmethod
    def forward(ctx, attention: Tensor, table: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(attention, table)
        one_hot = torch.nn.functional.one_hot(codes.T, table.shape[1]).to(table.dtype)
        return one_hot.reshape(codes.shape[1], -1) @ table.reshape(-1, table.shape[2])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        attention, table = ctx.saved_tensors
        num_codebooks, rows, num_centroids = attention.shape
        flat_table = table.reshape(-1, table.shape[2])
        to_attention = (grad @ flat_table.T).reshape(rows, num_codebooks, num_centroids).transpose(0, 1)
        to_table = (attention.transpose(0, 1).reshape(rows, -1).T @ grad).reshape(table.shape)
        return to_attention, to_table, None
