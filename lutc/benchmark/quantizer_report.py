"""What `lutc bench --suite quantizers` reports: a row a quantized operator, and how activations were quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from lutc.benchmark.protocol import Timing
from lutc.report.base import Column, Report
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
class QuantizedRow:
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

    def ratio(self, engine: str) -> dict[str, float]:
        """How many times longer the engine takes: "min" of fastest times, "median" of medians."""
        other = self.baselines[engine]
        return {"min": other.min_us / self.lutc.min_us, "median": other.median_us / self.lutc.median_us}

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with "ratios" by engine."""
        return {**asdict(self), "ratios": {name: self.ratio(name) for name in self.baselines}}

    def flat(self) -> dict[str, Any]:
        """A cell a column."""
        row = {**asdict(self), "min_us": self.lutc.min_us, "median_us": self.lutc.median_us}
        del row["lutc"], row["baselines"], row["parts_us"]
        row |= {f"{name}_us": us for name, us in self.parts_us.items()}
        for name in self.baselines:
            row |= {f"{name}_ratio_{key}": value for key, value in self.ratio(name).items()}
        if self.peak_share is not None:
            row["peak_percent"] = 100 * self.peak_share
        return row


@dataclass
class QuantizerReport(Report):
    """Rows: QuantizedRow; `staircases` of activation quantizers alone. `details` as in OperatorReport."""

    staircases: list[StaircaseRow] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    interrupted: bool = False

    kind: ClassVar[str] = "quantizers"

    def columns(self) -> Sequence[Column]:
        engines = list(dict.fromkeys(name for row in self.rows for name in row.baselines))
        ratios = [
            Column(f"{name}_ratio_{key}", f"{name.replace('onnxruntime', 'ort')} x {key}", 2)
            for name in engines
            for key in ("min", "median")
        ]
        return [
            Column("name", "operator"),
            Column("min_us", "min us", 1),
            Column("median_us", "median us", 1),
            *ratios,
            Column("levels_us", "levels us", 1),
            Column("product_us", "product us", 1),
            Column("products_per_ns", "products/ns", 0),
            Column("peak_percent", "% of peak", 0),
            Column("weight_bytes", "weights"),
            Column("kernel", "kernel"),
        ]

    def facts(self) -> Mapping[str, Any]:
        return self.details

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
        head = {**super().to_dict(), "interrupted": self.interrupted}
        return {
            **head, "rows": [row.to_dict() for row in self.rows],
            "staircases": [asdict(row) for row in self.staircases], "notes": list(self.remarks),
        }  # fmt: skip

    def _dicts(self) -> list[dict[str, Any]]:
        return [row.flat() for row in self.rows]
