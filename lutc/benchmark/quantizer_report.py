"""What `lutc bench --suite quantizers` reports: a row a quantized operator, and how activations were quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from lutc.benchmark.protocol import Timing
from lutc.benchmark.suite_report import SuiteReport, TimedRow, timed_columns
from lutc.report.base import Column
from lutc.report.text import format_table


@dataclass(frozen=True)
class StaircaseRow:
    """A way to turn `elements` float32 activations into bytes of `bits` bits; `ratio` of its fastest time to PACT's."""

    name: str
    method: str
    bits: int
    elements: int
    time: Timing
    ratio: float

    def cells(self) -> list[str]:
        per_64 = 1e3 * self.time.min_us / self.elements * 64
        return [
            self.name,
            self.method,
            f"{self.time.min_us:.1f}",
            f"{self.time.median_us:.1f}",
            f"{per_64:.2f}",
            f"{self.ratio:.2f}",
        ]


@dataclass(frozen=True)
class QuantizedRow(TimedRow):
    """One operator, float32 in to float32 out.

    Parameters
    ----------
    products : N * D * M. weight_bytes : as stored.
    lutc, baselines : times of one call; of each engine by name.
    parts_us : the fastest times of "levels" (input to integers) and "product" (sums, scale, bias and relu) alone.
    products_per_ns, peak_share : of the product kernel; the share is None where the peak is not known.
    """

    name: str
    bits: int
    target: str
    threads: int
    kernel: str
    products: int
    weight_bytes: int
    lutc: Timing
    baselines: Mapping[str, Timing]
    parts_us: Mapping[str, float]
    products_per_ns: float
    peak_share: float | None
    clock_ghz: float | None

    def flat(self) -> dict[str, Any]:
        row = super().flat()
        return row if self.peak_share is None else row | {"peak_percent": 100 * self.peak_share}


@dataclass
class QuantizerReport(SuiteReport):
    """Rows: QuantizedRow; `staircases` of activation quantizers alone."""

    staircases: list[StaircaseRow] = field(default_factory=list)

    kind: ClassVar[str] = "quantizers"

    def columns(self) -> Sequence[Column]:
        return [
            Column("name", "operator"),
            *timed_columns(self.rows),
            Column("levels_us", "levels us", 1),
            Column("product_us", "product us", 1),
            Column("products_per_ns", "products/ns", 0),
            Column("peak_percent", "% of peak", 0),
            Column("weight_bytes", "weights"),
            Column("kernel", "kernel"),
        ]

    def notes(self) -> Sequence[str]:
        told = list(self.remarks)
        if self.staircases:
            first = self.staircases[0]
            titles = ["activations", "method", "min us", "median us", "ns per 64", "x uniform"]
            told.append(
                f"{first.elements} activations to {first.bits} bits:\n"
                + format_table(titles, [row.cells() for row in self.staircases])
            )
        return told

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "staircases": [asdict(row) for row in self.staircases]}
