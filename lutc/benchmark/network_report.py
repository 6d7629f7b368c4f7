"""What the benchmark of whole networks tells, and how it is kept while it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from lutc.benchmark.suite_report import SuiteReport, SuiteRow
from lutc.errors import ArtifactError
from lutc.report.base import Column


@dataclass(frozen=True)
class NetworkRow(SuiteRow):
    """One engine on one network, batch and sizes as in the file.

    Parameters
    ----------
    engine : "lutc" is all float, "lutc-tables" has the tables of the network's codebooks, "lutc-int8" and
        "lutc-tables-int8" the same with an int8 remainder; else another engine.
    times, times_int8 : the fastest run of onnxruntime, in float32 and in int8, over that of this engine; None where
        that was not measured.
    error : largest difference from onnxruntime's float32 output, relative to its largest value; for lutc alone.
        With tables it tells how well random weights suit k-means, not how accurate a trained network is.
    macs, lookups : of a run, see `Compiled`; other engines have the multiply-adds of the float network.
    bytes : the file or artifact that the engine loads.
    peak_bytes, steady_bytes, imported_bytes : resident memory of a fresh process that loads and runs, see `Memory`.
    compile_s, compile_peak_bytes : of a compile in a fresh process, for lutc.
    tables : layers that are lookup tables.
    """

    network: str
    engine: str
    threads: int
    min_us: float
    median_us: float
    p95_us: float
    times: float | None
    times_int8: float | None
    error: float | None
    macs: int
    lookups: int
    bytes: int
    peak_bytes: int | None
    steady_bytes: int | None
    imported_bytes: int | None
    compile_s: float | None
    compile_peak_bytes: int | None
    tables: int | None


@dataclass
class NetworkReport(SuiteReport):
    """Rows: NetworkRow; the engines of a network follow each other, for each number of threads."""

    kind: ClassVar[str] = "networks"

    def columns(self) -> Sequence[Column]:
        return [
            Column("network", "network"),
            Column("engine", "engine"),
            Column("threads", "threads"),
            Column("min_us", "min us", 0),
            Column("median_us", "median us", 0),
            Column("p95_us", "p95 us", 0),
            Column("times", "x ort", 2),
            Column("times_int8", "x ort int8", 2),
            Column("error", "error"),
            Column("macs", "MACs"),
            Column("lookups", "lookups"),
            Column("bytes", "size"),
            Column("peak_bytes", "peak memory"),
            Column("compile_s", "compile s", 1),
            Column("compile_peak_bytes", "compile memory"),
            Column("tables", "tables"),
        ]


def rows_kept(path: Path, settings: dict[str, object]) -> list[NetworkRow]:
    """The rows that an earlier run wrote to a JSON file; none where there is no file.

    Raises ArtifactError where the file is no such report, or is of another machine, version or setting than `settings`.
    """
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [NetworkRow(**{field.name: row[field.name] for field in fields(NetworkRow)}) for row in content["rows"]]
        other = [key for key, value in settings.items() if content[key] != value]
    except (ValueError, KeyError, TypeError) as error:
        raise _cannot_resume(path, "it is no report of networks that this version wrote") from error
    if other:
        raise _cannot_resume(path, f"it was measured with another setting of {', '.join(other)}")
    return rows


def _cannot_resume(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        "cannot go on with the report", where=str(path), reason=reason, fix="give another --json file, or no --resume"
    )
