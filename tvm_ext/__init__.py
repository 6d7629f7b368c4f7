"""Lookup-table layers in Apache TVM: operators, their meaning, passes, schedules and tensor intrinsics."""

from tvm_ext import op

__all__ = ["op"]
