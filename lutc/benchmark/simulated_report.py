"""What `lutc bench --suite operators --simulate` reports: a row an operator, in simulated cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from lutc.benchmark.suite_report import SuiteReport, SuiteRow
from lutc.report.base import Column

CAVEAT = (
    "Simulated, not measured: executed blocks priced by a pipeline model, with every load from the nearest cache and"
    " every branch foreseen. Good for choosing kernels and for ratios; real devices are slower."
)


@dataclass(frozen=True)
class SimulatedRow(SuiteRow):
    """One operator on one core, float32 in to float32 out.

    Parameters
    ----------
    k, v, num_codebooks, rows, outputs : K, V, C, N (rows or positions) and M.
    table_bits : of a table's entries; below 8 where the compiler has narrowed it for the core.
    cycles : simulated, of the whole operator.
    parts : of each kernel "cycles", "instructions", and "hot_cycles" (of its innermost loops); by
        "quantize", "encode", "read" (with scale, bias and relu).
    float_gemm_cycles, int8_gemm_cycles : of the same layer by ideal matrix micro-kernels, simulated alike.
    hot_stack_accesses : loads and stores relative to the stack pointer in hot blocks, executed.
    library_calls : calls into the C library, which have no price.
    """

    name: str
    k: int
    v: int
    encode: str
    target: str
    core: str
    num_codebooks: int
    rows: int
    outputs: int
    kernel: str
    table_bits: int
    clock_ghz: float
    cycles: float
    parts: Mapping[str, Mapping[str, float]]
    float_gemm_cycles: float
    int8_gemm_cycles: float
    hot_stack_accesses: int
    library_calls: int = 0
    simulated: bool = True

    @property
    def subvectors(self) -> int:
        """N * C."""
        return self.rows * self.num_codebooks

    def per(self, part: str, key: str, units: float) -> float | None:
        """Cycles of a part for each of some units."""
        return self.parts[part][key] / units if part in self.parts else None

    def derived(self) -> dict[str, Any]:
        """Milliseconds, ratios, and cycles for a unit of work."""
        ms, lookups = 1e-6 / self.clock_ghz, self.subvectors * self.outputs / 16
        return {
            "ms": self.cycles * ms,
            "float_gemm_ms": self.float_gemm_cycles * ms,
            "int8_gemm_ms": self.int8_gemm_cycles * ms,
            "float_gemm_ratio": self.float_gemm_cycles / self.cycles,
            "int8_gemm_ratio": self.int8_gemm_cycles / self.cycles,
            "encode_per_subvector": self.per("encode", "cycles", self.subvectors),
            "read_per_16_lookups": self.per("read", "cycles", lookups),
            "read_loop_per_16_lookups": self.per("read", "hot_cycles", lookups),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), **self.derived()}

    def flat(self) -> dict[str, Any]:
        """A cell a column."""
        row = {**asdict(self), **self.derived()}
        del row["parts"]
        return row | {f"{name}_kcycles": part["cycles"] / 1e3 for name, part in self.parts.items()}


@dataclass
class SimulatedReport(SuiteReport):
    """Rows: SimulatedRow. `details` is the core, its model and the versions; `interrupted` by Ctrl-C."""

    kind: ClassVar[str] = "simulated operators"

    def columns(self) -> Sequence[Column]:
        return [
            Column("name", "operator"),
            Column("k", "K"),
            Column("v", "V"),
            Column("ms", "sim. ms", 3),
            Column("float_gemm_ratio", "fp32 GEMM x", 2),
            Column("int8_gemm_ratio", "int8 GEMM x", 2),
            Column("quantize_kcycles", "quantize kcycles", 1),
            Column("encode_kcycles", "encode kcycles", 1),
            Column("read_kcycles", "read kcycles", 1),
            Column("encode_per_subvector", "encode /subvector", 2),
            Column("read_per_16_lookups", "read /16 lookups", 2),
            Column("read_loop_per_16_lookups", "its loop", 2),
            Column("hot_stack_accesses", "spills"),
            Column("table_bits", "bits"),
            Column("kernel", "kernel"),
        ]
