"""The attributes that say how codes are found, shared by encode, dense and conv2d, and their checks."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import GRID, Search
from tvm_ext.op._register import check, dtype_of, int_tuple, optional, present, static_shape

ENCODERS = ("l2", "tree")
ENCODE_DTYPES = ("float32", *GRID)


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
    check(encoder == "l2" or encode_dtype != "int6", op, f"{encoder} encode has no int6 form")
    return Search(encode_dtype, bool(int(attrs["input_signed"])), zero_point, encoder)


def check_codebooks(
    op: str, patches: Patches, search: Search, centroids, inv_scale, score_bias, trees: Sequence = (), length: int = 0
) -> tuple[int, int, int]:
    """(C, K, V) after checking shapes and dtypes of a logical codebook against D; raises ValueError.

    trees : split_dims and split_thresholds, of subvectors of `length` elements, in place of centroids.
    """
    integer, is_tree = search.integer, search.encoder == "tree"
    check(len(trees) == 2 * is_tree, op, f"{search.encoder} takes {2 * is_tree} tensors of trees, got {len(trees)}")
    c, k, v = _check_trees(op, *trees, length) if is_tree else _check_centroids(op, centroids, integer)
    check(v >= 1, op, f"subvector_len must be at least 1, got {v}")
    check(c == -(-patches.depth // v), op,
          f"{c} codebooks of subvector_len {v} do not cover a row of {patches.depth} elements "
          f"(needs {-(-patches.depth // v)})")  # fmt: skip
    for name, expr, want_shape, want, needed, allowed in (
        ("inv_scale", inv_scale, (c,), "float32", integer, integer),
        ("score_bias", score_bias, (c, k), "int32" if integer else "float32", integer and not is_tree, not is_tree),
    ):
        state = "is needed" if needed else "must be absent"
        fits = allowed if present(expr) else not needed
        check(fits, op, f"{name} {state} with {search.encode_dtype} encode by {search.encoder}")
        if present(expr):
            check_tensor(op, name, expr, want_shape, want)
    check(present(centroids) != is_tree, op, "centroids are in place of trees")
    return c, k, v


def _check_centroids(op: str, centroids, integer: bool) -> tuple[int, int, int]:
    check(present(centroids), op, "centroids are needed")
    shape = static_shape(centroids, op, "centroids")
    check(len(shape) == 3, op, f"centroids must be [C, K, V], got shape {list(shape)}")
    check(1 <= shape[1] <= 256, op, f"num_centroids must be in 1..256, got {shape[1]}")
    wanted = "int8" if integer else "float32"
    check(dtype_of(centroids) == wanted, op, f"centroids must be {wanted}, got {dtype_of(centroids)}")
    return shape[0], shape[1], shape[2]


def _check_trees(op: str, split_dims, split_thresholds, length: int) -> tuple[int, int, int]:
    shape = static_shape(split_dims, op, "split_dims")
    check(len(shape) == 2, op, f"split_dims must be [C, L], got shape {list(shape)}")
    check(1 <= shape[1] <= 8, op, f"a tree must have 1 to 8 levels, got {shape[1]}")
    k = 2 ** shape[1]
    check_tensor(op, "split_dims", split_dims, shape, "int32")
    check_tensor(op, "split_thresholds", split_thresholds, (shape[0], k - 1), "float32")
    return shape[0], k, length


def check_tensor(op: str, name: str, expr, shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError unless `expr` is a tensor of `shape` and `dtype`."""
    got = static_shape(expr, op, name)
    check(got == shape, op, f"{name} must have shape {list(shape)}, got {list(got)}")
    check(dtype_of(expr) == dtype, op, f"{name} must be {dtype}, got {dtype_of(expr)}")


def check_same_centroids(op: str, num_centroids: int, table) -> None:
    """Raise ValueError unless the table has an entry for every centroid: a code is an index into both."""
    shape = static_shape(table, op, "table")
    check(
        shape[1:2] == (num_centroids,),
        op,
        f"table must be [C, K, M] with K = {num_centroids} as the codebooks have, got shape {list(shape)}",
    )


def trees_of(split_dims: relax.Expr | None, split_thresholds: relax.Expr | None) -> list[relax.Expr]:
    """The arguments that a call has behind those of a closest-centroid search."""
    return [] if split_dims is None and split_thresholds is None else [optional(split_dims), optional(split_thresholds)]


def codebook_shape(call: relax.Call) -> tuple[int, int, int]:
    """(C, K, V) of a logical encode."""
    if str(call.attrs["encoder"]) == "tree":
        c, levels = (int(d) for d in call.args[5].ty.shape)
        return c, 2**levels, int(call.attrs["subvector_len"])
    c, k, v = (int(d) for d in call.args[1].ty.shape)
    return c, k, v
