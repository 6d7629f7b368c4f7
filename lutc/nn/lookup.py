"""Training forward of a layer: reads the table at hard codes, with the gradient of the soft ones.

Nothing is kept for the backward but the input, and a free table's codes as bytes: attention is computed again, piece by
piece, which costs a matrix product more and saves the memory of all [positions, C, K] arrays.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lutc.nn import kernels
from lutc.nn.columns import Columns, Workspace
from lutc.nn.search import Search


def soft_lookup(
    x: Tensor,
    table: Tensor,
    values: Tensor,
    scale: Tensor | None,
    columns: Columns,
    search: Search,
    exact: bool = False,
) -> Tensor:
    """Training forward without bias.

    The value is that of the compiled layer: `values` [C, K, M] read at the codes, summed, times `scale` [M]. The
    gradient is that of attention @ table, with the float table [C, K, M]; see the attention of the search. With `exact`
    the table's own gradient is that of the reading at the codes.
    """
    return _SoftLookup.apply(x, table, values, scale, columns, search, exact, *search.parameters)


@torch.no_grad()
def hard_lookup(
    x: Tensor, values: Tensor, scale: Tensor | None, columns: Columns, search: Search, keep: list[Tensor] | None = None
) -> Tensor:
    """Sum over codebooks of `values` [C, K, M] at the codes of x, times `scale` [M]; `keep` gets each piece's codes."""
    num_codebooks, num_centroids, outputs = values.shape
    flat = values.reshape(-1, outputs)
    y = x.new_empty(columns.output_size(x, outputs))
    first = torch.arange(0, num_codebooks * num_centroids, num_centroids, device=x.device)[:, None]
    work = Workspace()
    for piece in columns.pieces(x, num_centroids):
        codes = search.codes(x[piece], columns, work)
        if keep is not None:
            keep.append(codes.to(torch.uint8))
        if scale is not None and codes.dtype == torch.int32:  # of the kernels; any order of sums of integers is exact
            kernels.read(codes, values, scale, y[piece], by_position=columns.rows_first)
            continue
        codes = codes.long() + first
        rows = F.embedding_bag(codes.transpose(1, 2).reshape(-1, num_codebooks), flat, mode="sum")
        rows = rows if scale is None else rows * scale
        y[piece] = columns.to_output(rows.reshape(codes.shape[0], -1, outputs), x[piece])
    return y


@torch.no_grad()
def codes_of(x: Tensor, columns: Columns, search: Search) -> Tensor:
    """The codes of a whole batch, int64 [C, N]: N runs over images, then positions."""
    work = Workspace()
    pieces = columns.pieces(x, search.num_centroids)
    return torch.cat([search.codes(x[piece], columns, work).long().transpose(0, 1).flatten(1) for piece in pieces], 1)


class _SoftLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, values, scale, columns, search, exact, *parameters):  # type: ignore[override]
        ctx.save_for_backward(x, table)
        ctx.columns, ctx.search = columns, search
        ctx.codes = [] if exact else None
        return hard_lookup(x, values, scale, columns, search, ctx.codes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, table = ctx.saved_tensors
        columns, search, work = ctx.columns, ctx.search, Workspace()
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        flat = table.reshape(-1, table.shape[2])
        to_table = torch.zeros_like(flat)
        to_parameters = [torch.zeros_like(parameter) for parameter in search.parameters]
        for index, piece in enumerate(columns.pieces(x, table.shape[1])):
            upstream = columns.from_output(grad[piece])
            codes = None if ctx.codes is None else ctx.codes[index].long()
            done = search.backward(x[piece], upstream, table, codes, to_table.view(table.shape), columns, work)
            if done is None:
                attention, saved = search.attention(x[piece], columns, work)
                read = attention if codes is None else torch.zeros_like(attention).scatter_(2, codes[:, :, None], 1)
                to_table.addbmm_(read.flatten(1, 2), upstream.mT)
                to_attention = work.get("to_attention", attention.shape, attention)
                torch.bmm(flat.expand(len(upstream), *flat.shape), upstream, out=to_attention.flatten(1, 2))
                done = search.gradients(x[piece], saved, attention, to_attention, columns, work)
            to_piece, found = done
            for total, part in zip(to_parameters, found, strict=True):
                total += part
            if to_x is not None:
                to_x[piece] = to_piece
        return to_x, to_table.reshape(table.shape), None, None, None, None, None, *to_parameters
