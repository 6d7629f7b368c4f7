"""The operators of `lutc bench --suite operators`, and how one is written on the command line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from lutc.config import LUTConfig
from lutc.errors import InputError

GRAMMAR = """\
conv2d CHANNELSxHEIGHTxWIDTH -> OUTPUTS KHxKW [sSTRIDE] [dDILATION]   e.g. "conv2d 64x56x56 -> 128 3x3 s2"
dense ROWSxINPUTS -> OUTPUTS                                          e.g. "dense 128x768 -> 3072\""""
_LARGEST = 1 << 30
_CONV = re.compile(r"conv2d\s+(\d+)x(\d+)x(\d+)\s*->\s*(\d+)\s+(\d+)x(\d+)(?:\s+s(\d+))?(?:\s+d(\d+))?")
_DENSE = re.compile(r"dense\s+(\d+)x(\d+)\s*->\s*(\d+)")


@dataclass(frozen=True)
class Operator:
    """One layer with relu: a conv of batch 1, padded by half its kernel, or a dense layer of `rows` rows.

    Parameters
    ----------
    kind : "conv2d" or "dense".
    inputs, outputs : channels, or features.
    size : height and width of the input of a conv.
    rows : rows of a dense layer.
    num_centroids, subvector_len, encode_dtype : K, V, and "int8", "int6" or "float32" search.
    encoder : "l2" or "tree".
    """

    kind: str
    inputs: int
    outputs: int
    size: tuple[int, int] = (1, 1)
    rows: int = 1
    kernel_shape: tuple[int, int] = (1, 1)
    stride: int = 1
    dilation: int = 1
    num_centroids: int = 16
    subvector_len: int = 16
    encode_dtype: str = "int8"
    encoder: str = "l2"

    @property
    def is_conv(self) -> bool:
        return self.kind == "conv2d"

    @property
    def name(self) -> str:
        """E.g. "conv 64->128 1x1/2 @56" (the size is that of the input) or "dense 128x768->3072 V16"."""
        search = "" if self.encoder == "l2" else f" {self.encoder}"
        search += "" if self.encode_dtype == "int8" else f" {self.encode_dtype}"
        if not self.is_conv:
            return f"dense {self.rows}x{self.inputs}->{self.outputs} V{self.subvector_len}{search}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        dilation = f" d{self.dilation}" if self.dilation > 1 else ""
        height, width = self.size
        size = f"{height}" if height == width else f"{height}x{width}"
        kernel = "x".join(map(str, self.kernel_shape))
        return f"conv {self.inputs}->{self.outputs} {kernel}{stride}{dilation} @{size}{search}"

    @property
    def depth(self) -> int:
        """D, the values that one output sums over."""
        return self.inputs * self.kernel_shape[0] * self.kernel_shape[1]

    @property
    def num_codebooks(self) -> int:
        return -(-self.depth // self.subvector_len)

    @property
    def largest_bytes(self) -> int:
        """Of its tensors in float32, patches included."""
        entries = self.num_codebooks * self.num_centroids
        patches = min(self.positions, 512) * self.num_codebooks * self.subvector_len
        weight, centroids, table = self.depth * self.outputs, entries * self.subvector_len, entries * self.outputs
        return 4 * max(math.prod(self.input_shape), math.prod(self.output_shape), patches, weight, centroids, table)

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        top, left = (self.dilation * (k - 1) // 2 for k in self.kernel_shape)
        return top, left, top, left

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of a conv's output; may be below 1 for a kernel larger than the image."""
        height, width = (
            (side + 2 * pad - self.dilation * (k - 1) - 1) // self.stride + 1
            for side, pad, k in zip(self.size, self.pads[:2], self.kernel_shape, strict=True)
        )
        return height, width

    @property
    def positions(self) -> int:
        """N, rows of a dense layer or output positions of a conv."""
        return self.output_size[0] * self.output_size[1] if self.is_conv else self.rows

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, self.inputs, *self.size) if self.is_conv else (self.rows, self.inputs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (1, self.outputs, *self.output_size) if self.is_conv else (self.rows, self.outputs)


def parse_operator(
    text: str, *, num_centroids: int = 16, subvector_len: int | None = None, encode_dtype: str = "int8",
    encoder: str = "l2",
) -> Operator:  # fmt: skip
    """The operator that a text describes (see GRAMMAR); V is by default what `LUTConfig` takes.

    Raises InputError for anything else, and for sizes that make no layer.
    """
    words = " ".join(text.split())
    conv, dense = _CONV.fullmatch(words), _DENSE.fullmatch(words)
    if conv is not None:
        channels, height, width, outputs, kh, kw, *rest = (int(n) if n else 1 for n in conv.groups())
        found = Operator(
            "conv2d", channels, outputs, (height, width), kernel_shape=(kh, kw), stride=rest[0], dilation=rest[1]
        )
    elif dense is not None:
        rows, inputs, outputs = map(int, dense.groups())
        found = Operator("dense", inputs, outputs, rows=rows)
    else:
        raise _error(text, "it is not written as an operator")
    numbers = [int(n) for n in (conv or dense).groups() if n]  # type: ignore[union-attr]
    if 0 in numbers:
        raise _error(text, "a size is 0")
    if found.is_conv and min(found.output_size) < 1:
        raise _error(text, f"a {found.kernel_shape[0]}x{found.kernel_shape[1]} kernel does not fit into the image")
    try:
        config = LUTConfig(num_centroids, subvector_len, encoder, encode_dtype)
    except ValueError as error:
        raise _error(
            text,
            str(error),
            "give --k from 2 to 256 and --v of at least 1; trees take a power of two, in int8 or float32",
        ) from error
    length = config.subvector_len_for(found.kernel_shape if found.is_conv else None)
    found = replace(
        found, num_centroids=num_centroids, subvector_len=length, encode_dtype=encode_dtype, encoder=encoder
    )
    if found.largest_bytes > _LARGEST:
        raise _error(text, "one of its tensors is larger than 1 GiB", "give smaller sizes")
    return found


def operator_suite(encode_dtype: str = "int8") -> list[Operator]:
    """Layers of ResNet-18, VGG-11 and BERT-base at their own sizes, batch 1; two of them also with a float32 search."""
    resnet = [_conv3(c, c, side) for c, side in ((64, 56), (128, 28), (256, 14), (512, 7))]
    vgg = [_conv3(*row) for row in ((64, 128, 112), (128, 256, 56), (256, 512, 28), (512, 512, 14))]
    shortcuts = [
        Operator("conv2d", c, 2 * c, (side, side), stride=2, subvector_len=4)
        for c, side in ((64, 56), (128, 28), (256, 14))
    ]
    bert = ((768, 768), (768, 3072), (3072, 768))
    dense = [Operator("dense", d, m, rows=128, subvector_len=v) for v in (16, 32) for d, m in bert]
    single = [Operator("dense", d, m) for d, m in bert]
    exact = [replace(_conv3(c, c, side), encode_dtype="float32") for c, side in ((64, 56), (512, 7))]
    layers = [*resnet, *vgg, *shortcuts, *dense, *single]
    return [replace(operator, encode_dtype=encode_dtype) for operator in layers] + exact


def _conv3(inputs: int, outputs: int, side: int) -> Operator:
    return Operator("conv2d", inputs, outputs, (side, side), kernel_shape=(3, 3), subvector_len=9)


def _error(text: str, reason: str, fix: str = GRAMMAR) -> InputError:
    return InputError("cannot read the operator", where=f"--op {text!r}", reason=reason, fix=fix)
