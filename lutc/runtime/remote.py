"""Run artifacts on another machine, over TVM RPC."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lutc.artifact.store import LIBRARY_NAME, read_artifact
from lutc.errors import InputError, LutcError, TargetError, VerifyError
from lutc.runtime.pieces import Piece, plan
from lutc.runtime.relay import Relay
from lutc.runtime.session import load_constants

if TYPE_CHECKING:
    from lutc.artifact.manifest import Manifest, TargetInfo, TensorSpec

_CONNECT, _GREET = 5.0, 20.0
_START = "start a server there, see docs/arm.md:  sh rpc-server.sh --host 0.0.0.0 --port 9090"
_BIG_CORES = 1  # TVM's affinity mode
_MACHINES = {"arm64": "aarch64", "AMD64": "x86_64"}


def parse_address(text: str) -> tuple[str, int]:
    """("board.local", 9090) of "board.local:9090". Raises InputError."""
    match = re.fullmatch(r"([^\s:/]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InputError(
            f"cannot read the address {text!r}", where="--remote", reason="an address is written HOST:PORT",
            fix="--remote 192.168.1.20:9090",
        )  # fmt: skip
    return match[1].strip("[]"), int(match[2])


class RemoteDevice:
    """A connection to a TVM RPC server: `rpc-server` of `lutc.runtime.runner`, or TVM's own in Python.

    Parameters
    ----------
    address : "HOST:PORT".
    timeout : seconds that any single call, e.g. a run or an upload, may take.

    Raises
    ------
    InputError : the address is malformed.
    TargetError : nothing answers there, what answers is no RPC server, or it has another TVM version.
    """

    def __init__(self, address: str, *, timeout: float = 600.0) -> None:
        import tvm_ffi  # noqa: F401 (TVM's errors must be known before one is raised)
        from tvm import rpc

        self.address = address
        self._files = 0
        host, port = parse_address(address)
        try:
            self._relay = Relay(host, port, connect=_CONNECT, greet=_GREET, answer=timeout)
        except ConnectionError as error:
            raise self._unreachable(str(error)) from error
        try:
            self._session: Any = rpc.connect("127.0.0.1", self._relay.port)
        except RuntimeError as error:
            failure = self._relay.close()
            what = failure if failure.startswith("no answer") else "it does not greet"
            reason = f"{what}: no TVM RPC server listens there, or it has a key or another client"
            raise self._unreachable(reason) from error
        try:
            self.info = self._server_info()
            self._check_version()
        except BaseException:
            self.close()
            raise

    def _unreachable(self, reason: str) -> TargetError:
        return TargetError(f"cannot connect to {self.address}", where="--remote", reason=reason, fix=_START)

    def _server_info(self) -> dict[str, str]:
        """ "tvm", "machine" and "features" as far as the server tells them."""
        with self._guard("the server's description"):
            tell = self._find("lutc.server_info")
            if tell is not None:
                return dict(word.split("=", 1) for word in str(tell()).split())
            triple = self._find("target.llvm_get_system_triple")  # TVM's own server, with its compiler
            return {} if triple is None else {"machine": str(triple()).partition("-")[0]}

    def _find(self, name: str) -> Any:
        try:
            return self._session.get_function(name)
        except AttributeError:
            return None

    def _check_version(self) -> None:
        import tvm

        theirs = self.info.get("tvm")
        if theirs is not None and theirs != tvm.__version__:
            raise TargetError(
                f"{self.address} has another version of TVM", where="--remote",
                reason=f"the server has {theirs}, this side {tvm.__version__}",
                fix="copy the device files of this version there, see docs/arm.md",
            )  # fmt: skip

    def check_runs(self, target: TargetInfo) -> None:
        """Raise TargetError unless the machine, as far as it is known, runs code made for the target."""
        machine = _MACHINES.get(self.info.get("machine", ""), self.info.get("machine", ""))
        features = self.info.get("features")
        missing = [flag for flag in target.requires if features is not None and flag not in features.split(",")]
        reason = f"this CPU lacks {', '.join(missing)}"
        if machine and machine != target.arch:
            reason, missing = f"it is {target.arch} code and that machine is {machine}", [target.arch]
        if missing:
            raise TargetError(
                f"code for {target.name} cannot run on {self.address}", where=f"target {target.name}", reason=reason,
                fix="compile for that machine, see: lutc targets",
            )  # fmt: skip

    def use_threads(self, count: int) -> None:
        """Threads of a run there; no more than its pool was started with (TVM_NUM_THREADS)."""
        with self._guard("the number of threads"):
            self._session.get_function("runtime.config_threadpool")(_BIG_CORES, count)

    def load(self, library: Path) -> Any:
        """A virtual machine of a Relax VM library, on the other machine."""
        from tvm.runtime.vm import VirtualMachine

        self._files += 1
        name = f"model{self._files}.so"  # a loader knows a library by its path
        with self._guard(str(library)):
            self._session.upload(str(library), target=name)
            return VirtualMachine(self._session.load_module(name), self._session.cpu())

    def upload(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        """The arrays as tensors there."""
        import tvm

        with self._guard("the inputs"):
            return [tvm.runtime.tensor(np.ascontiguousarray(array), self._session.cpu()) for array in arrays]

    def call(self, machine: Any, arguments: Sequence[Any]) -> list[np.ndarray]:
        """The tensors that "main" gives, nested tuples flattened."""
        with self._guard("main"):
            machine.set_input("main", *arguments)
            machine.invoke_stateful("main")
            return [tensor.numpy() for tensor in _flatten(machine.get_outputs("main"))]

    def time(self, machine: Any, arguments: Sequence[Any], repeat: int) -> list[float]:
        """Seconds of each of `repeat` calls of "main", after a first one; taken there, without the network."""
        with self._guard("main"):
            machine.set_input("main", *arguments)
            machine.invoke_stateful("main")
            evaluate = machine.time_evaluator("invoke_stateful", self._session.cpu(), number=1, repeat=repeat)
            return list(evaluate("main").results)

    def run_many(self, runs: Sequence[tuple[Path, Sequence[np.ndarray]]]) -> list[list[np.ndarray]]:
        """Call "main" of several libraries, one after the other; each library is sent once."""
        machines: dict[Path, Any] = {}
        results = []
        for library, inputs in runs:
            if library not in machines:
                machines[library] = self.load(library)
            results.append(self.call(machines[library], self.upload(inputs)))
        return results

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Errors of the RPC layer, told as one of ours."""
        try:
            yield
        except LutcError:
            raise
        except (RuntimeError, AttributeError) as error:  # TVM's errors derive from RuntimeError
            raise VerifyError(
                f"a run on {self.address} failed", where=what, reason=self._relay.close() or _first_line(error),
                fix="look at the server's own output; it must be of this version of TVM, and run this artifact's code",
            ) from error  # fmt: skip

    def close(self) -> None:
        """End the connection; objects that live there are gone."""
        self._session = None
        self._relay.close()

    def __enter__(self) -> RemoteDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class RemoteSession:
    """An artifact on another machine, with the interface of Session: `inputs`, `outputs`, `run`.

    Libraries and constants are sent once. Raises what RemoteDevice raises, ArtifactError when the artifact is
    missing or damaged, TargetError when it is not for that machine, VerifyError when it cannot be loaded there.
    """

    def __init__(
        self, path: str | os.PathLike[str], address: str, *, threads: int | None = None, timeout: float = 600.0
    ) -> None:
        artifact = read_artifact(Path(path))
        self.path = Path(artifact.path)
        self.manifest: Manifest = artifact.manifest
        constants = load_constants(artifact)
        self.device = RemoteDevice(address, timeout=timeout)
        try:
            self.device.check_runs(self.manifest.target)
            if threads is not None:
                self.device.use_threads(threads)
            self._machines: dict[str, Any] = {}
            self._machine(LIBRARY_NAME)
            self._constants = dict(zip(constants, self.device.upload(list(constants.values())), strict=True))
        except BaseException:
            self.close()
            raise

    @property
    def inputs(self) -> list[TensorSpec]:
        """Name, dtype and shape of each input."""
        return list(self.manifest.inputs)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Name, dtype and shape of each output."""
        return list(self.manifest.outputs)

    def run(self, x: Any) -> dict[str, np.ndarray]:
        """Outputs by name; see Session.run. Raises VerifyError when the run fails or takes too long."""
        todo = plan(x, self.manifest, str(self.path))
        return todo.join([self.device.call(self._machine(p.library), self._arguments(p)) for p in todo.pieces])

    def run_many(self, xs: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """run() for several inputs."""
        return [self.run(x) for x in xs]

    def time(self, x: Any, *, repeat: int = 100) -> list[float]:
        """Seconds of each of `repeat` runs after a first one, without the network."""
        pieces = plan(x, self.manifest, str(self.path)).pieces
        times = [self.device.time(self._machine(p.library), self._arguments(p), repeat) for p in pieces]
        return [sum(run) for run in zip(*times, strict=True)]

    def _machine(self, library: str) -> Any:
        if library not in self._machines:
            self._machines[library] = self.device.load(self.path / library)
        return self._machines[library]

    def _arguments(self, piece: Piece) -> list[Any]:
        return [*self.device.upload(piece.arrays), *(self._constants[name] for name in piece.constants)]

    def close(self) -> None:
        """End the connection."""
        self._machines, self._constants = {}, {}
        self.device.close()

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _flatten(value: Any) -> Iterator[Any]:
    if hasattr(value, "numpy"):
        yield value
    else:
        for part in value:
            yield from _flatten(part)


def _first_line(error: BaseException) -> str:
    """Of TVM's message, without the heading that every remote error has."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    told = [line for line in lines if line and not line.startswith(("RPCError: Error caught", "Traceback", "File "))]
    return told[0] if told else type(error).__name__
