"""Inputs as columns: the layout [B, C, V, L] that training works in, piece by piece, and the way back.

L runs over output positions, so that every operation on [B, C, K, L] is vectorised over them. A piece is a few images
or rows: its arrays stay in the cache, and nothing of size C * K * positions is ever held for a whole batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional as F

from lutc.nn import kernels
from lutc.nn.patches import conv_output_size

# Elements of one [B, C, K, L] array: 1 MiB of float32, half of a second-level cache. The kernels in C never hold one,
# so their pieces may be larger, for fewer calls; a GPU wants large launches.
_PIECE_CPU, _PIECE_KERNELS, _PIECE_GPU = 2**18, 2**20, 2**26


class Workspace:
    """Buffers that the pieces of a batch use one after another: allocating them anew costs more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tuple(shape) or buffer.dtype != like.dtype:
            buffer = self._buffers[name] = like.new_empty(shape)
        return buffer


class ConvColumns:
    """Patches of images: x [B, Cin, H, W] <-> columns [B, C, V, OH*OW], y [B, M, OH*OW] <-> [B, M, OH, OW]."""

    rows_first = False  # of outputs: channels are

    def __init__(
        self,
        num_codebooks: int,
        subvector_len: int,
        kernel_shape: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
    ) -> None:
        self.num_codebooks, self.subvector_len = num_codebooks, subvector_len
        self._kernel, self._strides, self._pads, self._dilations = kernel_shape, strides, pads, dilations

    def output_size(self, x: Tensor, outputs: int) -> tuple[int, ...]:
        return (x.shape[0], outputs, *self._out(x))

    def pieces(self, x: Tensor, num_centroids: int) -> Iterator[slice]:
        height, width = self._out(x)
        return _slices(x, self.num_codebooks * num_centroids * height * width)

    def shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """B, C, V, L."""
        height, width = self._out(x)
        return x.shape[0], self.num_codebooks, self.subvector_len, height * width

    def per_input(self, values: Tensor, x: Tensor) -> Tensor | None:
        """A value per codebook [C] as a factor of x, or None where one input belongs to several codebooks."""
        per_codebook = self._channels_each()
        return None if per_codebook is None else values.repeat_interleave(per_codebook)[: x.shape[1], None, None]

    def windows(self, x: Tensor) -> kernels.Windows | None:
        """Where columns lie in zero-bordered planes of x, or None where a codebook ends inside a channel."""
        each = self._channels_each()
        if each is None:
            return None
        (kh, kw), (dh, dw), (sh, sw) = self._kernel, self._dilations, self._strides
        top, left, bottom, right = self._pads
        height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
        elements = [
            (channel * height + i * dh) * width + j * dw
            for channel, i, j in itertools.product(range(each), range(kh), range(kw))
        ]
        layout = kernels.layout(each * height * width, self._out(x)[1], sh * width, sw, *elements)
        return kernels.Windows(each, height, width, top, left, layout)

    def gather(self, x: Tensor, out: Tensor) -> None:
        """Write columns [B, C, V, L]: channel first, then kernel row, then kernel column, zero-padded to C * V."""
        (kh, kw), (dh, dw), (sh, sw) = self._kernel, self._dilations, self._strides
        top, left, bottom, right = self._pads
        padded = F.pad(x, (left, right, top, bottom)).contiguous()
        (batch, channels), size = x.shape[:2], self._out(x)
        image, plane, row, column = padded.stride()
        strides = (image, plane, row * dh, column * dw, row * sh, column * sw)
        windows = padded.as_strided((batch, channels, kh, kw, *size), strides)
        per_codebook = self._channels_each()
        if per_codebook is not None and self.num_codebooks * per_codebook == channels:
            out = out.unflatten(3, size).unflatten(2, (per_codebook, kh, kw))
            out.copy_(windows.unflatten(1, (self.num_codebooks, per_codebook)))
        else:
            _split(windows.reshape(batch, channels * kh * kw, size[0] * size[1]), out)

    def scatter(self, columns: Tensor, x: Tensor) -> Tensor:
        """The transpose of gather: sums what one input element has in all its patches; shaped as x."""
        (kh, kw), (dh, dw), (sh, sw) = self._kernel, self._dilations, self._strides
        top, left, bottom, right = self._pads
        (batch, channels, rows, cols), (height, width) = x.shape, self._out(x)
        padded = x.new_zeros(batch, channels, rows + top + bottom, cols + left + right)
        flat = columns.reshape(batch, -1, height, width)[:, : channels * kh * kw]
        windows = flat.reshape(batch, channels, kh, kw, height, width)
        for i in range(kh):
            for j in range(kw):
                y, z = i * dh, j * dw
                target = padded[:, :, y : y + (height - 1) * sh + 1 : sh, z : z + (width - 1) * sw + 1 : sw]
                target += windows[:, :, i, j]
        return padded[:, :, top : top + rows, left : left + cols]

    def to_output(self, y: Tensor, x: Tensor) -> Tensor:
        """y [B, L, M] -> [B, M, OH, OW]."""
        return y.transpose(1, 2).reshape(y.shape[0], -1, *self._out(x))

    def from_output(self, y: Tensor) -> Tensor:
        """y [B, M, OH, OW] -> [B, M, L]."""
        return y.flatten(2)

    def _channels_each(self) -> int | None:
        """Channels of a codebook, or None where a codebook ends inside a channel."""
        channels, rest = divmod(self.subvector_len, self._kernel[0] * self._kernel[1])
        return None if rest else channels

    def _out(self, x: Tensor) -> tuple[int, int]:
        return conv_output_size(x.shape[2:], self._kernel, self._strides, self._pads, self._dilations)


