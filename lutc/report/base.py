"""What every report can do: rows, facts about the whole, and the ways to show and save them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lutc.errors import ArtifactError
from lutc.files import check_writable
from lutc.report.html import to_html
from lutc.report.text import fact_title, format_facts, format_table, format_value, is_numeric


@dataclass(frozen=True)
class Column:
    """A column of the printed table.

    Parameters
    ----------
    key : field of the row.
    title : its heading, with the unit, e.g. "median us".
    digits : decimals for floats; None prints 4 significant ones.
    """

    key: str
    title: str
    digits: int | None = None


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as a report tells it; an open dimension is its name."""

    name: str
    dtype: str
    shape: list[int | str]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass
class Report:
    """Base of all reports: a dataclass with `rows` (dataclasses, msgspec Structs or dicts) and fields of its own.

    A subclass names its `kind`, lists the `columns` of its table, and may override `facts` and `notes`. `to_dict`
    holds schema_version, kind, facts and the rows whole; the schema version rises when a field changes its meaning.
    """

    rows: list[Any]

    kind: ClassVar[str] = "report"
    schema_version: ClassVar[int] = 1

    def columns(self) -> Sequence[Column]:
        """Columns of the printed table; those with nothing in them are left out."""
        return [Column(key, key.replace("_", " ")) for key in (self._dicts() or [{}])[0]]

    def facts(self) -> Mapping[str, Any]:
        """What is true of the whole, shown above the table; JSON values."""
        return {}

    def notes(self) -> Sequence[str]:
        """Sentences shown under the table."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        head = {"schema_version": self.schema_version, "report": self.kind}
        return {**head, **_plain(dict(self.facts())), "rows": _plain(self._dicts())}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write .json, .csv (rows only) or .html. Raises ArtifactError for another suffix or a missing folder."""
        path = check_writable(path, ArtifactError)
        writers = {".json": self.to_json, ".csv": self._to_csv, ".html": self._to_html}
        if path.suffix not in writers:
            raise ArtifactError(
                "cannot save the report",
                where=str(path),
                reason=f"no report is written as {path.suffix or 'a file without suffix'}",
                fix=f"choose {', '.join(writers)}",
            )
        path.write_text(writers[path.suffix](), encoding="utf-8")

    def __str__(self) -> str:
        titles, cells = self._table()
        parts = (format_facts(self.facts()), format_table(titles, cells), "\n".join(self.notes()))
        return "\n\n".join(part for part in parts if part)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        titles, cells = self._table()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(zip(*cells, strict=True)):
            table.add_column(titles[index], justify="right" if is_numeric(index, column) else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        parts = (format_facts(self.facts()), table if cells else "", "\n".join(self.notes()))
        shown = [Text(part) if isinstance(part, str) else part for part in parts if part]
        return Group(*[item for part in shown for item in (part, Text())][:-1])

    def _dicts(self) -> list[dict[str, Any]]:
        return [_row_dict(row) for row in self.rows]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = self._dicts()
        columns = [c for c in self.columns() if any(row.get(c.key) not in (None, "") for row in rows)]
        return [c.title for c in columns], [
            [format_value(row.get(c.key), c.digits, key=c.key) for c in columns] for row in rows
        ]

    def _to_csv(self) -> str:
        rows = _plain(self._dicts())
        names = list(dict.fromkeys(key for row in rows for key in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def _to_html(self) -> str:
        titles, cells = self._table()
        facts = {fact_title(key): format_value(value, key=key) for key, value in self.facts().items()}
        return to_html(f"lutc {self.kind}", facts, titles, cells, self.notes())


def _row_dict(row: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    if hasattr(row, "__struct_fields__"):
        return {key: getattr(row, key) for key in row.__struct_fields__}
    return {str(key): value for key, value in row.items()}


def _plain(value: Any) -> Any:
    """JSON values: dataclasses become objects, numpy scalars Python's, NaN and infinity null, keys strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) or hasattr(value, "__struct_fields__"):
        return _plain(_row_dict(value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return _plain(value.item())
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
