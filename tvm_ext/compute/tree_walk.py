"""Walking down the trees of one codebook, a vector of rows at a time.

Nodes are numbered like a heap here, the root is 1 and node h has the children 2h and 2h + 1: the thresholds of a tree
of up to 16 leaves fit 16 entries. The code of the leaf that is reached is `leaves[h % 16]`. A step looks the thresholds
of the rows' nodes up, compares, and steps down.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from tvm_ext.tensor_intrin import TABLE_ENTRIES, Tree
from tvm_ext.tensor_intrin.shuffle import shuffle
from tvm_ext.tensor_intrin.spec import llvm_intrinsic

Load = Callable[..., Expr]


def walk_bytes(load: Load, levels: int, thresholds, leaves, c: Expr, tree: Tree) -> Expr:
    """Codes, uint8 x rows, by byte shuffles.

    load(level): the int8 values that the level looks at; one greater than its threshold goes right.
    thresholds int8 [C, 16], leaves uint8 [C, 16]; c is the codebook.
    """
    dtype, table = f"int8x{tree.rows}", _table(thresholds, c, tree.rows)
    one = T.broadcast(T.int8(1), tree.rows)
    node = one
    for level in range(levels):
        threshold = T.broadcast(thresholds[c, 1], tree.rows) if level == 0 else _shuffle(table, node, tree)
        right = T.Select(load(level) > threshold, one, T.broadcast(T.int8(0), tree.rows))
        node = keep(node + node + right, dtype)
    return _leaf(node, leaves, c, tree)


def walk_floats(load: Load, levels: int, thresholds, leaves, c: Expr, tree: Tree) -> Expr:
    """The same for float32 values, load(level, part) of `tree.float_rows` rows; one not less than its threshold goes
    right, and thresholds are float32 [C, 16]."""
    lanes = tree.float_rows
    one, zero = (T.broadcast(T.int32(value), lanes) for value in (1, 0))
    parts = []
    for part in range(tree.rows // lanes):
        node, bits = one, []
        for level in range(levels):
            threshold = (
                _permute(thresholds, c, level, node, tree) if tree.permute else _pick(thresholds, c, bits, lanes)
            )
            bits.append(keep(T.Select(load(level, part) >= threshold, one, zero), f"int32x{lanes}"))
            node = keep(node + node + bits[-1], f"int32x{lanes}")
        parts.append(T.cast(node, f"int8x{lanes}"))
    nodes = parts[0] if len(parts) == 1 else T.Shuffle(parts, list(range(tree.rows)))
    return _leaf(keep(nodes, f"int8x{tree.rows}"), leaves, c, tree)


def walk_one(load: Load, levels: int, thresholds, leaves, c: Expr, integer: bool) -> Expr:
    """The code of one row, load(level) its values: for machines without shuffles."""
    node = T.int32(1)
    for level in range(levels):
        value, threshold = load(level), thresholds[c, node]
        right = value > threshold if integer else value >= threshold
        node = T.Bind(node + node + T.Select(right, T.int32(1), T.int32(0)))
    return leaves[c, node % TABLE_ENTRIES]


def keep(value: Expr, dtype: str) -> Expr:
    """`value` by way of memory, which LLVM makes a register; a bound variable is put in place wherever it is used."""
    element, lanes = dtype.split("x")
    place = T.alloc_buffer((int(lanes),), element)
    T.buffer_store(place, value, [T.ramp(0, 1, int(lanes))])
    return place.vload([0], dtype)


def _table(buffer, c: Expr, rows: int) -> Expr:
    """16 entries repeated in every 128-bit lane, as signed bytes."""
    entries = T.reinterpret("int8x16", buffer.vload([c, 0], f"{buffer.dtype}x16"))
    return T.Bind(T.Shuffle([entries] * (rows // 16), list(range(rows))) if rows > 16 else entries)


def _shuffle(table: Expr, index: Expr, tree: Tree) -> Expr:
    return shuffle(tree.shuffle, table, index, tree.rows)


def _leaf(node: Expr, leaves, c: Expr, tree: Tree) -> Expr:
    if not tree.wraps:
        node = T.bitwise_and(node, T.broadcast(T.int8(TABLE_ENTRIES - 1), tree.rows))
    dtype = f"uint8x{tree.rows}"
    return keep(T.reinterpret(dtype, _shuffle(_table(leaves, c, tree.rows), node, tree)), dtype)


def _permute(thresholds, c: Expr, level: int, node: Expr, tree: Tree) -> Expr:
    """Thresholds of the nodes of a level, from a register of 8 or 16: the index is taken modulo its size."""
    lanes = tree.float_rows
    first = 8 if lanes == 8 and level == 3 else 0
    table = thresholds.vload([c, first], f"float32x{lanes}")
    return T.call_llvm_pure_intrin(f"float32x{lanes}", llvm_intrinsic(tree.permute), table, node)


def _pick(thresholds, c: Expr, bits: list[Expr], lanes: int, node: int = 1) -> Expr:
    """The same by selects, from what the comparisons above said."""
    if not bits:
        return T.broadcast(thresholds[c, node], lanes)
    left, right = (_pick(thresholds, c, bits[1:], lanes, 2 * node + side) for side in (0, 1))
    return T.Select(bits[0] > T.broadcast(T.int32(0), lanes), right, left)