class RowColumns:
    """Rows of a dense layer: x [N, D] <-> columns [1, C, V, N], y [1, M, N] <-> [N, M]."""

    rows_first = True  # of outputs

    def __init__(self, num_codebooks: int, subvector_len: int) -> None:
        self.num_codebooks, self.subvector_len = num_codebooks, subvector_len

    def output_size(self, x: Tensor, outputs: int) -> tuple[int, ...]:
        return (x.shape[0], outputs)

    def pieces(self, x: Tensor, num_centroids: int) -> Iterator[slice]:
        return _slices(x, self.num_codebooks * num_centroids)

    def shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """B, C, V, L."""
        return 1, self.num_codebooks, self.subvector_len, x.shape[0]

    def windows(self, x: Tensor) -> kernels.Windows | None:
        """None: rows are gathered."""
        return None

    def per_input(self, values: Tensor, x: Tensor) -> Tensor | None:
        """A value per codebook [C] as a factor of x."""
        return values.repeat_interleave(self.subvector_len)[: x.shape[1]]

    def gather(self, x: Tensor, out: Tensor) -> None:
        """Write columns [1, C, V, N], zero-padded to C * V."""
        if x.shape[1] == self.num_codebooks * self.subvector_len:
            out.copy_(x.T.unflatten(0, (self.num_codebooks, self.subvector_len))[None])
        else:
            _split(x.T[None], out)

    def scatter(self, columns: Tensor, x: Tensor) -> Tensor:
        return columns.reshape(-1, columns.shape[-1])[: x.shape[1]].T

    def to_output(self, y: Tensor, x: Tensor) -> Tensor:
        """y [1, N, M] -> [N, M]."""
        return y[0]

    def from_output(self, y: Tensor) -> Tensor:
        """y [N, M] -> [1, M, N]."""
        return y.T[None]


Columns = ConvColumns | RowColumns


def _split(columns: Tensor, out: Tensor) -> None:
    """[B, D, L] -> [B, C, V, L]; the last subvector is zero-padded."""
    missing = out.shape[1] * out.shape[2] - columns.shape[1]
    out.copy_(F.pad(columns, (0, 0, 0, missing)).reshape(out.shape))


def _slices(x: Tensor, elements_each: int) -> Iterator[slice]:
    on_cpu = _PIECE_KERNELS if kernels.available() else _PIECE_CPU
    step = max((on_cpu if x.device.type == "cpu" else _PIECE_GPU) // elements_each, 1)
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))
