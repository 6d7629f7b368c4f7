"""The inner loops of soft-PQ and of trees in C (kernels.c), built by the machine's C compiler when first used.

The same steps as separate torch operations read and write every [C, K, positions] array a dozen times. Where there is
no compiler (`CC`, else `cc`), the tensors are not float32 on a CPU, or LUTC_NN_KERNELS=0 says so, those run instead.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

_LIMIT, _LANES = 64, 16  # as in kernels.c, or a multiple
_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-march=native",
)
_WIDE = ("-mprefer-vector-width=512",)  # x86 only


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels.c, or None without a working compiler."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("LUTC_NN_KERNELS") == "0" or not command or shutil.which(command[0]) is None:
        return None
    source = Path(__file__).with_name("kernels.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        for flags in ((*_FLAGS, *_WIDE), _FLAGS):
            done = subprocess.run([*command, *flags, str(source), "-lm", "-o", str(library)], capture_output=True)
            if done.returncode == 0:
                return ctypes.CDLL(str(library))
    return None


def available() -> bool:
    """Whether the kernels were built here."""
    return _library() is not None


def usable(num_centroids: int, rows: int, x: Tensor) -> bool:
    """Whether the kernels take these sizes and this kind of tensor: `rows` of the grid that x would be gathered to."""
    fits = num_centroids <= _LIMIT and rows <= _LIMIT
    return fits and x.dtype == torch.float32 and x.device.type == "cpu" and available()


def codes(grid: Tensor, score: Tensor, num_centroids: int) -> Tensor:
    """Codes int32 [B, C, L] by score [C, K, V + 1], rounded down; see kernels.c."""
    batch, codebooks, _, positions = grid.shape
    found = torch.empty((batch, codebooks, positions), dtype=torch.int32)
    _call("lutc_codes", grid, num_centroids, grid, score, found)
    return found


def tree_codes(grid: Tensor, dims: Tensor, splits: Tensor) -> Tensor:
    """Codes int32 [B, C, L] of trees on grid [B, C, V, L]: dims int32 [C, levels], splits [C, K - 1] in its units."""
    batch, codebooks, _, positions = grid.shape
    found = torch.empty((batch, codebooks, positions), dtype=torch.int32)
    _call("lutc_tree_codes", grid, splits.shape[1] + 1, grid, dims, splits, found, ctypes.c_long(dims.shape[1]))
    return found


def backward(
    grid: Tensor,
    factors: Tensor,
    floor: float,
    upstream: Tensor,
    table: Tensor,
    codes: Tensor | None,
    pull: Tensor,
    drag: Tensor,
    to_columns: Tensor,
    to_table: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write to_columns [B, C, V, L] and add to to_table [C, K, M], by codes [B, C, L] where given; see kernels.c.

    Returns the moments [C, K, V + 1] and the gradient of the log temperature [].
    """
    codebooks, centroids = factors.shape[:2]
    moments = grid.new_zeros(codebooks, centroids, grid.shape[2] - 1)
    temperature = grid.new_zeros(codebooks)
    with _Upstream(upstream, to_table) as given:
        arrays = (grid, factors, ctypes.c_float(floor), *given.arrays, table, _int32(codes), pull, drag, to_columns)
        _call("lutc_backward", grid, centroids, *arrays, given.to_table, moments, temperature, *given.sizes)
    return moments, temperature.sum()


def tree_backward(
    grid: Tensor,
    dims: Tensor,
    thresholds: Tensor,
    step: Tensor,
    sharpness: float,
    upstream: Tensor,
    table: Tensor,
    codes: Tensor | None,
    to_columns: Tensor,
    to_table: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `backward`, for trees; returns the gradients of the thresholds [C, K - 1] and of the log temperature []."""
    to_thresholds = torch.zeros_like(thresholds)
    temperature = grid.new_zeros(len(thresholds))
    with _Upstream(upstream, to_table) as given:
        arrays = (grid, dims, thresholds, step, ctypes.c_float(sharpness), *given.arrays, table, _int32(codes))
        found = (to_columns, given.to_table, to_thresholds, temperature, ctypes.c_long(dims.shape[1]))
        _call("lutc_tree_backward", grid, thresholds.shape[1] + 1, *arrays, *found, *given.sizes)
    return to_thresholds, temperature.sum()


class _Upstream:
    """Upstream [B, M, L] as the kernels take it, and a table gradient of whole vectors that is added to `to_table`."""

    def __init__(self, upstream: Tensor, to_table: Tensor) -> None:
        outputs = upstream.shape[1]
        padding = -outputs % _LANES
        self.arrays = (upstream.contiguous(), F.pad(upstream.mT, (0, padding)).contiguous())
        self.sizes = (ctypes.c_long(outputs), ctypes.c_long(outputs + padding))
        self.to_table = to_table.new_zeros(*to_table.shape[:2], outputs + padding)
        self._sum = to_table

    def __enter__(self) -> _Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self._sum += self.to_table[:, :, : self._sum.shape[2]]


def _int32(codes: Tensor | None) -> Tensor | None:
    return None if codes is None else codes.int()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _call(
    name: str, grid: Tensor, num_centroids: int, *arguments: Tensor | ctypes.c_float | ctypes.c_long | None
) -> None:
    """Run a kernel, its codebooks shared out to as many threads as torch uses."""
    library = _library()
    assert library is not None
    kernel = getattr(library, name)
    values = [a if a is None or isinstance(a, (ctypes.c_float, ctypes.c_long)) else _pointer(a) for a in arguments]
    batch, codebooks, rows, positions = grid.shape
    sizes = [ctypes.c_long(size) for size in (batch, codebooks, num_centroids, rows, positions)]
    threads = min(torch.get_num_threads(), codebooks)
    if threads == 1:
        kernel(*values, *sizes, ctypes.c_long(0), ctypes.c_long(codebooks))
        return
    ends = [codebooks * part // threads for part in range(threads + 1)]

    def share(first: int, last: int) -> None:
        kernel(*values, *sizes, ctypes.c_long(first), ctypes.c_long(last))

    list(_pool(threads).map(share, ends[:-1], ends[1:]))
