"""`lutc run`: what came out, in a few numbers an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lutc.report.base import Column, Report

_FIRST = 4


@dataclass
class RunReport(Report):
    """Rows: name, dtype, shape, min, mean, max, argmax (of the last axis, first row) and the first values."""

    artifact: str = ""
    inputs: str = ""

    kind: ClassVar[str] = "run"

    def columns(self) -> Sequence[Column]:
        keys = ("name", "dtype", "shape", "min", "mean", "max", "argmax", "first")
        return [Column(key, "output" if key == "name" else key) for key in keys]

    def facts(self) -> Mapping[str, Any]:
        return {"artifact": self.artifact, "inputs": self.inputs}


def run_report(artifact: str, inputs: str, outputs: Mapping[str, np.ndarray]) -> RunReport:
    """A summary of outputs by name."""
    return RunReport([_row(name, array) for name, array in outputs.items()], artifact, inputs)


def _row(name: str, array: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size == 0:
        return row
    numbers = array.astype(np.float64)
    last = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    return {
        **row,
        "min": float(numbers.min()),
        "mean": float(numbers.mean()),
        "max": float(numbers.max()),
        "argmax": int(last[0].argmax()),
        "first": [value.item() for value in array.reshape(-1)[:_FIRST]],
    }
