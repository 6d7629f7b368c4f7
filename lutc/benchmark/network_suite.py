"""Time whole networks: compiled here, in float and with tables, beside other engines that run the same file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lutc.benchmark.baselines import PACKAGES, baseline_run, quantize_int8, usable_engines
from lutc.benchmark.machine import cpu_flags, cpu_name, versions
from lutc.benchmark.memory import peak_memory
from lutc.benchmark.protocol import pinned, time_in_turns
from lutc.benchmark.suite_report import SuiteReport, SuiteRow
from lutc.errors import ModelImportError
from lutc.inputs import random_inputs
from lutc.report.base import Column
from lutc.targets import Target, check_runs_here, parse_target

if TYPE_CHECKING:
    from lutc.artifact.store import Artifact

ENGINES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
CODEBOOKS = ".codebooks.safetensors"
"""A network NAME.onnx is also compiled with tables where NAME.codebooks.safetensors lies beside it."""
_FLOAT, _TABLES, _INT8 = "lutc", "lutc-tables", "-int8"
_SAMPLES = 8
Call = Callable[[], object]


@dataclass(frozen=True)
class NetworkRow(SuiteRow):
    """One engine on one network, batch and sizes as in the file.

    Parameters
    ----------
    engine : "lutc" is all float, "lutc-tables" has the tables of the network's codebooks, "lutc-int8" and
        "lutc-tables-int8" the same with an int8 remainder; else another engine.
    times : the fastest run of onnxruntime in float32 over that of this engine; None where that was not measured.
    error : largest difference from onnxruntime's float32 output, relative to its largest value; for lutc alone.
    bytes : the file or artifact that the engine loads.
    peak_bytes, steady_bytes : resident memory of a fresh process, see `Memory`.
    compile_s : seconds to compile, for lutc.
    tables : layers that are lookup tables.
    """

    network: str
    engine: str
    threads: int
    min_us: float
    median_us: float
    p95_us: float
    times: float | None
    error: float | None
    bytes: int
    peak_bytes: int | None
    steady_bytes: int | None
    compile_s: float | None
    tables: int | None


@dataclass
class NetworkReport(SuiteReport):
    """Rows: NetworkRow; the engines of a network follow each other."""

    kind: ClassVar[str] = "networks"

    def columns(self) -> Sequence[Column]:
        return [
            Column("network", "network"),
            Column("engine", "engine"),
            Column("min_us", "min us", 0),
            Column("median_us", "median us", 0),
            Column("p95_us", "p95 us", 0),
            Column("times", "x onnxruntime", 2),
            Column("error", "error"),
            Column("bytes", "size"),
            Column("peak_bytes", "peak memory"),
            Column("compile_s", "compile s", 1),
            Column("tables", "tables"),
        ]


def find_networks(subject: str | Path) -> list[Path]:
    """The .onnx file itself, or those of a folder by name. Raises ModelImportError where there is none."""
    path = Path(subject)
    found = sorted(path.glob("*.onnx")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise ModelImportError(
            "there are no networks to time",
            where=str(path),
            reason="the folder holds no .onnx file" if path.is_dir() else "there is no such file or folder",
            fix="write some with examples/networks.py --output FOLDER, or give an .onnx file",
        )
    return found


def benchmark_networks(
    subject: str | Path,
    *,
    baselines: Sequence[str] = ENGINES,
    target: str | Target = "native",
    threads: int = 1,
    repeat: int = 50,
    remainder: str = "float32",
    progress: Callable[[str], None] = lambda name: None,
) -> NetworkReport:
    """Compile and time the networks of a file or folder, engines in turns in one process, pinned to `threads` CPUs.

    Parameters
    ----------
    subject : an .onnx file with float layers, or a folder of such; see `CODEBOOKS` for tables.
    baselines : engines to compare with; those that are not installed are left out with a note.
    repeat : timed runs of each, in turns of 10.
    remainder : "int8" also times ours with an int8 remainder, calibrated on random inputs as onnxruntime-int8 is.
    progress : called with the name of each network before it is compiled.

    Raises
    ------
    ModelImportError : there is no network, or one cannot be read.
    TargetError : the target is unknown or this machine cannot run it.
    VerifyError : an engine is unknown or cannot run a network.
    """
    goal = target if isinstance(target, Target) else parse_target(target)
    check_runs_here(goal)
    models = find_networks(subject)
    engines, remarks = usable_engines(baselines)
    report = NetworkReport([], _details(goal, threads, repeat, engines), remarks)
    try:
        for model in models:
            progress(model.stem)
            report.rows += _measure(model, engines, goal, threads, repeat, remainder)
    except KeyboardInterrupt:
        report.interrupted = True
        done = len({row.network for row in report.rows})
        report.remarks.append(f"Interrupted: {done} of {len(models)} networks were measured.")
    return report


def _measure(
    model: Path, engines: Sequence[str], target: Target, threads: int, repeat: int, remainder: str
) -> list[NetworkRow]:
    from lutc.runtime.session import load

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lutc-bench-")))
        artifacts, seconds = _compile(model, target, folder, remainder)
        stack.enter_context(pinned(threads))
        sessions = {name: load(artifact.path, threads=threads) for name, artifact in artifacts.items()}
        inputs = random_inputs(artifacts[_FLOAT].manifest.inputs)
        calls: dict[str, Call] = {name: _call(session, inputs) for name, session in sessions.items()}
        files = {name: _file_of(name, model, artifacts[_FLOAT].manifest.inputs, folder) for name in engines}
        calls |= {name: baseline_run(name, file, inputs, threads) for name, file in files.items()}
        errors = _errors(calls, sessions)
        timings = time_in_turns(calls, repeat=repeat)
        sizes = {name: artifact.size_bytes for name, artifact in artifacts.items()}
        sizes |= {name: file.stat().st_size for name, file in files.items()}
        runs = {name: ("lutc", artifact.path) for name, artifact in artifacts.items()}
        runs |= {name: (name, file) for name, file in files.items()}
        memory = {name: peak_memory(engine, path, inputs, folder, threads) for name, (engine, path) in runs.items()}
    rows = []
    for name, timing in timings.items():
        used, base = memory[name], timings.get("onnxruntime")
        tables = None
        if name in artifacts:
            tables = sum(layer.kind == "lut" for layer in artifacts[name].manifest.layers)
        row = NetworkRow(
            network=model.stem, engine=name, threads=threads, min_us=timing.min_us, median_us=timing.median_us,
            p95_us=timing.p95_us, times=None if base is None else base.min_us / timing.min_us,
            error=errors.get(name), bytes=sizes[name], peak_bytes=used.peak_bytes if used else None,
            steady_bytes=used.steady_bytes if used else None, compile_s=seconds.get(name), tables=tables,
        )  # fmt: skip
        rows.append(row)
    return rows


def _compile(model: Path, target: Target, folder: Path, remainder: str) -> tuple[dict[str, Artifact], dict[str, float]]:
    """Artifacts and seconds by engine."""
    from lutc.compiler import compile

    books = model.with_name(model.stem + CODEBOOKS)
    wanted: dict[str, dict[str, Any]] = {_FLOAT: {}} | ({_TABLES: {"codebooks": books}} if books.is_file() else {})
    artifacts: dict[str, Artifact] = {}
    seconds: dict[str, float] = {}

    def make(name: str, **options: Any) -> None:
        start = time.perf_counter()
        artifacts[name] = compile(model, target, output=folder / f"{name}.lutc", progress=_silent, **options)
        seconds[name] = time.perf_counter() - start

    for name, options in wanted.items():
        make(name, **options)
    if remainder == "int8":
        samples = [random_inputs(artifacts[_FLOAT].manifest.inputs, seed) for seed in range(_SAMPLES)]
        calibration = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
        for name, options in wanted.items():
            make(name + _INT8, remainder=remainder, calibration=calibration, **options)
    return artifacts, seconds


def _silent(*_told: object) -> None:
    pass


def _call(session: Any, inputs: Mapping[str, np.ndarray]) -> Call:
    return lambda: session.run(inputs)


def _file_of(engine: str, model: Path, specs: Sequence[Any], folder: Path) -> Path:
    if not engine.endswith("-int8"):
        return model
    made = folder / "int8.onnx"
    if made.is_file():
        return made
    return quantize_int8(model, [random_inputs(specs, seed) for seed in range(_SAMPLES)], folder)


def _errors(calls: Mapping[str, Call], sessions: Mapping[str, Any]) -> dict[str, float]:
    if "onnxruntime" not in calls:
        return {}
    wanted: Any = calls["onnxruntime"]()
    largest = max(float(np.abs(value).max()) for value in wanted) or 1.0
    found = {}
    for name in sessions:
        got: Any = calls[name]()
        pairs = zip(got.values(), wanted, strict=True)
        found[name] = max(float(np.abs(a - b).max()) for a, b in pairs) / largest
    return found


def _details(target: Target, threads: int, repeat: int, engines: Sequence[str]) -> dict[str, Any]:
    packages = ["lutc", "apache-tvm", *dict.fromkeys(PACKAGES[name] for name in engines)]
    return {
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
        "target": target.name,
        "threads": threads,
        "runs": repeat,
        "versions": versions(packages),
    }
