"""Schedule rules in the form of TVM's dlight: ``apply(func, target, tunable)`` gives a schedule, a space, or None."""

from tvm_ext.schedule.contraction import Contraction
from tvm_ext.schedule.elementwise import Elementwise
from tvm_ext.schedule.encode import EncodeTiled
from tvm_ext.schedule.fallback import Fallback
from tvm_ext.schedule.gemv import EncodeFewRows, EncodeRowwise, LookupGather
from tvm_ext.schedule.lookup import LookupShuffle
from tvm_ext.schedule.reduction import LaneReduction, RowReduction
from tvm_ext.schedule.transpose import Transpose
from tvm_ext.schedule.tree import EncodeTree

LUT_RULES = (LookupShuffle, EncodeTiled, LookupGather, EncodeFewRows, EncodeRowwise, EncodeTree)
FLOAT_RULES = (Contraction, RowReduction, LaneReduction, Transpose, Elementwise, Fallback)
RULES = (*LUT_RULES, *FLOAT_RULES)
"""In the order they are asked; the last one takes everything."""

__all__ = [
    "FLOAT_RULES",
    "LUT_RULES",
    "RULES",
    "Contraction",
    "Elementwise",
    "EncodeFewRows",
    "EncodeRowwise",
    "EncodeTiled",
    "EncodeTree",
    "Fallback",
    "LaneReduction",
    "LookupGather",
    "LookupShuffle",
    "RowReduction",
    "Transpose",
]
