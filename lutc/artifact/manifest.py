"""``manifest.json``: everything known about an artifact without running it."""

# pyright: reportGeneralTypeIssues=false
# (msgspec's stub names a class argument `dict`, which pyright then takes for the type)

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT_VERSION = 1
"""Raised by one when an older lutc could misread the artifact."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model input or output: its name, numpy dtype name, and shape.

    dims : the name of each axis's dimension, "" where its size is fixed; empty without `Dimension`s. With them `shape`
        has the largest sizes that there is code for.
    """

    name: str
    dtype: str
    shape: list[int]
    dims: list[str] = []

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.sizes))}]"

    @property
    def sizes(self) -> list[int | str]:
        """The size of each axis, or the name of its dimension."""
        return [name or size for name, size in zip(self.dims or [""] * len(self.shape), self.shape, strict=True)]


class Dimension(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A size that is chosen at each run.

    Parameters
    ----------
    lowest, highest : what it may be.
    sizes : what there is code for, ascending.
    handling : of other sizes: "split" into runs of these (entries are independent of each other), "pad" to the next
        (the code masks the padding), or "exact": there are none.
    """

    name: str
    lowest: int
    highest: int
    sizes: list[int]
    handling: Literal["split", "pad", "exact"]

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        if self.handling == "exact":
            return f"{self.name} {sizes}"
        how = "runs" if self.handling == "split" else "padded to"
        return f"{self.name} {self.lowest}..{self.highest} ({how} {'of ' * (self.handling == 'split')}{sizes})"


class ShapeCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The code for one size of every dimension: its library, and the constants that its main() takes last."""

    sizes: dict[str, int]
    library: str
    constants: list[str]


class LayerRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of one dense or conv layer.

    Parameters
    ----------
    kind : "lut", "integer" (quantized inputs and weights, of the model or of an int8 remainder), or "float" with the
        `reason` it stayed so.
    kernel : intrinsic or library kernel that computes it.
    num_centroids, subvector_len, num_codebooks, outputs : K, V, C, M; K = V = C = 0 for other layers.
    encoder, encode_dtype : "" for other layers.
    table_bytes : bytes of the packed tables, or of the stored weights of an integer layer.
    input_levels, weight_levels, weight_bits : of an integer layer: values that inputs and weights (in all, else in
        an output channel) may have, and bits a stored weight takes.
    level_error : of an integer layer whose levels were rounded: what that changes in its sums, relative to their
        standard deviation (measured where there were calibration inputs); 0 where the integers are exact.
    inv_scale, input_low, input_high : of a float layer computed in integers: its input becomes
        ``clip(round_half_even(x * inv_scale), input_low, input_high)``.
    input_mean : of that layer's input on the calibration inputs; what rounded weights change at it is in the bias.
    table_bits : bits of an entry; fewer than 8 where the kernel adds entries in int8.
    table_error : what the narrowing adds, root mean square of the sums' error over that of their spread.
    schedule : where the schedule came from: "rule", "database", or "" for a float layer.
    """

    name: str
    op: Literal["dense", "conv2d"]
    kind: Literal["lut", "integer", "float"]
    reason: str = ""
    kernel: str = ""
    num_centroids: int = 0
    subvector_len: int = 0
    num_codebooks: int = 0
    outputs: int = 0
    encoder: str = ""
    encode_dtype: str = ""
    table_dtype: str = ""
    table_bytes: int = 0
    input_levels: int = 0
    weight_levels: int = 0
    weight_bits: int = 0
    level_error: float = 0.0
    inv_scale: float = 0.0
    input_low: int = 0
    input_high: int = 0
    input_mean: float = 0.0
    table_bits: int = 0
    table_error: float = 0.0
    schedule: str = ""


class TargetInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine the code is for (see `lutc.targets.Target`); `requires` holds flags as /proc/cpuinfo names them."""

    name: str
    arch: str
    triple: str
    cpu: str
    attrs: list[str]
    requires: list[str]
    core: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model file compiled: its base name and SHA-256."""

    file: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the fields; `constants` names the tensors of constants.safetensors in the order main() takes them.

    With `dimensions`, `shapes` lists the code for every combination of their sizes; the first and largest is model.so.
    workspace_bytes : memory that a run allocates, as planned: activations, without constants, inputs and outputs.
    """

    format_version: int = FORMAT_VERSION
    name: str
    versions: dict[str, str]
    source: Source
    target: TargetInfo
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    layers: list[LayerRow]
    files: dict[str, str] = {}
    linker: str = ""
    constants: list[str] = []
    dimensions: list[Dimension] = []
    shapes: list[ShapeCode] = []
    workspace_bytes: int = 0
    created: str | None = None


class _VersionOnly(msgspec.Struct):
    format_version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """UTF-8 JSON with sorted keys: the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """The inverse of encode_manifest.

    Raises
    ------
    NewerFormatError : a later lutc wrote it.
    msgspec.DecodeError, msgspec.ValidationError : not JSON, or not what a manifest holds.
    """
    version = msgspec.json.decode(data, type=_VersionOnly).format_version
    if version > FORMAT_VERSION:
        raise NewerFormatError(version)
    return msgspec.json.decode(data, type=Manifest)


class NewerFormatError(ValueError):
    """The manifest has a format version that this lutc does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format_version {version} is newer than {FORMAT_VERSION}")
        self.version = version
