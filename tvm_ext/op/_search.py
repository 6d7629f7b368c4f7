"""The attributes that say how codes are found, shared by encode, dense and conv2d, and their checks."""

from __future__ import annotations

from tvm import relax

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.op._register import check, dtype_of, int_tuple, present, static_shape

ENCODERS = ("l2",)
ENCODE_DTYPES = ("float32", "int8")


def patches_of(op: str, x: relax.Expr, attrs, quantized: str = "float32") -> Patches:
    """The rows that `x` gives under the geometry in `attrs`; raises ValueError if the geometry does not fit.

    x is float32, or `quantized` already. The attribute `image`, where set, is the shape of the image whose plane x is.
    """
    image = int_tuple(attrs["image"]) if "image" in attrs else ()
    shape = image or static_shape(x, op, "x")
    check(bool(image) or dtype_of(x) in ("float32", quantized), op, f"x must be float32, got {dtype_of(x)}")
    check(all(d > 0 for d in shape), op, f"x must not be empty, got shape {list(shape)}")
    kernel = int_tuple(attrs["kernel_shape"]) if "kernel_shape" in attrs else ()
    if not kernel:
        check(len(shape) >= 1, op, "x must have at least one axis")
        rows = 1
        for d in shape[:-1]:
            rows *= d
        return Patches((rows, shape[-1]))
    check(len(shape) == 4, op, f"x must be [B, C, H, W], got shape {list(shape)}")
    for name, count in (("kernel_shape", 2), ("strides", 2), ("pads", 4), ("dilations", 2)):
        check(len(attrs[name]) == count, op, f"{name} must have {count} values, got {list(int_tuple(attrs[name]))}")
    patches = Patches(
        shape, kernel, int_tuple(attrs["strides"]), int_tuple(attrs["pads"]), int_tuple(attrs["dilations"])
    )
    check(min(patches.strides + patches.dilations + kernel) > 0, op, "kernel, strides and dilations must be positive")
    check(min(patches.pads) >= 0, op, f"pads must not be negative, got {list(patches.pads)}")
    check(
        min(patches.output_size) > 0,
        op,
        f"kernel {kernel} (dilation {patches.dilations}) is larger than the padded input {patches.plane_shape[2:]}",
    )
    return patches


def search_of(op: str, attrs, zero_point: int = 0) -> Search:
    """The Search in `attrs`; raises ValueError on unknown encoders."""
    encoder, encode_dtype = str(attrs["encoder"]), str(attrs["encode_dtype"])
    check(encoder in ENCODERS, op, f"encoder must be one of {ENCODERS}, got {encoder!r}")
    check(encode_dtype in ENCODE_DTYPES, op, f"encode_dtype must be one of {ENCODE_DTYPES}, got {encode_dtype!r}")
    return Search(encode_dtype, bool(int(attrs["input_signed"])), zero_point)


def check_codebooks(
    op: str, patches: Patches, search: Search, centroids, inv_scale, score_bias
) -> tuple[int, int, int]:
    """(C, K, V) after checking shapes and dtypes of a logical codebook against D; raises ValueError."""
    shape = static_shape(centroids, op, "centroids")
    check(len(shape) == 3, op, f"centroids must be [C, K, V], got shape {list(shape)}")
    c, k, v = shape
    check(1 <= k <= 256, op, f"num_centroids must be in 1..256, got {k}")
    check(v >= 1, op, f"subvector_len must be at least 1, got {v}")
    check(c == -(-patches.depth // v), op,
          f"{c} codebooks of subvector_len {v} do not cover a row of {patches.depth} elements "
          f"(needs {-(-patches.depth // v)})")  # fmt: skip
    integer = search.encode_dtype == "int8"
    wanted = "int8" if integer else "float32"
    check(dtype_of(centroids) == wanted, op, f"centroids must be {wanted}, got {dtype_of(centroids)}")
    for name, expr, want_shape, want in (
        ("inv_scale", inv_scale, (c,), "float32"),
        ("score_bias", score_bias, (c, k), "int32"),
    ):
        check(
            present(expr) == integer, op, f"{name} {'is needed' if integer else 'must be absent'} with {wanted} encode"
        )
        if integer:
            check_tensor(op, name, expr, want_shape, want)
    return c, k, v


def check_tensor(op: str, name: str, expr, shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError unless `expr` is a tensor of `shape` and `dtype`."""
    got = static_shape(expr, op, name)
    check(got == shape, op, f"{name} must have shape {list(shape)}, got {list(got)}")
    check(dtype_of(expr) == dtype, op, f"{name} must be {dtype}, got {dtype_of(expr)}")


def check_same_centroids(op: str, centroids, table) -> None:
    """Raise ValueError unless the table has an entry for every centroid: a code is an index into both."""
    k, shape = static_shape(centroids, op, "centroids")[1], static_shape(table, op, "table")
    check(
        shape[1:2] == (k,), op, f"table must be [C, K, M] with K = {k} as the centroids have, got shape {list(shape)}"
    )
