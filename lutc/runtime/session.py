"""Run an artifact on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lutc.artifact.constants import map_constants
from lutc.artifact.store import LIBRARY_NAME, Artifact, read_artifact
from lutc.errors import ArtifactError, InputError, TargetError
from lutc.runtime.pieces import Piece, plan
from lutc.runtime.threads import leave_threads_unbound, use_threads
from lutc.targets import check_runs_here

if TYPE_CHECKING:
    from lutc.artifact.manifest import Manifest, TensorSpec

_ALIGNMENT = 64  # what compiled kernels assume of every buffer; TVM does not check it


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Session:
    """Load an artifact folder (``name.lutc``) for running on this machine.

    Parameters
    ----------
    path : the artifact; the sha256 of every file in it is checked.
    threads : for one run; None is TVM_NUM_THREADS if set, else the number of cores.

    Raises
    ------
    ArtifactError : the artifact is missing, damaged or from a newer version.
    TargetError : it was compiled for another architecture, or for CPU features this machine lacks.
    InputError : ``threads`` is not a positive number.
    """
    if threads is not None and threads < 1:
        raise InputError(
            "the number of threads must be positive", where="threads", reason=f"given {threads}", fix="give 1 or more"
        )
    artifact = read_artifact(Path(path))
    try:
        check_runs_here(artifact.manifest.target)
    except TargetError as error:
        raise TargetError(error.message, where=str(path), reason=error.reason, fix=error.fix) from error
    return Session(artifact, threads)


class Session:
    """A loaded artifact. Made by ``load``.

    One session may be shared by several threads; its runs take turns. For runs at the same time load one session a
    thread. Returned arrays belong to the caller.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        leave_threads_unbound()
        self.path = Path(artifact.path)
        self.manifest: Manifest = artifact.manifest
        self.threads = threads
        self._lock = threading.Lock()
        self._libraries: dict[str, Any] = {}
        self._mains: dict[str, Any] = {}
        self._constants = {name: _to_tvm(array) for name, array in load_constants(artifact).items()}
        self._main(LIBRARY_NAME)

    @property
    def inputs(self) -> list[TensorSpec]:
        """Name, dtype and shape of each input."""
        return list(self.manifest.inputs)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Name, dtype and shape of each output."""
        return list(self.manifest.outputs)

    def run(self, x: Any) -> dict[str, np.ndarray]:
        """Outputs by name.

        ``x`` is the input array, or {name: array} for a model with several inputs. An array that is C-contiguous and
        64-byte aligned is read in place, any other is copied. Where the artifact has dimensions, sizes may be others at
        each run; the code of a size is loaded when it is first needed. Raises InputError on a wrong name, dtype or
        shape.
        """
        todo = plan(x, self.manifest, str(self.path))
        calls = [(piece, self._arguments(piece)) for piece in todo.pieces]
        with self._lock:
            use_threads(self.threads)
            results = [_run(self._main(piece.library), arguments) for piece, arguments in calls]
        return todo.join(results)

    def profile(self, x: Any, *, repeat: int = 10) -> list[tuple[str, float]]:
        """(kernel name, microseconds) of each kernel call in order, the fastest of ``repeat`` runs after a first one.

        Each time holds a fraction of a microsecond of bookkeeping, so their sum is a little above the time of a run.
        """
        if repeat < 1:
            raise InputError("repeat must be positive", where="profile", reason=f"given {repeat}", fix="give 1 or more")
        pieces = plan(x, self.manifest, str(self.path)).pieces
        return [call for piece in pieces for call in self._profile(piece, repeat)]

    def _profile(self, piece: Piece, repeat: int) -> list[tuple[str, float]]:
        arguments = self._arguments(piece)
        with self._lock:
            self._main(piece.library)
        machine, clock = _virtual_machine(self._libraries[piece.library]), _KernelClock()
        machine.set_instrument(clock)
        main = machine["main"]
        with self._lock:
            use_threads(self.threads)
            main(*arguments)  # the first run makes the memory pools
            runs = []
            for _ in range(repeat):
                clock.rows.clear()
                main(*arguments)
                runs.append(list(clock.rows))
        return [(calls[0][0], min(time for _, time in calls)) for calls in zip(*runs, strict=True)]

    def _main(self, library: str) -> Any:
        """The function of a library, which is loaded when it is first needed."""
        if library not in self._mains:
            self._libraries[library] = _load_library(self.path / library)
            self._mains[library] = _virtual_machine(self._libraries[library])["main"]
        return self._mains[library]

    def _arguments(self, piece: Piece) -> list[Any]:
        return [*map(_to_tvm, piece.arrays), *(self._constants[name] for name in piece.constants)]


def _run(main: Any, arguments: Sequence[Any]) -> list[np.ndarray]:
    return [np.from_dlpack(tensor).copy() for tensor in _flatten(main(*arguments))]


class _KernelClock:
    """Called by the virtual machine before and after every call it makes; keeps the times of kernels."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float]] = []
        self._start = 0

    def __call__(self, _function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
        if before:
            self._start = time.perf_counter_ns()
        elif not name.startswith("vm.builtin."):
            self.rows.append((name, (time.perf_counter_ns() - self._start) / 1e3))
        return 0  # go on with the call


def load_constants(artifact: Artifact) -> dict[str, np.ndarray]:
    """The constants that code takes after the inputs, by name: views of their file.

    Raises ArtifactError when one is missing.
    """
    manifest = artifact.manifest
    tensors = map_constants(artifact.constants) if artifact.constants else {}
    wanted = [*manifest.constants, *(name for code in manifest.shapes for name in code.constants)]
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ArtifactError(
            "cannot load the artifact's constants",
            where=str(artifact.constants or artifact.path),
            reason=f"there is no tensor {missing[0]!r}",
            fix="compile the model again",
        )
    return tensors


def _load_library(path: Path) -> Any:
    import tvm

    try:
        # the loader knows libraries by path and would hand out the old code of an artifact that was compiled again
        with tempfile.TemporaryDirectory(prefix="lutc-load-") as scratch:
            return tvm.runtime.load_module(shutil.copy(path, scratch))
    except RuntimeError as error:  # TVM's errors derive from it
        raise ArtifactError(
            "cannot load the artifact's code",
            where=str(path),
            reason=str(error).strip().splitlines()[0],
            fix="compile the model again on this machine, with the TVM version installed here",
        ) from error


def _virtual_machine(library: Any) -> Any:
    import tvm
    from tvm.runtime.vm import VirtualMachine

    return VirtualMachine(library, tvm.cpu())


def _to_tvm(array: np.ndarray) -> Any:
    import tvm_ffi

    flags = array.flags
    in_place = flags.c_contiguous and flags.writeable and array.ctypes.data % _ALIGNMENT == 0
    return tvm_ffi.from_dlpack(array if in_place else _aligned_copy(array))


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    buffer = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _flatten(value: Any) -> Iterator[Any]:
    if hasattr(value, "__dlpack__"):
        yield value
    else:
        for part in value:
            yield from _flatten(part)
