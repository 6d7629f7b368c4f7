"""What verify found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lutc.report.base import Column, Report


@dataclass(frozen=True)
class VerifyRow:
    """One output of the model, the codes of one lookup-table layer, or the sums of one layer of an int8 remainder.

    Parameters
    ----------
    kind : "output", "codes" or "sums".
    encoder : "l2" or "tree" (codes only).
    compared : values, codes or sums compared.
    max_abs_error, max_rel_error : largest difference, and that over the output's largest magnitude (outputs only).
    tolerance : largest allowed max_rel_error.
    runs_apart, apart_allowed : runs whose error is above 1e-4, and how many may be (outputs only).
    flips : codes that differ although one centroid is clearly nearer, or sums that differ.
    near_ties : codes that differ where two centroids are equally near up to rounding; allowed.
    """

    name: str
    kind: str
    compared: int
    passed: bool
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    tolerance: float | None = None
    runs_apart: int | None = None
    apart_allowed: int | None = None
    flips: int | None = None
    near_ties: int | None = None
    encoder: str | None = None


@dataclass
class VerifyReport(Report):
    """Rows of VerifyRow; `passed` when all of them are.

    Parameters
    ----------
    artifact, reference : paths.
    runs : inputs the artifact ran on.
    remarks : sentences on what was not checked, or how.
    """

    rows: list[VerifyRow]
    artifact: str = ""
    reference: str = ""
    runs: int = 0
    remarks: list[str] = field(default_factory=list)

    kind: ClassVar[str] = "verify"

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def columns(self) -> Sequence[Column]:
        trees = any(row.encoder == "tree" for row in self.rows)
        return (
            Column("name", "name"),
            Column("kind", "compared"),
            *([Column("encoder", "encoder")] if trees else []),
            Column("compared", "values"),
            Column("max_abs_error", "max error"),
            Column("max_rel_error", "relative"),
            Column("tolerance", "allowed"),
            Column("runs_apart", "runs apart"),
            Column("apart_allowed", "allowed"),
            Column("flips", "flips"),
            Column("near_ties", "near ties"),
            Column("passed", "passed"),
        )

    def facts(self) -> Mapping[str, Any]:
        return {
            "artifact": self.artifact,
            "reference": self.reference,
            "runs": self.runs,
            "passed": self.passed,
        }

    def notes(self) -> Sequence[str]:
        failed = [row.name for row in self.rows if not row.passed]
        verdict = f"FAILED: {', '.join(failed)}" if failed else "The artifact computes what its model says."
        return (*self.remarks, verdict)
