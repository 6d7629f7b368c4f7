"""Peak memory of an engine that loads a model and runs it: measured in a process of its own.

python -m lutc.benchmark.memory ENGINE MODEL INPUTS.npz THREADS      prints JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_RUNS = 5


@dataclass(frozen=True)
class Memory:
    """Bytes of resident memory: the peak of the whole process, and what it holds after the runs.

    imported_bytes : what it held before the model was loaded: the interpreter and the engine's library.
    """

    peak_bytes: int
    steady_bytes: int
    imported_bytes: int


def peak_memory(
    engine: str, model: Path, inputs: Mapping[str, np.ndarray], folder: Path, threads: int
) -> Memory | None:
    """Of `engine` ("lutc" with an artifact, or a baseline's name with an .onnx file); None where Linux's /proc is not.

    The artifact runs with TVM's runtime library alone, and no process can import torch: a deployed model has neither.
    """
    if not Path("/proc/self/status").is_file():
        return None
    file = folder / "memory-inputs.npz"
    np.savez(file, **inputs)
    command = [sys.executable, "-m", "lutc.benchmark.memory", engine, str(model), str(file), str(threads)]
    environment = {**os.environ, "TVM_USE_RUNTIME_LIB": "1", "TVM_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def resident(key: str) -> int:
    """Bytes that this process holds ("VmRSS"), or held at most ("VmHWM"); 0 where Linux's /proc is not."""
    if not Path("/proc/self/status").is_file():
        return 0
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    return 0


def _measure(engine: str, model: str, inputs: dict[str, np.ndarray], threads: int) -> Memory:
    sys.modules["torch"] = None  # type: ignore[assignment]
    if engine == "lutc":
        from lutc.runtime.session import load

        imported = resident("VmRSS")
        session = load(model, threads=threads)

        def call() -> object:
            return session.run(inputs)
    else:
        from lutc.benchmark.baselines import baseline_run, check_baselines

        check_baselines((engine,))
        imported = resident("VmRSS")
        call = baseline_run(engine, Path(model), inputs, threads)
    for _ in range(_RUNS):
        call()
    return Memory(resident("VmHWM"), resident("VmRSS"), imported)


def main() -> None:
    engine, model, file, threads = sys.argv[1:]
    with np.load(file, allow_pickle=False) as content:
        inputs = {name: content[name] for name in content.files}
    print(json.dumps(vars(_measure(engine, model, inputs, int(threads)))))


if __name__ == "__main__":
    main()
