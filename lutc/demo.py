"""The main job on a bundled model: a residual CNN for handwritten digits, compiled for this machine and for arm64."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lutc.errors import ArtifactError, LutcError

if TYPE_CHECKING:
    from rich.console import Console

    from lutc.artifact.store import Artifact

_ALLOWED_LOSS = 0.01  # of test accuracy, float less compiled
_NEEDED_AGREEMENT = 0.995  # of predictions with torch's: float layers may round a near tie to the other side
_FILES = ("digits_lut.onnx", "digits_float.onnx", "digits_test.npz")


@dataclass(frozen=True)
class _Data:
    """The bundled test split and what torch predicted for it when the model was trained."""

    x: np.ndarray
    y: np.ndarray
    lut_prediction: np.ndarray
    float_prediction: np.ndarray
    facts: dict[str, Any]

    def accuracy(self, prediction: np.ndarray) -> float:
        return float((prediction == self.y).mean())


def run_demo(output: str | Path, *, emulate: bool | str = "auto", console: Console) -> int:
    """Write the model into `output`, compile it twice, run both on the whole test split, verify and time it.

    emulate : True fails where qemu is missing, "auto" says so and goes on, False leaves arm64 compiled but not run.
    Returns 0, or 1 when a check failed. Raises LutcError when something cannot be done.
    """
    started = time.perf_counter()
    folder = _prepare(Path(output))
    data = _load_data()
    host, arm64 = _compile(folder, "native", "host", console), _compile(folder, "arm64", "arm64", console)
    predictions = {"compiled, this machine": _predict_here(host, data)}
    emulated = _predict_emulated(arm64, data, emulate, console)
    if emulated is not None:
        predictions["compiled, arm64 under qemu"] = emulated
    _print_layers(host, console)
    passed = _print_accuracy(data, predictions, console)
    passed = _verify(host, folder, console) and passed
    _bench(host, folder, console)
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    console.out(f"\nFiles are in {folder}: {names}", highlight=False)
    console.print(f"{'All checks passed' if passed else 'A check FAILED'} in {time.perf_counter() - started:.1f} s.")
    return 0 if passed else 1


def _prepare(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            with resources.as_file(resources.files("lutc") / "data" / name) as source:
                shutil.copyfile(source, folder / name)
    except OSError as error:
        raise ArtifactError(
            "cannot write the demo's files", where=str(folder), reason=error.strerror or str(error),
            fix="choose a folder you may write to: lutc demo --output DIR",
        ) from error  # fmt: skip
    return folder


def _load_data() -> _Data:
    root = resources.files("lutc") / "data"
    with (root / "digits_test.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        values = {name: arrays[name] for name in ("x", "y", "lut_prediction", "float_prediction")}
    return _Data(**values, facts=json.loads((root / "digits.json").read_text(encoding="utf-8")))


def _compile(folder: Path, target: str, label: str, console: Console) -> Artifact:
    from lutc.compiler import compile

    console.print(f"\n$ lutc compile digits_lut.onnx --target={target} -o digits-{label}.lutc", highlight=False)

    def progress(phase: str, message: str, seconds: float) -> None:
        console.print(f"  {phase:<10}{message:<60}{seconds:5.1f} s", highlight=False)

    return compile(
        folder / "digits_lut.onnx", target, output=folder / f"digits-{label}.lutc", overwrite=True, progress=progress
    )


def _predict_here(artifact: Artifact, data: _Data) -> np.ndarray:
    from lutc.runtime.session import load

    session = load(artifact.path, threads=1)
    return np.array([_winner(session.run(image[None])) for image in data.x])


def _predict_emulated(artifact: Artifact, data: _Data, emulate: bool | str, console: Console) -> np.ndarray | None:
    if emulate is False:
        return None
    from lutc.runtime.emulated_session import EmulatedSession

    try:
        results = EmulatedSession(artifact.path).run_many([image[None] for image in data.x])
    except LutcError as error:
        if emulate is True:
            raise
        console.print(f"\narm64 is compiled but not run here: {error.reason}. To run it: {error.fix}", highlight=False)
        return None
    return np.array([_winner(result) for result in results])


def _winner(outputs: dict[str, np.ndarray]) -> int:
    (scores,) = outputs.values()
    return int(scores.argmax())


def _print_layers(artifact: Artifact, console: Console) -> None:
    from lutc.report.inspect import inspect

    console.out(f"\n{inspect(artifact.path)}", highlight=False)


def _print_accuracy(data: _Data, compiled: dict[str, np.ndarray], console: Console) -> bool:
    """Accuracies on the test split; compiled code must predict what torch did and stay near the float model."""
    from rich.table import Table

    table = Table("model", "accuracy", "same as torch", box=None, header_style="bold")
    rows = {"float, torch": data.float_prediction, "lookup tables, torch": data.lut_prediction} | compiled
    passed = True
    for name, prediction in rows.items():
        same = int((prediction == data.lut_prediction).sum())
        table.add_row(
            name, f"{100 * data.accuracy(prediction):.2f} %", f"{same}/{len(data.y)}" if name in compiled else ""
        )
        if name in compiled:
            loss = data.accuracy(data.float_prediction) - data.accuracy(prediction)
            passed = passed and loss <= _ALLOWED_LOSS and same >= _NEEDED_AGREEMENT * len(data.y)
    console.print(f"\n{len(data.y)} held-out handwritten digits:")
    console.print(table)
    return passed


def _verify(artifact: Artifact, folder: Path, console: Console) -> bool:
    """Against ONNX Runtime on the same file, where it is installed."""
    from lutc.verify import verify

    console.print("\n$ lutc verify digits-host.lutc --reference digits_lut.onnx", highlight=False)
    try:
        report = verify(artifact.path, folder / "digits_lut.onnx")
    except LutcError as error:
        console.print(f"  not verified: {error.reason}. To do so: {error.fix}", highlight=False)
        return True
    console.out(str(report), highlight=False)
    return bool(report.passed)


def _bench(artifact: Artifact, folder: Path, console: Console) -> None:
    from lutc.benchmark import benchmark

    console.print("\n$ lutc bench digits-host.lutc --against digits_float.onnx", highlight=False)
    try:
        report = benchmark(
            artifact.path, baselines=("onnxruntime", "onnxruntime-int8"), float_model=folder / "digits_float.onnx"
        )
        console.out(str(report), highlight=False)
    except LutcError as error:
        console.print(f"  not timed: {error.reason}. To do so: {error.fix}", highlight=False)
