"""Scalar quantizers by name: where levels and thresholds come from in training."""

from __future__ import annotations

from lutc.nn.quantizers.apot import APoT
from lutc.nn.quantizers.base import ScalarQuantizer
from lutc.nn.quantizers.dorefa import DoReFa
from lutc.nn.quantizers.lcq import LCQ
from lutc.nn.quantizers.llt import LLT
from lutc.nn.quantizers.lqnets import LQNets
from lutc.nn.quantizers.lsq import LSQ
from lutc.nn.quantizers.minmax import MinMax
from lutc.nn.quantizers.nulsq import NuLSQ
from lutc.nn.quantizers.pact import PACT
from lutc.nn.quantizers.quantization_network import QuantizationNetwork
from lutc.nn.quantizers.ttq import TernaryTTQ

QUANTIZERS: dict[str, type[ScalarQuantizer]] = {
    quantizer.method: quantizer
    for quantizer in (
        LLT, NuLSQ, QuantizationNetwork, LSQ, PACT, DoReFa, APoT, LCQ, LQNets, TernaryTTQ, MinMax,
    )
}  # fmt: skip

__all__ = [
    "LCQ",
    "LLT",
    "LSQ",
    "PACT",
    "QUANTIZERS",
    "APoT",
    "DoReFa",
    "LQNets",
    "MinMax",
    "NuLSQ",
    "QuantizationNetwork",
    "ScalarQuantizer",
    "TernaryTTQ",
]
