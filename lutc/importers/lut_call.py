"""The Relax call of an annotated layer."""

from __future__ import annotations

from tvm import relax

import tvm_ext.op
from lutc.importers.lut_layer import ARGUMENTS, LUTLayer


def lut_call(layer: LUTLayer, x: relax.Expr) -> relax.Call:
    """R.lut.conv2d for a layer with a kernel shape, else R.lut.dense."""
    build = tvm_ext.op.conv2d if layer.geometry else tvm_ext.op.dense
    values = (layer.constants[name] for name in ARGUMENTS)
    return build(x, *(None if value is None else relax.const(value) for value in values), **layer.attributes())
