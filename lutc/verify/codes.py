"""The codes of one layer: compiled kernel against the definition, on inputs of the reference model."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lutc import reference
from lutc.artifact.manifest import TargetInfo
from lutc.importers.lut_layer import LUTLayer
from lutc.linker import find_linker
from lutc.targets import llvm_target
from lutc.verify.report import VerifyRow

if TYPE_CHECKING:
    from tvm_ext.encoder import EncodeKernel

NEAR_TIE = 1e-5
Encode = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
MakeEncode = Callable[[LUTLayer, tuple[int, ...]], Encode]
RunMany = Callable[[Sequence[tuple[Path, Sequence[np.ndarray]]]], list[list[np.ndarray]]]
"""(library, inputs of its "main") pairs -> the results of each, as `lutc.runtime.emulator.run_many`."""


def compiled_encode(target: TargetInfo, run_many: RunMany | None = None) -> MakeEncode:
    """(layer, input shape) -> the encode kernel that the compiler makes for a target: inputs -> codes of each.

    run_many : runs libraries of that target elsewhere; None runs the kernel in this process.
    """

    def make(layer: LUTLayer, shape: tuple[int, ...]) -> Encode:
        kernel = _kernel(layer, shape, target)

        def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            rows = [kernel.rows(x) for x in inputs]
            return [kernel.codes(result) for result in run_executable(kernel.executable, rows, target, run_many)]

        return encode

    return make


def _kernel(layer: LUTLayer, shape: tuple[int, ...], target: TargetInfo) -> EncodeKernel:
    from tvm_ext.encoder import build_encode

    table = layer.constants["table"]
    assert table is not None
    return build_encode(
        shape,
        *(
            layer.constants.get(name)
            for name in ("centroids", "inv_scale", "score_bias", "split_dims", "split_thresholds")
        ),
        target=llvm_target(target.triple, target.cpu, target.attrs, target.core),
        geometry=layer.geometry or None,
        table_dtype=table.dtype.name,
        encoder=layer.encoder,
        encode_dtype=layer.encode_dtype,
        input_signed=layer.input_signed,
        subvector_len=layer.subvector_len,
    )


def run_executable(
    executable: Any, inputs: Sequence[np.ndarray], target: TargetInfo, run_many: RunMany | None
) -> list[np.ndarray]:
    """The result of an executable's "main" for each input: in this process, or through `run_many`."""
    if run_many is None:
        import tvm
        from tvm import relax

        main = relax.VirtualMachine(executable, tvm.cpu())["main"]
        return [main(tvm.runtime.tensor(x)).numpy() for x in inputs]
    with tempfile.TemporaryDirectory(prefix="lutc-verify-") as scratch:
        library = Path(scratch) / "layer.so"
        executable.export_library(str(library), fcompile=find_linker(target).fcompile())
        return [results[0] for results in run_many([(library, [x]) for x in inputs])]


def compare_codes(layer: LUTLayer, inputs: Sequence[np.ndarray], make: MakeEncode) -> VerifyRow:
    """Every code of every input; a float search may differ where two centroids are equally near up to rounding."""
    compared = flips = near_ties = 0
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    for x in inputs:
        by_shape[x.shape].append(x)
    pairs = [pair for shape, xs in by_shape.items() for pair in zip(xs, make(layer, shape)(xs), strict=True)]
    for x, got in pairs:
        if layer.geometry:
            got = got.transpose(0, 2, 3, 1)
        expected = reference.codes(layer, x)
        different = got != expected
        near = int(_near_ties(layer, x, got, expected, different).sum()) if different.any() else 0
        compared, near_ties = compared + expected.size, near_ties + near
        flips += int(different.sum()) - near
    return VerifyRow(layer.name, "codes", compared, flips == 0, flips=flips, near_ties=near_ties, encoder=layer.encoder)


def _near_ties(
    layer: LUTLayer, x: np.ndarray, got: np.ndarray, expected: np.ndarray, different: np.ndarray
) -> np.ndarray:
    """Of the codes that differ, which ones are as near as the expected ones, to one part in 10^5 of the terms."""
    if layer.encode_dtype != "float32" or layer.encoder == "tree":
        return np.zeros(int(different.sum()), bool)  # neither integers nor comparisons are rounded
    rows, _ = reference.layer_rows(layer, x)
    count = rows.shape[1]
    at, codebook = np.nonzero(different.reshape(-1, count))
    sub = rows[at, codebook]
    codes = (array.reshape(-1, count)[at, codebook] for array in (got, expected))
    (far, _), (near, terms) = (reference.distances(layer, sub, codebook, code) for code in codes)
    return np.abs(far - near) <= NEAR_TIE * terms
