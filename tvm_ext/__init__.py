"""Lookup-table layers in Apache TVM: operators, their meaning, passes, schedules and tensor intrinsics."""

import tvm_ffi

from tvm_ext import op

__all__ = ["op"]

# Ctrl-C in a Python function that TVM calls would else come back as a RuntimeError without a text
tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)
