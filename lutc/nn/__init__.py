"""Lookup-table layers for torch: training form, k-means initialisation, and conversion to tables. Never imports TVM."""

from __future__ import annotations

from lutc.config import LUTConfig, ScalarConfig
from lutc.nn import _library  # noqa: F401  (registers torch.ops.lutc)
from lutc.nn.conv2d import LUTConv2d
from lutc.nn.levels import Levels, extract_levels
from lutc.nn.linear import LUTLinear
from lutc.nn.parameters import param_groups
from lutc.nn.quantize import QuantizeRow, quantize_
from lutc.nn.quantized_layer import QuantizedConv2d, QuantizedLinear
from lutc.nn.reconstruct import ReconstructRow, reconstruct_

__all__ = [
    "LUTConfig",
    "LUTConv2d",
    "LUTLinear",
    "Levels",
    "QuantizeRow",
    "QuantizedConv2d",
    "QuantizedLinear",
    "ReconstructRow",
    "ScalarConfig",
    "extract_levels",
    "param_groups",
    "quantize_",
    "reconstruct_",
]
