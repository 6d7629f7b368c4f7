"""Does an artifact compute what its model says? Outputs against ONNX Runtime, codes against the definition."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lutc.artifact.manifest import Manifest
from lutc.artifact.store import read_artifact
from lutc.errors import InputError
from lutc.importers.codebooks import Codebooks
from lutc.inputs import random_inputs
from lutc.runtime.sizes import some_sizes, specs_at
from lutc.verify.codes import MakeEncode, RunMany, compare_codes, compiled_encode
from lutc.verify.integers import compare_sums
from lutc.verify.reference_model import ReferenceModel, find_reference, narrowed_layers
from lutc.verify.report import VerifyReport, VerifyRow

__all__ = ["VerifyReport", "VerifyRow", "verify"]

TOLERANCE = 1e-4
Feeds = dict[str, np.ndarray]


def verify(
    artifact: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    codebooks: Codebooks | str | os.PathLike[str] | None = None,
    samples: int = 8,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    per_layer: bool = True,
    emulate: bool = False,
    remote: str | None = None,
    make_encode: MakeEncode | None = None,
) -> VerifyReport:
    """Run an artifact and its ONNX model on the same inputs and compare.

    A run agrees when its largest error, over the output's largest magnitude, is at most 1e-4. A code that is nearly a
    tie may fall either way, so runs may be apart, but no more of them, and at most twice as far, as the reference is
    from itself when the inputs of its table layers are off by 3e-6. A layer passes when its kernel gives the code of
    the definition (`lutc.reference`) for every subvector of its input in the reference; codes of a float search may
    differ where two centroids are equally near to one part in 10^5.

    Float layers that the artifact computes in int8 are compared with the same integers in ONNX Runtime, and each
    layer's sums with numpy's, which they must equal; tables that the compiler narrowed for the target are compared as
    the artifact has them. Remarks tell how far either moves the outputs.

    Parameters
    ----------
    artifact : the artifact folder.
    reference : the .onnx model; None looks for the one it was compiled from, beside it and in the working directory.
    inputs : {input name: array}, of the model's shape or of several such along the first axis; None makes random ones.
    codebooks : what the artifact was compiled with, where the reference is a float model.
    samples : random inputs to make, in runs of the model's batch size.
    sizes : of an artifact with dimensions, their sizes in random inputs; without any, half of the runs have the largest
        sizes that there is code for, and the others one choice of other sizes.
    per_layer : also compare the codes of every table layer.
    emulate : run an AArch64 artifact, and the kernels of its layers, in the emulator.
    remote : "HOST:PORT" of a machine to run them on instead; see `lutc.runtime.remote`.
    make_encode : (layer, input shape) -> function from the layer's input to its codes; by default the kernel that the
        compiler makes for the artifact's target.

    Raises
    ------
    VerifyError : there is no reference, or it is not of this artifact.
    InputError, ArtifactError, TargetError, ModelImportError : what was given cannot be used.
    """
    manifest = read_artifact(Path(artifact)).manifest
    if isinstance(codebooks, (str, os.PathLike)):
        codebooks = Codebooks.load(codebooks)
    path = find_reference(artifact, manifest, reference)
    model = ReferenceModel(path, manifest, codebooks)
    feeds = _runs(manifest, inputs, samples, seed, sizes)
    with _place(artifact, emulate, remote) as (run_all, run_libraries):
        got = run_all(feeds)
        expected = [model.run(feed) for feed in feeds]
        moved = [run for feed in feeds for run in model.run_nudged(feed)]
        rows = [_compare_output(spec.name, got, expected, moved) for spec in manifest.outputs]
        if per_layer:
            make = make_encode or compiled_encode(manifest.target, run_libraries)
            for name, tensor in model.layer_inputs.items():
                read = [run[tensor] for run in expected]
                if name in model.integers:
                    rows.append(compare_sums(model.integers[name], read, manifest.target, run_libraries))
                else:
                    rows.append(compare_codes(model.layers[name], read, make))
    remarks = []
    if model.sha256 != manifest.source.sha256:
        remarks.append("The reference is not the file that the artifact was compiled from.")
    if narrowed_layers(manifest):
        exact = ReferenceModel(path, manifest, codebooks, narrow=False)
        remarks.append(_narrowing(manifest, expected, [exact.run(feed) for feed in feeds]))
    if model.integers:
        exact = ReferenceModel(path, manifest, codebooks, integers=False)
        moved = _moved(manifest, expected, [exact.run(feed) for feed in feeds])
        count = len(model.integers)
        remarks.append(f"{count} float layer{' is' if count == 1 else 's are'} computed in int8. {moved}")
    return VerifyReport(rows, str(artifact), model.path, len(feeds), remarks)


def _narrowing(manifest: Manifest, narrow: Sequence[Feeds], exact: Sequence[Feeds]) -> str:
    """What narrower tables do to the outputs."""
    layers = narrowed_layers(manifest)
    bits = min(row.table_bits for row in layers)
    return (
        f"{len(layers)} tables have {bits} bits, for the target's sake (compile --exact forbids it). "
        f"{_moved(manifest, narrow, exact)}"
    )


def _moved(manifest: Manifest, values: Sequence[Feeds], exact: Sequence[Feeds]) -> str:
    rows = [_compare_output(spec.name, values, exact, []) for spec in manifest.outputs]
    moved = ", ".join(f"{row.name} by {row.max_rel_error:.2g}" for row in rows)
    return f"Over its largest magnitude that moves {moved}."


def _runs(
    manifest: Manifest,
    inputs: Mapping[str, np.ndarray] | None,
    samples: int,
    seed: int,
    sizes: Mapping[str, int] | None,
) -> list[Feeds]:
    """The inputs cut into runs of the model's shape, or random ones."""
    if manifest.dimensions and inputs is not None:
        return [dict(inputs)]
    if manifest.dimensions:
        choices = [specs_at(manifest, chosen) for chosen in ([sizes] if sizes else [{}, some_sizes(manifest, seed)])]
        return [random_inputs(choices[index % len(choices)], seed + index) for index in range(samples)]
    if inputs is None:
        batch = next((spec.shape[0] for spec in manifest.inputs if spec.shape), 1)
        return [random_inputs(manifest.inputs, seed + index) for index in range(-(-samples // batch))]
    pieces = {spec.name: _cut(inputs, spec.name, spec.shape) for spec in manifest.inputs}
    counts = {len(piece) for piece in pieces.values()}
    if len(counts) > 1:
        raise InputError(
            "the inputs hold different numbers of runs",
            where="inputs",
            reason=", ".join(f"{name} {len(piece)}" for name, piece in pieces.items()),
            fix="give as many samples of each input",
        )
    return [{name: piece[index] for name, piece in pieces.items()} for index in range(counts.pop())]


def _cut(inputs: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> list[np.ndarray]:
    """Runs of the model's batch size; an array that cannot be cut is left for the run to complain about."""
    if name not in inputs:
        raise InputError(
            f"missing input {name!r}",
            where="inputs",
            reason=f"given are {', '.join(map(str, inputs)) or 'none'}",
            fix=f"add an array called {name!r}",
        )
    array = np.asarray(inputs[name])
    cuttable = shape and array.ndim == len(shape) and list(array.shape[1:]) == list(shape[1:])
    if not cuttable or len(array) % shape[0]:
        return [array]
    return np.split(array, len(array) // shape[0]) if len(array) else [array]


@contextlib.contextmanager
def _place(
    artifact: str | os.PathLike[str], emulate: bool, remote: str | None
) -> Iterator[tuple[Callable[[Sequence[Feeds]], list[Feeds]], RunMany | None]]:
    """Where things run: what runs the artifact, and what runs single libraries (None for this process)."""
    if remote is not None:
        from lutc.runtime.remote import RemoteSession

        with RemoteSession(artifact, remote) as session:
            yield session.run_many, session.device.run_many
    elif emulate:
        from lutc.runtime import emulator
        from lutc.runtime.emulated_session import EmulatedSession

        emulated = EmulatedSession(artifact)
        yield emulated.run_many, functools.partial(emulator.run_many, cpu=emulated.cpu)
    else:
        from lutc.runtime.session import load

        here = load(artifact)
        yield (lambda feeds: [here.run(feed) for feed in feeds]), None


def _compare_output(name: str, got: Sequence[Feeds], expected: Sequence[Feeds], moved: Sequence[Feeds]) -> VerifyRow:
    values, truth = ([run[name].astype(np.float64) for run in runs] for runs in (got, expected))
    scale = max(float(np.abs(np.where(np.isfinite(run), run, 0)).max(initial=0)) for run in truth) or 1.0
    errors = [_largest(value, true) / scale for value, true in zip(values, truth, strict=True)]
    per_run = len(moved) // len(expected)
    noise = [_largest(run[name], truth[index // per_run]) / scale for index, run in enumerate(moved)]
    unsettled = {index // per_run for index, size in enumerate(noise) if size > TOLERANCE}
    apart = sum(error > TOLERANCE for error in errors)
    tolerance = max(TOLERANCE, 2 * max(noise, default=0.0))
    worst = max(errors, default=0.0)
    return VerifyRow(
        name,
        "output",
        sum(run.size for run in values),
        worst <= tolerance and apart <= len(unsettled),
        max_abs_error=worst * scale,
        max_rel_error=worst,
        tolerance=tolerance if unsettled else TOLERANCE,
        runs_apart=apart,
        apart_allowed=len(unsettled),
    )


def _largest(values: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference; equal infinities and NaN in both are no difference, NaN in one is infinite."""
    same = (values == truth) | (np.isnan(values) & np.isnan(truth))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(values - truth))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))
