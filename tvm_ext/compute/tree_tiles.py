"""Vectors of codes, one a codebook, brought into the order of the tiles that a table read takes."""

from __future__ import annotations

import numpy as np
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from tvm_ext.compute.tree_walk import keep
from tvm_ext.tensor_intrin import TableRead

_LANE = 16
"""Bytes of a 128-bit lane, within which bytes and words of two vectors are interleaved."""


def store_tiles(found: list[Expr], rows: int, read: TableRead, tiles: int, codes, b: Expr, tile: Expr, group: Expr):
    """Store the codes of a group's codebooks for `rows` rows, from the first of `tile` on; none behind `tiles`.

    codes uint8 [B, tiles, groups, *read.code_shape]; `rows` is one tile, or as many as codebooks lie side by side.
    """
    sets = [range(first, read.group, read.group // read.unit) for first in range(read.group // read.unit)]
    for members in sets:
        vectors = [found[j] for j in members]
        pieces = [_in_order(vectors[0], read)] if len(vectors) == 1 else _interleave(vectors, rows)
        for i, piece in enumerate(pieces):
            row = i * (rows // len(pieces))
            *outer, last = read.code_index(row % read.rows, members[0])
            place = [b, tile + row // read.rows, group, *outer, T.ramp(last, 1, rows)]
            if rows == read.rows or tiles * read.rows % rows == 0:
                T.buffer_store(codes, piece, place)
                continue
            with T.If(tile + row // read.rows < tiles), T.Then():
                T.buffer_store(codes, piece, place)


def _in_order(code: Expr, read: TableRead) -> Expr:
    if read.order != "unpack" or read.lanes == 1:
        return code
    order = [read.code_position(*index)[0] for index in np.ndindex(*read.code_shape) if index[0] == 0]
    return T.Shuffle([code], order)


def _interleave(vectors: list[Expr], rows: int) -> list[Expr]:
    """Two or four vectors of `rows` codes -> as many, in which the codes of a row lie side by side."""
    count, lanes = len(vectors), rows // _LANE
    if lanes > 1:
        # what interleaving brings together must be in one lane first
        run = _LANE // count
        place = [
            run * lanes * part + run * lane + i for lane in range(lanes) for part in range(count) for i in range(run)
        ]
        vectors = [keep(T.Shuffle([code], place), f"uint8x{rows}") for code in vectors]
    pairs = [(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    halves = [[_unpack(a, b, rows, 1, high) for high in (0, 1)] for a, b in pairs]
    if count == 2:
        return halves[0]
    return [_unpack(halves[0][part], halves[1][part], rows, 2, high) for part in (0, 1) for high in (0, 1)]


def _unpack(left: Expr, right: Expr, rows: int, size: int, high: int) -> Expr:
    """The low or high halves of every lane, units of `size` bytes of one between those of the other."""
    starts = [lane + _LANE // 2 * high for lane in range(0, rows, _LANE)]
    units = [start + unit for start in starts for unit in range(0, _LANE // 2, size)]
    order = [unit + side + i for unit in units for side in (0, rows) for i in range(size)]
    return keep(T.Shuffle([left, right], order), f"uint8x{rows}")
