"""Compile a network in a process of its own, so that the peak of its memory is that of one compile.

python -m lutc.benchmark.network_compile MODEL OUTPUT TARGET CODEBOOKS CALIBRATION    prints JSON; the last two: or ""
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lutc.benchmark.memory import resident
from lutc.errors import LoweringError, LutcError


@dataclass(frozen=True)
class Compiled:
    """An artifact and what it took.

    Parameters
    ----------
    seconds, peak_bytes : of the whole compile, from the import of the model to the written artifact; resident memory,
        0 where Linux's /proc is not.
    macs, lookups : multiplications and additions of layers with weights, and table entries that are added up, of a run.
    """

    path: Path
    seconds: float
    peak_bytes: int
    macs: int
    lookups: int


def compile_network(
    model: Path, output: Path, target: str, codebooks: Path | None = None, calibration: Path | None = None
) -> Compiled:
    """Compile a float model; with `calibration`, inputs in an .npz, what is no table is computed in int8.

    Raises LoweringError with what the compile said where it failed.
    """
    given = ["" if path is None else str(path) for path in (codebooks, calibration)]
    command = [sys.executable, "-m", "lutc.benchmark.network_compile", str(model), str(output), target, *given]
    done = subprocess.run(
        command, env={**os.environ, "TVM_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
        raise LoweringError(
            "cannot compile the network", where=str(model), reason=last[0], fix=f"see what lutc compile {model} says"
        )
    return Compiled(output, **json.loads(done.stdout.splitlines()[-1]))


def _compile(model: str, output: str, target: str, codebooks: str | None, calibration: str | None) -> dict[str, float]:
    start = time.perf_counter()
    from lutc.compiler import compile
    from lutc.importers import import_model
    from tvm_ext.transform import layer_shapes

    imported = import_model(model, codebooks=codebooks)
    sizes = layer_shapes(imported.mod)
    artifact = compile(
        imported, target, output=output, remainder="float32" if calibration is None else "int8",
        calibration=calibration, progress=lambda *told: None,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    tables = {layer.name: layer for layer in artifact.manifest.layers if layer.kind == "lut"}
    products = [size for size in sizes if size.name not in tables]
    return {
        "seconds": seconds,
        "peak_bytes": resident("VmHWM"),
        "macs": sum(size.rows * size.depth * size.outputs for size in products),
        "lookups": sum(
            size.rows * tables[size.name].num_codebooks * size.outputs for size in sizes if size.name in tables
        ),
    }


def main() -> None:
    model, output, target, codebooks, calibration = sys.argv[1:]
    try:
        print(json.dumps(_compile(model, output, target, codebooks or None, calibration or None)))
    except LutcError as error:
        print(f"{error.message}: {error.reason}".replace("\n", "; "), file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
