"""The lut operators of Relax: importing this package registers them as ``R.lut.*``."""

from tvm_ext.op.conv2d import conv2d
from tvm_ext.op.dense import dense
from tvm_ext.op.encode import encode
from tvm_ext.op.lookup_accumulate import lookup_accumulate
from tvm_ext.op.plane import plane

__all__ = ["conv2d", "dense", "encode", "lookup_accumulate", "plane"]
