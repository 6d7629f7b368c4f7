"""Run an AArch64 artifact on another machine, under emulation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lutc.artifact.store import read_artifact
from lutc.errors import TargetError
from lutc.runtime import emulator
from lutc.runtime.pieces import plan
from lutc.runtime.session import load_constants
from lutc.targets import WITH_RUNTIME, check_runs_here

if TYPE_CHECKING:
    from lutc.artifact.manifest import Manifest, TensorSpec


class EmulatedSession:
    """An artifact for AArch64 with the interface of Session; every run starts qemu (about 0.2 s).

    ``cpu`` is the one qemu plays; by default a Cortex-A72 for an artifact that needs no more than NEON, so that a wrong
    instruction traps, else one with every feature. Outputs are exactly the device's; times mean nothing, so there is no
    ``profile``.

    Raises ArtifactError when the artifact is missing or damaged, TargetError when it is not for AArch64. The emulator
    itself is looked for at the first run.
    """

    def __init__(self, path: str | os.PathLike[str], *, cpu: str | None = None) -> None:
        artifact = read_artifact(Path(path))
        self.path = Path(artifact.path)
        self.manifest: Manifest = artifact.manifest
        self.cpu = cpu or emulator.cpu_for(self.manifest.target.requires)
        if self.manifest.target.arch not in WITH_RUNTIME:
            check_runs_here(self.manifest.target)
        if self.manifest.target.arch not in ("aarch64", "arm64"):
            raise TargetError(
                "only AArch64 artifacts can be emulated",
                where=str(self.path),
                reason=f"it was compiled for {self.manifest.target.name} ({self.manifest.target.arch})",
                fix="run it without emulation",
            )
        self._constants = load_constants(artifact)

    @property
    def inputs(self) -> list[TensorSpec]:
        """Name, dtype and shape of each input."""
        return list(self.manifest.inputs)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Name, dtype and shape of each output."""
        return list(self.manifest.outputs)

    def run(self, x: Any) -> dict[str, np.ndarray]:
        """Outputs by name; see Session.run. Raises TargetError without an emulator, VerifyError when a run fails."""
        return self.run_many([x])[0]

    def run_many(self, xs: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """run() for several inputs in one emulated process."""
        plans = [plan(x, self.manifest, str(self.path)) for x in xs]
        runs = [(self.path / piece.library, [*piece.arrays, *(self._constants[name] for name in piece.constants)])
                for todo in plans for piece in todo.pieces]  # fmt: skip
        results = iter(emulator.run_many(runs, cpu=self.cpu))
        return [todo.join([next(results) for _ in todo.pieces]) for todo in plans]
