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
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[Tensor | None, ctypes.c_float, ctypes.c_float, ctypes.c_float]
"""inv_scale [C] or None, lowest and highest integer, and the step between them."""

_LIMIT, _PART, _LANES = 64, 64, 16  # as in kernels.c, the lanes a multiple
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


def usable(num_centroids: int, subvector_len: int, x: Tensor) -> bool:
    """Whether the kernels take these sizes and this kind of tensor."""
    fits = num_centroids <= _LIMIT and subvector_len <= _LIMIT
    return fits and x.dtype == torch.float32 and x.device.type == "cpu" and available()


@dataclass(frozen=True)
class Windows:
    """Where columns of images lie in planes [B, C, channels, height, width]: images start at (top, left), zeros around
    them; `layout` is how the kernels find columns."""

    channels: int
    height: int
    width: int
    top: int
    left: int
    layout: Tensor


@functools.lru_cache(1024)
def layout(size: int, width: int, down: int, right: int, *elements: int) -> Tensor:
    """`windows` of kernels.c: floats a codebook, positions a row, steps down and right, and where elements lie."""
    return torch.tensor([size, width, down, right, *elements, *[0] * (_LIMIT - len(elements))])


@dataclass(frozen=True)
class Planes:
    """Inputs [B, C, ...] in which `layout` finds the columns [B, C, subvector_len, positions]; `windows` is None where
    they are columns already."""

    data: Tensor
    layout: Tensor
    subvector_len: int
    positions: int
    windows: Windows | None

    def sizes(self, num_centroids: int) -> list[ctypes.c_long]:
        sizes = (*self.data.shape[:2], num_centroids, self.subvector_len, self.positions)
        return [ctypes.c_long(size) for size in sizes]


def to_planes(x: Tensor, grid: Grid, windows: Windows, planes: Tensor) -> None:
    """Write planes [B, C, channels, height, width] of x [B, Cin, H, W]; whole numbers with inv_scale [C]."""
    _call("lutc_planes", planes.shape[1], x.contiguous(), *grid, planes, *_plane_sizes(x, windows, planes))


def from_planes(planes: Tensor, x: Tensor, grid: Grid, windows: Windows) -> Tensor:
    """What planes [B, C, channels, height, width] hold of x, shaped as x; zero where an input was clipped."""
    to_x = torch.empty(x.shape)
    inv_scale, low, high, _ = grid
    arrays = (planes, x.contiguous(), inv_scale, low, high, to_x)
    _call("lutc_from_planes", planes.shape[1], *arrays, *_plane_sizes(x, windows, planes))
    return to_x


def _plane_sizes(x: Tensor, windows: Windows, planes: Tensor) -> list[ctypes.c_long]:
    frame = (windows.top, windows.left, windows.height, windows.width)
    return [ctypes.c_long(size) for size in (*planes.shape[:2], windows.channels, *x.shape[1:], *frame)]


def codes(planes: Planes, score: Tensor, base: int) -> Tensor:
    """Codes int32 [B, C, L] by score [C, K, V + 1], rounded down; see kernels.c."""
    batch, codebooks = planes.data.shape[:2]
    found = torch.empty((batch, codebooks, planes.positions), dtype=torch.int32)
    sizes = planes.sizes(score.shape[1])
    _call("lutc_codes", codebooks, planes.data, planes.layout, score, ctypes.c_float(base), found, *sizes)
    return found


def tree_codes(planes: Planes, dims: Tensor, splits: Tensor) -> Tensor:
    """Codes int32 [B, C, L] of trees: dims int32 [C, levels], splits [C, K - 1] in units of the planes."""
    batch, codebooks = planes.data.shape[:2]
    found = torch.empty((batch, codebooks, planes.positions), dtype=torch.int32)
    sizes = (ctypes.c_long(dims.shape[1]), *planes.sizes(splits.shape[1] + 1))
    _call("lutc_tree_codes", codebooks, planes.data, planes.layout, dims, splits, found, *sizes)
    return found


def read(codes: Tensor, values: Tensor, scale: Tensor, y: Tensor, *, by_position: bool) -> None:
    """Write y [B, M, L], by_position [B, L, M]: values [C, K, M] at codes int32 [B, C, L], summed, times scale [M]."""
    batch, codebooks, positions = codes.shape
    values = F.pad(values, (0, -len(scale) % _LANES)).contiguous()
    sizes = (len(scale), values.shape[2], codebooks, values.shape[1], positions)
    arguments = (codes, values, scale, y, *(ctypes.c_long(size) for size in (by_position, *sizes)))
    _call("lutc_read", batch * -(-positions // _PART), *arguments)


def backward(
    planes: Planes,
    factors: Tensor,
    floor: float,
    upstream: Tensor,
    table: Tensor,
    codes: Tensor | None,
    pull: Tensor,
    drag: Tensor,
    metric: Tensor | None,
    to_planes: Tensor,
    to_table: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add to to_planes, shaped as the planes, and to_table [C, K, M], by codes [B, C, L] where given; see kernels.c.

    Returns the moments [C, K, V + 1] and the gradient of the log temperature [].
    """
    codebooks, centroids = factors.shape[:2]
    moments = factors.new_zeros(codebooks, centroids, planes.subvector_len + 1)
    temperature = factors.new_zeros(codebooks)
    with _Upstream(upstream, to_table) as given:
        search = (planes.data, planes.layout, factors, ctypes.c_float(floor))
        arrays = (*search, *given.arrays, table, _int32(codes), pull, drag, metric, to_planes)
        found = (given.to_table, moments, temperature)
        _call("lutc_backward", codebooks, *arrays, *found, *given.sizes, *planes.sizes(centroids))
    return moments, temperature.sum()


def tree_backward(
    planes: Planes,
    dims: Tensor,
    thresholds: Tensor,
    step: Tensor,
    sharpness: float,
    flips: bool,
    upstream: Tensor,
    table: Tensor,
    codes: Tensor | None,
    to_planes: Tensor,
    to_table: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `backward`, for trees: those of TreeFlips, else of SoftTree.

    Returns the gradients of the thresholds [C, K - 1] and of the log temperature [].
    """
    to_thresholds = torch.zeros_like(thresholds)
    temperature = thresholds.new_zeros(len(thresholds))
    with _Upstream(upstream, to_table) as given:
        trees = (planes.data, planes.layout, dims, thresholds, step, ctypes.c_float(sharpness))
        found = (to_planes, given.to_table, to_thresholds, temperature)
        sizes = (*map(ctypes.c_long, (flips, dims.shape[1])), *given.sizes, *planes.sizes(thresholds.shape[1] + 1))
        arrays = (*trees, *given.arrays, table, _int32(codes))
        _call("lutc_tree_backward", len(thresholds), *arrays, *found, *sizes)
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


def _call(name: str, shares: int, *arguments: Tensor | ctypes.c_float | ctypes.c_long | None) -> None:
    """Run a kernel, its codebooks or tiles shared out to as many threads as torch uses."""
    library = _library()
    assert library is not None
    kernel = getattr(library, name)
    values = [a if a is None or isinstance(a, (ctypes.c_float, ctypes.c_long)) else _pointer(a) for a in arguments]
    threads = min(torch.get_num_threads(), shares)
    if threads == 1:
        kernel(*values, ctypes.c_long(0), ctypes.c_long(shares))
        return
    ends = [shares * part // threads for part in range(threads + 1)]

    def share(first: int, last: int) -> None:
        kernel(*values, ctypes.c_long(first), ctypes.c_long(last))

    list(_pool(threads).map(share, ends[:-1], ends[1:]))
