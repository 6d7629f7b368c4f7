"""Reports show the same numbers as text, rich, JSON, CSV and HTML."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from lutc.errors import ArtifactError
from lutc.report import Column, Report, TensorInfo
from lutc.report.text import format_bytes, format_table, format_value


@dataclass
class _Row:
    layer: str
    time_us: float
    bytes: int
    note: str | None = None


@dataclass
class _Sample(Report):
    total_us: float = 0.0

    kind: ClassVar[str] = "sample"

    def columns(self) -> Sequence[Column]:
        return [
            Column("layer", "layer"),
            Column("time_us", "time us", 1),
            Column("bytes", "size"),
            Column("note", "note"),
        ]

    def facts(self) -> Mapping[str, Any]:
        return {"total_us": self.total_us, "size_bytes": 4096, "input": TensorInfo("x", "float32", ["N", 3])}

    def notes(self) -> Sequence[str]:
        return ("One & only <note>.",)


@pytest.fixture
def report() -> _Sample:
    return _Sample([_Row("conv<1>", 12.345, 2048), _Row("fc", 7.0, 100)], 19.345)


def test_text(report: _Sample, golden) -> None:
    golden(str(report), "report/sample.txt")


def test_rich_shows_the_same_words(report: _Sample) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(report)
    assert console.file.getvalue().split() == str(report).split()  # type: ignore[attr-defined]


def test_rich_without_rows() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(_Sample([]))
    assert "One & only" in console.file.getvalue()  # type: ignore[attr-defined]


def test_dict(report: _Sample) -> None:
    assert report.to_dict() == {
        "schema_version": 1,
        "report": "sample",
        "total_us": 19.345,
        "size_bytes": 4096,
        "input": {"name": "x", "dtype": "float32", "shape": ["N", 3]},
        "rows": [
            {"layer": "conv<1>", "time_us": 12.345, "bytes": 2048, "note": None},
            {"layer": "fc", "time_us": 7.0, "bytes": 100, "note": None},
        ],
    }


def test_json_holds_only_json_values() -> None:
    row = {"a": np.float32(1.5), "b": math.nan, "c": np.int64(3), "d": [np.bool_(True), math.inf], "e": Path("p")}
    assert json.loads(Report([row]).to_json())["rows"] == [{"a": 1.5, "b": None, "c": 3, "d": [True, None], "e": "p"}]


def test_saved(report: _Sample, tmp_path: Path, golden) -> None:
    for suffix in ("json", "csv", "html"):
        report.save(tmp_path / f"r.{suffix}")
    assert json.loads((tmp_path / "r.json").read_text()) == report.to_dict()
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert rows[0] == {"layer": "conv<1>", "time_us": "12.345", "bytes": "2048", "note": ""}
    golden((tmp_path / "r.html").read_text(), "report/sample.html")


@pytest.mark.parametrize("name", ["report.xlsx", "report", "no/report.json"])
def test_cannot_save(report: _Sample, tmp_path: Path, golden, name: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        report.save(tmp_path / name)
    text = f"error: {caught.value}".replace(str(tmp_path), "<folder>")
    golden(text, f"report/cannot-save-{name.replace('/', '-')}.txt")


def test_columns_default_to_the_keys() -> None:
    assert str(Report([{"a_b": 1, "c": None}])) == "a b\n1"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 19, "1.5 MiB"), (5 << 30, "5.0 GiB")]
)
def test_format_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (0.123456, "0.1235"), ([1, "a"], "1, a"), ({"x": 1.0}, "x 1"), (7, "7")],
)
def test_format_value(value: object, text: str) -> None:
    assert format_value(value) == text


def test_numbers_are_right_aligned_but_names_are_not() -> None:
    assert format_table(["layer", "n", "note"], [["0", "1", "a"], ["12", "-10", ""]]) == (
        "layer    n  note\n0        1  a\n12     -10"
    )
