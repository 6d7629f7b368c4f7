"""`lutc targets`: what can be compiled for, and what runs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lutc.errors import TargetError
from lutc.report.base import Column, Report
from lutc.targets import OTHER_TARGETS, Target, check_runs_here, host_target, list_targets


@dataclass
class TargetsReport(Report):
    """Rows: name, arch, cpu, attrs, requires, runs_here, models (whole ones can be compiled for it), description."""

    native: str = ""

    kind: ClassVar[str] = "targets"

    def columns(self) -> Sequence[Column]:
        names = ("name", "target"), ("arch", "architecture"), ("runs_here", "runs here"), ("description", "for")
        return [Column(key, title) for key, title in names]

    def facts(self) -> Mapping[str, str]:
        return {"native": self.native or "none: this machine is not a known target"}

    def notes(self) -> Sequence[str]:
        return (
            "Refine one with --target NAME[,cpu=CPU][,+FEATURE][,-FEATURE]; aarch64 runs anywhere with --emulate.",
            f"armv7 is compiled for programs with a runtime of their own, wasm32 has kernels only: {OTHER_TARGETS}",
        )


def targets_report() -> TargetsReport:
    """All named targets, with the ones this machine can run marked."""
    rows = [
        {
            "name": target.name,
            "arch": target.arch,
            "cpu": target.cpu,
            "attrs": list(target.attrs),
            "requires": list(target.requires),
            "runs_here": _runs_here(target),
            "models": target.models,
            "description": target.description,
        }
        for target in list_targets()
    ]
    try:
        native = host_target().name
    except TargetError:
        native = ""
    return TargetsReport(rows, native)


def _runs_here(target: Target) -> bool:
    try:
        check_runs_here(target)
    except TargetError:
        return False
    return True
