"""What the reports of all benchmark suites share: rows that are flat or whole, facts about the run, and remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lutc.benchmark.protocol import Timing
from lutc.report.base import Column, Report


class SuiteRow:
    """Base of the rows, dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """The row whole, JSON values."""
        return asdict(self)  # pyright: ignore[reportArgumentType]

    def flat(self) -> dict[str, Any]:
        """A cell a column."""
        return asdict(self)  # pyright: ignore[reportArgumentType]


class TimedRow(SuiteRow):
    """Base of rows of one operator that was timed in turns with other engines.

    lutc, baselines : times of one call; of each engine by name.
    parts_us : the fastest time of each of the operator's kernels called alone, by what it does.
    """

    lutc: Timing
    baselines: Mapping[str, Timing]
    parts_us: Mapping[str, float]

    def ratio(self, engine: str) -> dict[str, float]:
        """How many times longer the engine takes: "min" of fastest times, "median" of medians."""
        other = self.baselines[engine]
        return {"min": other.min_us / self.lutc.min_us, "median": other.median_us / self.lutc.median_us}

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with "ratios" by engine."""
        times = {name: _times(timing) for name, timing in self.baselines.items()}
        ratios = {name: self.ratio(name) for name in self.baselines}
        return {**super().to_dict(), "lutc": _times(self.lutc), "baselines": times, "ratios": ratios}

    def flat(self) -> dict[str, Any]:
        """A cell a column."""
        row = {**super().flat(), **_times(self.lutc)}
        del row["lutc"], row["baselines"], row["parts_us"]
        row |= {f"{name}_us": us for name, us in self.parts_us.items()}
        for name, timing in self.baselines.items():
            row |= {f"{name}_{key}": value for key, value in _times(timing).items()}
            row |= {f"{name}_ratio_{key}": value for key, value in self.ratio(name).items()}
        return row


def timed_columns(rows: Sequence[TimedRow]) -> list[Column]:
    """Columns of our times and of each engine's ratio to them."""
    engines = list(dict.fromkeys(name for row in rows for name in row.baselines))
    ratios = [
        Column(f"{name}_ratio_{key}", f"{name.replace('onnxruntime', 'ort')} x {key}", 2)
        for name in engines
        for key in ("min", "median")
    ]
    return [Column("min_us", "min us", 1), Column("median_us", "median us", 1), *ratios]


def _times(timing: Timing) -> dict[str, float]:
    return {"min_us": timing.min_us, "median_us": timing.median_us}


@dataclass
class SuiteReport(Report):
    """Rows: SuiteRow. `details` is the machine, the versions and how it was measured; `interrupted` by Ctrl-C."""

    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    interrupted: bool = False

    def facts(self) -> Mapping[str, Any]:
        return self.details

    def notes(self) -> Sequence[str]:
        return self.remarks

    def to_dict(self) -> dict[str, Any]:
        head = {**super().to_dict(), "interrupted": self.interrupted}
        return {**head, "rows": [row.to_dict() for row in self.rows], "notes": list(self.remarks)}

    def _dicts(self) -> list[dict[str, Any]]:
        return [row.flat() for row in self.rows]
