"""A compiled layer over integer levels by itself, with the kernels the pipeline chooses, to look at its sums."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvm_ext import op as lut
from tvm_ext.compute.uniform_levels import UniformLevels
from tvm_ext.pipeline import build


def build_sums(
    x_shape: tuple[int, ...], levels: UniformLevels, weight: np.ndarray,
    *, target: Mapping, geometry: Mapping[str, tuple[int, ...]] | None = None,
) -> relax.VMExecutable:  # fmt: skip
    """An executable whose "main" takes x float32 and gives the sums, exact in int32, rounded to float32.

    weight : int8 [M, D], or [M, Cin, kh, kw] with the conv's `geometry`: kernel_shape, strides, pads, dilations.
    """
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(list(x_shape), "float32"))
    thresholds, values = (relax.const(np.ascontiguousarray(a)) for a in levels.constants())
    args = relax.const(weight), relax.const(np.ones(len(weight), np.float32))
    with bb.function("main", [x]):
        with bb.dataflow():
            q = bb.emit(lut.levels(x, thresholds, values))
            y = lut.quantized_dense(q, *args) if geometry is None else lut.quantized_conv2d(q, *args, **geometry)
            y = bb.emit_output(y)
        bb.emit_func_output(y)
    return build(bb.get(), target).executable
