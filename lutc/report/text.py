"""Plain text for reports: numbers with units, aligned tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_bytes(size: int) -> str:
    """ "12 B", "3.4 KiB", "1.1 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def format_value(value: Any, digits: int | None = None, *, key: str = "") -> str:
    """A cell: "" for None, yes/no for a bool, a size where `key` ends in "bytes", items joined by commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("bytes"):
        return format_bytes(value)
    if isinstance(value, float):
        return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_value(item, key=key)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def fact_title(key: str) -> str:
    """How a fact is called on screen: "size_bytes" is shown as "size"."""
    return key.removesuffix("_bytes").replace("_", " ")


def format_facts(facts: Mapping[str, Any]) -> str:
    """One line a fact, keys padded to the longest."""
    shown = {fact_title(key): format_value(value, key=key) for key, value in facts.items()}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in shown.items() if value)


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, numbers to the right but for the first column, which names the row. "" without rows."""
    if not rows:
        return ""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(title), *map(len, column)) for title, column in zip(titles, columns, strict=True)]
    numeric = [is_numeric(index, column) for index, column in enumerate(columns)]
    lines = [_line(row, widths, numeric) for row in (titles, *rows)]
    return "\n".join(lines)


def is_numeric(index: int, cells: Sequence[str]) -> bool:
    """Whether column `index` is aligned to the right."""
    return index > 0 and all(_is_number(cell) for cell in cells)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(cells, widths, numeric, strict=True)]
    return "  ".join(padded).rstrip()


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or (cell[0] in "-+." and cell[1:2].isdigit())
