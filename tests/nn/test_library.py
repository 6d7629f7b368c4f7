"""torch.ops.lutc under torch's own checks, and its shapes under tracing."""

from __future__ import annotations

import torch

from lutc.config import LUTConfig
from lutc.nn import LUTConv2d, LUTLinear


def test_dense_passes_torch_opcheck():
    layer = LUTLinear(10, 3, config=LUTConfig(4, 4))
    arguments = (torch.randn(2, 10), *layer.constants().values(), *layer.attributes().values())
    torch.library.opcheck(torch.ops.lutc.lut_dense.default, arguments)


def test_conv2d_passes_torch_opcheck():
    layer = LUTConv2d(2, 3, (3, 2), 2, (1, 0), config=LUTConfig(4, 4, encode_dtype="float32"))
    arguments = (torch.randn(2, 2, 7, 6), *layer.constants().values(), *layer.attributes().values())
    torch.library.opcheck(torch.ops.lutc.lut_conv2d.default, arguments)
