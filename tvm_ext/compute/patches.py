"""Where the elements of a subvector lie: rows of a matrix, or windows of an image read in place (no im2col)."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx


@dataclass(frozen=True)
class Patches:
    """Rows to encode. Dense: x float32 [rows, depth]. Conv: x float32 [batch, channels, height, width].

    A conv's patch is flattened as ``d = (channel * kh + i) * kw + j``; `pads` is (top, left, bottom, right).
    """

    shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def geometry(self) -> dict[str, tuple[int, ...]]:
        """Of a conv, as the ops' attributes are called."""
        return {
            "kernel_shape": self.kernel, "strides": self.strides, "pads": self.pads, "dilations": self.dilations
        }  # fmt: skip

    @property
    def is_conv(self) -> bool:
        return len(self.shape) == 4

    @property
    def batch(self) -> int:
        """Images, or 1 for a matrix."""
        return self.shape[0] if self.is_conv else 1

    @property
    def taps(self) -> int:
        """Elements of a patch that one channel gives."""
        return self.kernel[0] * self.kernel[1]

    @property
    def depth(self) -> int:
        """Elements of a row (D)."""
        return self.shape[1] * self.taps

    @property
    def output_size(self) -> tuple[int, int]:
        """(OH, OW) of a conv; not positive if the kernel does not fit."""
        (kh, kw), (_, _, height, width) = self.kernel, self.shape
        top, left, bottom, right = self.pads
        return (
            (height + top + bottom - self.dilations[0] * (kh - 1) - 1) // self.strides[0] + 1,
            (width + left + right - self.dilations[1] * (kw - 1) - 1) // self.strides[1] + 1,
        )

    @property
    def rows(self) -> int:
        """Rows an image gives (OH * OW), or of the matrix."""
        if not self.is_conv:
            return self.shape[0]
        out_h, out_w = self.output_size
        return out_h * out_w

    @property
    def plane_shape(self) -> tuple[int, int, int, int]:
        """The input with its zero border."""
        batch, channels, height, width = self.shape
        top, left, bottom, right = self.pads
        return (batch, channels, height + top + bottom, width + left + right)

    def whole_channels(self, length: int) -> bool:
        """Whether subvectors of `length` never split a channel."""
        return length % self.taps == 0

    def element(self, x, b, n, codebook, length: int, i):
        """Element i of a subvector of row n of image b; zero outside of the image and behind the row's last element."""
        d = codebook * length + i
        inside = [] if self.depth % length == 0 else [d < self.depth]
        if not self.is_conv:
            return tirx.if_then_else(inside[0], x[n, d], _zero(x)) if inside else x[n, d]
        channel, h, w = self._window(n, d)
        h, w = h - self.pads[0], w - self.pads[1]
        inside += [h >= 0, h < self.shape[2], w >= 0, w < self.shape[3]]
        return tirx.if_then_else(tirx.all(*inside), x[b, channel, h, w], _zero(x))

    def _window(self, n, d):
        (kh, kw), out_w = self.kernel, self.output_size[1]
        h = n // out_w * self.strides[0] + d % (kh * kw) // kw * self.dilations[0]
        w = n % out_w * self.strides[1] + d % kw * self.dilations[1]
        return d // (kh * kw), h, w


def _zero(x):
    return tirx.const(0, x.dtype)
