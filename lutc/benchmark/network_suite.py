"""Time whole networks: compiled here, in float and with tables, beside other engines that run the same file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lutc.artifact.manifest import Manifest
from lutc.artifact.store import read_artifact
from lutc.benchmark.baselines import PACKAGES, baseline_run, quantize_int8, usable_engines
from lutc.benchmark.machine import cpu_flags, cpu_name, versions
from lutc.benchmark.memory import peak_memory
from lutc.benchmark.network_compile import Compiled, compile_network
from lutc.benchmark.network_report import NetworkReport, NetworkRow, rows_kept
from lutc.benchmark.protocol import Timing, pinned, time_in_turns
from lutc.errors import ModelImportError
from lutc.inputs import random_inputs
from lutc.targets import check_runs_here, parse_target

ENGINES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8")
CODEBOOKS = ".codebooks.safetensors"
"""A network NAME.onnx is also compiled with tables where NAME.codebooks.safetensors lies beside it."""
_FLOAT, _TABLES, _INT8 = "lutc", "lutc-tables", "-int8"
_SAMPLES = 8
_SECONDS = 10.0
"""An engine that took so long together on a network is timed no further."""
Call = Callable[[], object]


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
    target: str = "native",
    threads: Sequence[int] = (1,),
    repeat: int = 50,
    remainder: str = "float32",
    keep: Path | None = None,
    resume: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> NetworkReport:
    """Compile and time the networks of a file or folder, engines in turns in one process, pinned to `threads` CPUs.

    Parameters
    ----------
    subject : an .onnx file with float layers, or a folder of such; see `CODEBOOKS` for tables.
    baselines : engines to compare with; those that are not installed are left out with a note.
    threads : numbers of threads, each measured by itself.
    repeat : timed runs of each, in turns of 10; fewer of an engine whose runs take more than `_SECONDS` together.
    remainder : "int8" also times ours with an int8 remainder, calibrated on random inputs as onnxruntime-int8 is.
    keep : a JSON file that gets the report after each network.
    resume : networks that `keep` has already are not measured again.
    progress : called with the name of each network before it is compiled.

    Raises
    ------
    ModelImportError : there is no network.
    LoweringError : one cannot be read or compiled.
    TargetError : the target is unknown or this machine cannot run it.
    VerifyError : an engine is unknown or cannot run a network.
    ArtifactError : `keep` holds something else, or was measured otherwise.
    """
    check_runs_here(parse_target(target))
    models = find_networks(subject)
    engines, remarks = usable_engines(baselines)
    details = _details(target, threads, repeat, engines, remainder)
    rows = rows_kept(keep, details) if resume and keep is not None else []
    report = NetworkReport(rows, details, remarks)
    done = {row.network for row in rows}
    try:
        for model in models:
            progress(model.stem)
            if model.stem not in done:
                report.rows += _measure(model, engines, target, threads, repeat, remainder)
                done.add(model.stem)
            if keep is not None:
                report.save(keep)
    except KeyboardInterrupt:
        report.interrupted = True
        report.remarks.append(f"Interrupted: {len(done)} of {len(models)} networks were measured.")
    return report


@dataclass
class _Subjects:
    """What is measured of a network: artifacts and other engines' files by engine, and inputs for all."""

    compiled: dict[str, Compiled]
    files: dict[str, Path]
    manifests: dict[str, Manifest]
    inputs: dict[str, np.ndarray]


def _measure(
    model: Path, engines: Sequence[str], target: str, threads: Sequence[int], repeat: int, remainder: str
) -> list[NetworkRow]:
    with tempfile.TemporaryDirectory(prefix="lutc-bench-") as scratch:
        folder = Path(scratch)
        subjects = _prepare(model, engines, target, folder, remainder)
        # the most threads first: TVM's workers keep the CPUs that they were started on
        rows = [_rows(model.stem, subjects, count, repeat, folder) for count in sorted(threads, reverse=True)]
    return [row for part in reversed(rows) for row in part]


