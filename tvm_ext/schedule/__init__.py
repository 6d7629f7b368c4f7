"""Schedule rules in the form of TVM's dlight: ``apply(func, target, tunable)`` gives a schedule, a space, or None."""

from tvm_ext.schedule.encode import EncodeTiled
from tvm_ext.schedule.gemv import EncodeRowwise, LookupGather
from tvm_ext.schedule.lookup import LookupShuffle

RULES = (LookupShuffle, EncodeTiled, LookupGather, EncodeRowwise)

__all__ = ["RULES", "EncodeRowwise", "EncodeTiled", "LookupGather", "LookupShuffle"]
