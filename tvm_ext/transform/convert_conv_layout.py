"""ConvertConvLayout: float convolutions get channels-last images, as their kernels read them."""

from __future__ import annotations

import logging

import tvm
from tvm import relax

_LOG = logging.getLogger(__name__)


@tvm.transform.module_pass(opt_level=0, name="ConvertConvLayout")
class ConvertConvLayout:
    """TVM's ConvertLayout; a module with an operator that it fails on keeps channels first, and TVM's own kernels."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        try:
            return relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OIHW"]})(mod)
        except tvm.error.InternalError as error:  # relax.stack, for one: its inputs and result differ in rank
            _LOG.info("convolutions keep channels first: %s", str(error).splitlines()[0])
            return mod