def _prepare(model: Path, engines: Sequence[str], target: str, folder: Path, remainder: str) -> _Subjects:
    books, calibration = model.with_name(model.stem + CODEBOOKS), folder / "calibration.npz"
    wanted = {_FLOAT: None} | ({_TABLES: books} if books.is_file() else {})
    compiled = {name: compile_network(model, folder / f"{name}.lutc", target, book) for name, book in wanted.items()}
    specs = read_artifact(compiled[_FLOAT].path).manifest.inputs
    samples = [random_inputs(specs, seed) for seed in range(_SAMPLES)]
    if remainder == "int8":
        np.savez(calibration, **{name: np.concatenate([one[name] for one in samples]) for name in samples[0]})
        for name, book in wanted.items():
            output = folder / f"{name}{_INT8}.lutc"
            compiled[name + _INT8] = compile_network(model, output, target, book, calibration)
    integer = any(name.endswith("-int8") for name in engines)
    quantized = quantize_int8(model, samples, folder) if integer else model
    files = {name: quantized if name.endswith("-int8") else model for name in engines}
    manifests = {name: read_artifact(made.path).manifest for name, made in compiled.items()}
    return _Subjects(compiled, files, manifests, samples[0])


def _rows(network: str, subjects: _Subjects, threads: int, repeat: int, folder: Path) -> list[NetworkRow]:
    from lutc.runtime.session import load

    inputs, compiled = subjects.inputs, subjects.compiled
    with pinned(threads):
        sessions = {name: load(made.path, threads=threads) for name, made in compiled.items()}
        calls: dict[str, Call] = {name: _call(session, inputs) for name, session in sessions.items()}
        calls |= {name: baseline_run(name, file, inputs, threads) for name, file in subjects.files.items()}
        errors = _errors(calls, sessions)
        timings = time_in_turns(calls, repeat=repeat, seconds=_SECONDS)
        loads = {name: ("lutc", made.path) for name, made in compiled.items()}
        loads |= {name: (name, file) for name, file in subjects.files.items()}
        memory = {name: peak_memory(engine, path, inputs, folder, threads) for name, (engine, path) in loads.items()}
    rows = []
    for name, timing in timings.items():
        made, used = compiled.get(name), memory[name]
        row = NetworkRow(
            network=network, engine=name, threads=threads, min_us=timing.min_us, median_us=timing.median_us,
            p95_us=timing.p95_us, times=_ratio(timings, "onnxruntime", timing),
            times_int8=_ratio(timings, "onnxruntime-int8", timing), error=errors.get(name),
            macs=(made or compiled[_FLOAT]).macs, lookups=made.lookups if made else 0,
            bytes=_size(loads[name][1]), peak_bytes=used and used.peak_bytes, steady_bytes=used and used.steady_bytes,
            imported_bytes=used and used.imported_bytes, compile_s=made and made.seconds,
            compile_peak_bytes=made and made.peak_bytes,
            tables=sum(layer.kind == "lut" for layer in subjects.manifests[name].layers) if made else None,
        )  # fmt: skip
        rows.append(row)
    return rows


def _ratio(timings: Mapping[str, Timing], other: str, timing: Timing) -> float | None:
    return timings[other].min_us / timing.min_us if other in timings else None


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _call(session: Any, inputs: Mapping[str, np.ndarray]) -> Call:
    return lambda: session.run(inputs)


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


def _details(
    target: str, threads: Sequence[int], repeat: int, engines: Sequence[str], remainder: str
) -> dict[str, Any]:
    packages = ["lutc", "apache-tvm", *dict.fromkeys(PACKAGES[name] for name in engines)]
    return {
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
        "target": parse_target(target).name,
        "threads": list(threads),
        "runs": repeat,
        "remainder": remainder,
        "versions": versions(packages),
    }
