"""Float matmuls for register tiles: what they mean, as TE, and how constant weights are laid out."""

from __future__ import annotations

import numpy as np
from tvm import te, tirx

from tvm_ext.compute.float_conv2d import ACC, OUT, pad_outputs
from tvm_ext.compute.register_tile import RegisterTile

PACK = "float_pack"
"""Name of the block that fills up weights which are no constants."""


def pack(weight: np.ndarray, tile: RegisterTile) -> np.ndarray:
    """weight [depth, outputs] -> [blocks, depth, tile.outputs], the last block filled up with zeros."""
    return np.ascontiguousarray(pad_outputs(weight.T, tile.outputs).transpose(0, 2, 1))


def matmul(x: te.Tensor, weight: te.Tensor, outputs: int, tile: RegisterTile) -> te.Tensor:
    """y float32 [..., rows, outputs] of x [..., rows, depth] and `pack`ed weights."""
    *batch, rows, depth = (int(d) for d in x.shape)
    block = tile.outputs
    k = te.reduce_axis((0, depth), "k")
    acc = te.compute(
        (*batch, 1, _tiled(rows, tile), weight.shape[0], block),
        lambda *at: te.sum(x(*at[:-4], _clamped(at[-3], rows, tile), k) * weight[at[-2], k, at[-1]], k),
        name=ACC,
        attrs={"lut.tile": [tile.height, tile.width, tile.vectors, tile.lanes]},
    )
    return _result(acc, (*batch, rows, outputs), block)


def batched_matmul(x: te.Tensor, y: te.Tensor, shape: list[int], tile: RegisterTile) -> te.Tensor:
    """z float32 [*shape] of x [..., rows, depth] and y [..., depth, outputs], whose leading axes are broadcast."""
    *batch, rows, outputs = shape
    k, block = te.reduce_axis((0, int(x.shape[-1])), "k"), tile.outputs
    blocks = -(-outputs // block)
    if outputs % block:  # sums of whole blocks need whole blocks of y
        y = te.compute(
            (*y.shape[:-1], blocks * block),
            lambda *at: tirx.if_then_else(at[-1] < outputs, y(*at), tirx.const(0, "float32")),
            name=PACK,
        )

    def item(tensor: te.Tensor, at, *last):
        sizes = [int(d) for d in tensor.shape[:-2]]
        lead = at[len(at) - len(sizes) :]
        return tensor(*(0 if size == 1 else i for size, i in zip(sizes, lead, strict=True)), *last)

    acc = te.compute(
        (*batch, 1, _tiled(rows, tile), blocks, block),
        lambda *at: te.sum(
            item(x, at[:-4], _clamped(at[-3], rows, tile), k) * item(y, at[:-4], k, at[-2] * block + at[-1]), k
        ),
        name=ACC,
        attrs={"lut.tile": [tile.height, tile.width, tile.vectors, tile.lanes]},
    )
    return _result(acc, tuple(shape), block)


def _tiled(rows: int, tile: RegisterTile) -> int:
    return -(-rows // tile.width) * tile.width


def _clamped(row, rows: int, tile: RegisterTile):
    """Rows that only fill up a tile repeat the last one."""
    return tirx.min(row, rows - 1) if rows % tile.width else row


def _result(acc: te.Tensor, shape: tuple[int, ...], block: int) -> te.Tensor:
    return te.compute(shape, lambda *at: acc(*at[:-2], 0, at[-2], at[-1] // block, at[-1] % block), name=OUT)
