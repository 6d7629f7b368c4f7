"""What `lutc bench --suite operators` reports: a row an operator, with other engines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lutc.benchmark.protocol import Timing
from lutc.benchmark.suite_report import SuiteReport, TimedRow, timed_columns
from lutc.report.base import Column


@dataclass(frozen=True)
class OperatorRow(TimedRow):
    """One operator, float32 in to float32 out.

    Parameters
    ----------
    k, v, num_codebooks, rows, outputs : K, V, C, N (rows or positions) and M.
    encoder, encode : "l2" or "tree", and "int8", "int6" or "float32".
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

    def flat(self) -> dict[str, Any]:
        row = super().flat()
        return row if self.bound_share is None else row | {"bound_percent": 100 * self.bound_share}


@dataclass
class OperatorReport(SuiteReport):
    """Rows: OperatorRow."""

    kind: ClassVar[str] = "operators"

    def columns(self) -> Sequence[Column]:
        return [
            Column("name", "operator"),
            Column("k", "K"),
            Column("v", "V"),
            *timed_columns(self.rows),
            Column("quantize_us", "quantize us", 1),
            Column("encode_us", "encode us", 1),
            Column("read_us", "read us", 1),
            Column("lookups_per_ns", "lookups/ns", 1),
            Column("table_gb_per_s", "table GB/s", 1),
            Column("bound_percent", "% of bound", 0),
            Column("kernel", "kernel"),
        ]
