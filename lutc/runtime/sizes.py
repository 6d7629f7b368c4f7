"""The sizes of an artifact's dimensions: which may be asked for, and what the inputs' shapes are then."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lutc.artifact.manifest import Dimension, Manifest, TensorSpec
from lutc.errors import InputError


def specs_at(manifest: Manifest, sizes: Mapping[str, int] | None) -> list[TensorSpec]:
    """The inputs with these sizes of dimensions; others are as large as there is code for. Raises InputError."""
    sizes = sizes or {}
    known = {dimension.name: dimension for dimension in manifest.dimensions}
    for name, size in sizes.items():
        if name not in known:
            raise InputError(
                f"the artifact has no dimension {name!r}", where=f"size {name}={size}",
                reason=f"its dimensions are {', '.join(known)}" if known else "all its sizes are fixed",
                fix="name one of them" if known else "compile the model with --dynamic",
            )  # fmt: skip
        check_size(known[name], size, f"size {name}={size}")
    return [
        TensorSpec(spec.name, spec.dtype, [sizes.get(d, n) for d, n in zip(spec.dims, spec.shape, strict=True)])
        if spec.dims else spec for spec in manifest.inputs
    ]  # fmt: skip


def some_sizes(manifest: Manifest, seed: int) -> dict[str, int]:
    """Of each dimension a size that may be asked for; the same seed gives the same."""
    rng = np.random.default_rng(seed)
    return {
        d.name: int(rng.choice(d.sizes) if d.handling == "exact" else rng.integers(d.lowest, d.highest + 1))
        for d in manifest.dimensions
    }


def check_size(dimension: Dimension, size: int, where: str) -> None:
    """Raise InputError unless the dimension may have this size."""
    name, exact = dimension.name, dimension.handling == "exact"
    if size in dimension.sizes if exact else dimension.lowest <= size <= dimension.highest:
        return
    wanted = ", ".join(map(str, dimension.sizes)) if exact else f"{dimension.lowest}..{dimension.highest}"
    told = ",".join(map(str, sorted({*dimension.sizes, size}))) if exact else _widened(dimension, size)
    raise InputError(
        f"{name!r} cannot be {size}", where=where, reason=f"the artifact was compiled for {name} {wanted}",
        fix=f"give one of these, or compile the model again: --dynamic {name}={told}" if size > 0 else "give entries",
    )  # fmt: skip


def _widened(dimension: Dimension, size: int) -> str:
    return f"{min(dimension.lowest, size)}..{max(dimension.highest, size)}"
