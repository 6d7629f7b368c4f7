"""The lut operators of Relax: importing this package registers them as ``R.lut.*``."""

from tvm_ext.op.conv2d import conv2d
from tvm_ext.op.dense import dense
from tvm_ext.op.encode import encode
from tvm_ext.op.levels import levels
from tvm_ext.op.lookup_accumulate import lookup_accumulate
from tvm_ext.op.plane import plane
from tvm_ext.op.quantize import quantize
from tvm_ext.op.quantize_rows import quantize_rows
from tvm_ext.op.quantized_conv2d import quantized_conv2d
from tvm_ext.op.quantized_dense import quantized_dense

__all__ = [
    "conv2d",
    "dense",
    "encode",
    "levels",
    "lookup_accumulate",
    "plane",
    "quantize",
    "quantize_rows",
    "quantized_conv2d",
    "quantized_dense",
]
