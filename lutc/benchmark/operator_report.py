"""What `lutc bench --suite operators` reports: a row an operator, with other engines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from lutc.benchmark.protocol import Timing
from lutc.report.base import Column, Report


@dataclass(frozen=True)
class OperatorRow:
    """One operator, float32 in to float32 out.

    Parameters
    ----------
    k, v, num_codebooks, rows, outputs : K, V, C, N (rows or positions) and M.
    encoder, encode : "l2" or "tree", and "int8" or "float32".
    lutc, baselines : times of one call; of each engine by name.
    parts_us : the fastest times of the operator's kernels called alone: "quantize", "encode", "read" (with scale, bias
        and relu).
    lookups_per_ns : N * C * M over the fastest time of the whole operator, search included.
    table_gb_per_s : bytes of table read from caches over that time: the whole table for every block of rows that is
        kept in registers, or the rows that a gather read.
    bound_us, bound_share : the model's least time (see lutc.cost_model) and its share of the fastest; None where
        there is no model, and with more than one thread.
    clock_ghz : cycles a nanosecond, measured beside the operator.
    cache_gb_per_s : how fast as many bytes as a large table has can be loaded, measured likewise; part of the bound.
    """

    name: str
    k: int
    v: int
    encode: str
    target: str
    threads: int
    num_codebooks: int
    rows: int
    outputs: int
    kernel: str
    lutc: Timing
    baselines: Mapping[str, Timing]
    parts_us: Mapping[str, float]
    lookups_per_ns: float
    table_gb_per_s: float
    bound_us: float | None
    bound_share: float | None
    clock_ghz: float | None
    cache_gb_per_s: float | None
    encoder: str = "l2"

    def ratio(self, engine: str) -> dict[str, float]:
        """How many times longer the engine takes: "min" of fastest times, "median" of medians."""
        other = self.baselines[engine]
        return {"min": other.min_us / self.lutc.min_us, "median": other.median_us / self.lutc.median_us}

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with "ratios" by engine."""
        times = {name: _times(timing) for name, timing in self.baselines.items()}
        ratios = {name: self.ratio(name) for name in self.baselines}
        return {**asdict(self), "lutc": _times(self.lutc), "baselines": times, "ratios": ratios}

    def flat(self) -> dict[str, Any]:
        """A cell a column."""
        row = {**asdict(self), "min_us": self.lutc.min_us, "median_us": self.lutc.median_us}
        del row["lutc"], row["baselines"], row["parts_us"]
        row |= {f"{name}_us": us for name, us in self.parts_us.items()}
        for name, timing in self.baselines.items():
            row |= {f"{name}_{key}": value for key, value in _times(timing).items()}
            row |= {f"{name}_ratio_{key}": value for key, value in self.ratio(name).items()}
        if self.bound_share is not None:
            row["bound_percent"] = 100 * self.bound_share
        return row


def _times(timing: Timing) -> dict[str, float]:
    return {"min_us": timing.min_us, "median_us": timing.median_us}


@dataclass
class OperatorReport(Report):
    """Rows: OperatorRow. `details` is the machine, the versions and how it was measured; `interrupted` by Ctrl-C."""

    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    interrupted: bool = False

    kind: ClassVar[str] = "operators"

    def columns(self) -> Sequence[Column]:
        engines = list(dict.fromkeys(name for row in self.rows for name in row.baselines))
        ratios = [
            Column(f"{name}_ratio_{key}", f"{name.replace('onnxruntime', 'ort')} x {key}", 2)
            for name in engines
            for key in ("min", "median")
        ]
        return [
            Column("name", "operator"),
            Column("k", "K"),
            Column("v", "V"),
            Column("min_us", "min us", 1),
            Column("median_us", "median us", 1),
            *ratios,
            Column("quantize_us", "quantize us", 1),
            Column("encode_us", "encode us", 1),
            Column("read_us", "read us", 1),
            Column("lookups_per_ns", "lookups/ns", 1),
            Column("table_gb_per_s", "table GB/s", 1),
            Column("bound_percent", "% of bound", 0),
            Column("kernel", "kernel"),
        ]

    def facts(self) -> Mapping[str, Any]:
        return self.details

    def notes(self) -> Sequence[str]:
        return self.remarks

    def to_dict(self) -> dict[str, Any]:
        head = {**super().to_dict(), "interrupted": self.interrupted}
        return {**head, "rows": [row.to_dict() for row in self.rows], "notes": list(self.remarks)}

    def _dicts(self) -> list[dict[str, Any]]:
        return [row.flat() for row in self.rows]
