"""`benchmark`: an artifact's time and size beside those of other engines that run the float model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lutc.artifact.manifest import TensorSpec
from lutc.artifact.store import Artifact, read_artifact
from lutc.benchmark.baselines import PACKAGES, baseline_run, check_baselines, quantize_int8
from lutc.benchmark.machine import cpu_name, version
from lutc.benchmark.protocol import Timing, pinned, time_in_turns
from lutc.errors import VerifyError
from lutc.inputs import random_inputs
from lutc.report.base import Column, Report
from lutc.runtime.sizes import specs_at
from lutc.targets import check_runs_here

_SAMPLES = 8


@dataclass
class BenchmarkReport(Report):
    """Rows: engine, model, min_us, median_us, times (median over that of the artifact), bytes; the artifact first."""

    details: dict[str, Any] = field(default_factory=dict)
    alone: str = "Nothing to compare with: give the float model (--against MODEL)."

    kind: ClassVar[str] = "benchmark"

    def columns(self) -> Sequence[Column]:
        return [
            Column("engine", "engine"),
            Column("model", "model"),
            Column("min_us", "min us", 1),
            Column("median_us", "median us", 1),
            Column("times", "x artifact", 2),
            Column("bytes", "size"),
        ]

    def facts(self) -> Mapping[str, Any]:
        return self.details

    def notes(self) -> Sequence[str]:
        if len(self.rows) == 1:
            return (self.alone,)
        return [_compare(row) for row in self.rows[1:]]


def _compare(row: Mapping[str, Any]) -> str:
    times = row["times"]
    word = f"{times:.2f}x faster" if times >= 1 else f"{1 / times:.2f}x slower"
    return f"The artifact is {word} than {row['engine']} (medians)."


def benchmark(
    subject: str | Path,
    *,
    baselines: Sequence[str] = ("onnxruntime",),
    float_model: str | Path | None = None,
    sizes: Mapping[str, int] | None = None,
    repeat: int = 100,
    threads: int = 1,
) -> BenchmarkReport:
    """Time an artifact on random inputs, in turns with other engines, pinned to `threads` CPUs.

    Parameters
    ----------
    subject : an artifact folder for this machine.
    baselines : "onnxruntime" runs `float_model` as it is (also an annotated one), "onnxruntime-int8" a static
        per-channel int8 copy of it, calibrated on random inputs: its speed is right, its accuracy is not looked at;
        "openvino-int8" the same copy.
    float_model : .onnx file the baselines run; without it only the artifact is timed.
    sizes : of an artifact with dimensions; others are as large as there is code for.
    repeat : timed runs of each, in turns of 10.

    Raises
    ------
    ArtifactError, TargetError : the artifact is damaged or not for this machine.
    VerifyError : an engine is unknown, not installed, or cannot run the model.
    """
    artifact = read_artifact(subject)
    check_runs_here(artifact.manifest.target)
    chosen = tuple(baselines) if float_model is not None else ()
    check_baselines(chosen)
    specs = specs_at(artifact.manifest, sizes)
    with ExitStack() as stack:
        cpus = stack.enter_context(pinned(threads))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lutc-bench-")))
        models = {name: _model_of(name, Path(float_model or ""), specs, folder) for name in chosen}
        calls = {"lutc": _artifact_call(artifact, specs, threads)}
        inputs = random_inputs(specs)
        calls |= {name: baseline_run(name, model, inputs, threads) for name, model in models.items()}
        timings = time_in_turns(calls, repeat=repeat)
        sizes = {name: model.stat().st_size for name, model in models.items()}
    rows = [artifact_row(artifact, timings["lutc"])]
    rows += [_row(name, Path(float_model or "").name, timings[name], timings["lutc"], sizes[name]) for name in chosen]
    return BenchmarkReport(rows, _details(artifact, threads, cpus, repeat, chosen))


def _artifact_call(artifact: Artifact, specs: Sequence[TensorSpec], threads: int) -> Callable[[], object]:
    from lutc.runtime.session import load

    session = load(artifact.path, threads=threads)
    inputs = random_inputs(specs)
    return lambda: session.run(inputs)


def _model_of(name: str, model: Path, specs: Sequence[TensorSpec], folder: Path) -> Path:
    if not name.endswith("-int8"):
        return model
    if _is_annotated(model):
        raise VerifyError(
            f"{name} needs a float model",
            where=str(model),
            reason="its layers are lookup tables already",
            fix="give the float model it was made from, or --baseline onnxruntime",
        )
    samples = [random_inputs(specs, seed) for seed in range(_SAMPLES)]
    return quantize_int8(model, samples, folder)


def _is_annotated(model: Path) -> bool:
    from lutc.importers.onnx_file import load_onnx

    return any(node.domain == "lutc" for node in load_onnx(model).graph.node)


def artifact_row(artifact: Artifact, timing: Timing) -> dict[str, Any]:
    """The first row of a report."""
    return _row("lutc", artifact.path.name, timing, timing, artifact.size_bytes)


def _row(engine: str, model: str, timing: Timing, ours: Timing, size: int) -> dict[str, Any]:
    return {
        "engine": engine,
        "model": model,
        "min_us": timing.min_us,
        "median_us": timing.median_us,
        "times": timing.median_us / ours.median_us,
        "bytes": size,
    }


def _details(artifact: Artifact, threads: int, cpus: list[int], repeat: int, chosen: Sequence[str]) -> dict[str, Any]:
    engines = {PACKAGES[name]: version(PACKAGES[name]) for name in chosen}
    return {
        "artifact": str(artifact.path),
        "target": artifact.manifest.target.name,
        "machine": cpu_name(),
        "threads": threads,
        "pinned_to_cpus": cpus,
        "runs": repeat,
        "onnxruntime": None,
        **engines,
    }
