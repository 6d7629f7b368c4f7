"""Narrow tables: entries of neighbouring codebooks must not overflow int8 when they are added there.

An 8-bit table seldom allows that as it is. Then its columns are rounded to coarser steps, each column as little as it
needs, and `table_scale` grows to match: the sums stay exact for the table that is stored.
"""

from __future__ import annotations

import numpy as np

_LOW, _HIGH = -128, 127


def is_narrow(table: np.ndarray, preadd: int) -> bool:
    """Whether int8 holds every sum of the entries of `preadd` neighbouring codebooks of a table [C, K, M]."""
    return bool((_excess(table, preadd) <= 1).all())


def narrow_table(table: np.ndarray, table_scale: np.ndarray, preadd: int) -> tuple[np.ndarray, np.ndarray]:
    """(table, table_scale) of which `preadd` neighbouring codebooks may be added in int8, whatever the codes are.

    table int8 [C, K, M], table_scale float32 [M]; columns that allow it already stay as they are.
    """
    factor = np.maximum(_excess(table, preadd), 1.0)
    narrow = table
    while True:
        narrow = np.where(factor == 1, table, np.rint(table / factor)).astype(np.int8)
        over = _excess(narrow, preadd) > 1  # rounding may have added up
        if not over.any():
            return narrow, (table_scale * factor).astype(np.float32)
        factor = np.where(over, factor * 1.005, factor)


def added_error(table: np.ndarray, table_scale: np.ndarray, narrow: np.ndarray, narrow_scale: np.ndarray) -> float:
    """How far the sums of a narrow table are from the given one's: root mean square over that of the sums' spread.

    For codes that are equally likely and independent.
    """
    exact = table.astype(np.float64) * table_scale
    error = narrow.astype(np.float64) * narrow_scale - exact
    moved = error.var(axis=1).sum(axis=0) + error.mean(axis=1).sum(axis=0) ** 2
    spread = exact.var(axis=1).sum()
    return float(np.sqrt(moved.sum() / spread)) if spread > 0 else 0.0


def _excess(table: np.ndarray, preadd: int) -> np.ndarray:
    """float64 [M]: how many times the range of int8 the sums of `preadd` neighbouring codebooks may take."""
    high, low = table.max(axis=1).astype(np.int64), table.min(axis=1).astype(np.int64)
    missing = -len(table) % preadd
    sums = [np.pad(v, ((0, missing), (0, 0))).reshape(-1, preadd, table.shape[2]).sum(axis=1) for v in (high, low)]
    return np.maximum(sums[0].max(axis=0) / _HIGH, sums[1].min(axis=0) / _LOW)
