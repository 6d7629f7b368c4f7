"""Model-local functions of scalar quantizers: LUTQuantize and LUTPalette in standard ONNX operators.

The code is found by a binary search over the thresholds, one Gather and one comparison a bit: exact for every input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from lutc.export.onnx_functions import DOMAIN, DOMAIN_VERSION, Body

QUANTIZE_INPUTS = ("x", "thresholds", "levels")
PALETTE_INPUTS = ("codes", "levels")
QUANTIZE_ATTRIBUTES = {"axis": AttributeProto.INT}


@dataclass(frozen=True)
class LevelsVariant:
    """One function body: the operator, whether channels have constants of their own, and how many bits a code has."""

    op_type: str
    per_channel: bool
    bits: int = 0

    @classmethod
    def of_node(cls, node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> LevelsVariant:
        """The variant a node needs, from the shapes of the initializers it reads."""
        constant = shapes[node.input[1]]
        per_channel = len(constant) == 2
        if node.op_type == "LUTPalette":
            return cls(node.op_type, per_channel)
        return cls(node.op_type, per_channel, math.ceil(math.log2(constant[-1] + 1)))

    @property
    def overload(self) -> str:
        bits = [] if self.op_type == "LUTPalette" else [f"{self.bits}bit"]
        return "_".join([*bits, "channels" if self.per_channel else "tensor"])


def make_levels_function(variant: LevelsVariant, opset: int) -> FunctionProto:
    """The function of one variant for a model of this opset (18 or newer)."""
    body = Body()
    is_palette = variant.op_type == "LUTPalette"
    if is_palette:
        _palette(body, variant.per_channel)
    else:
        _quantize(body, variant.per_channel, variant.bits)
    return helper.make_function(
        DOMAIN,
        variant.op_type,
        list(PALETTE_INPUTS if is_palette else QUANTIZE_INPUTS),
        ["weight" if is_palette else "y"],
        body.nodes,
        [helper.make_opsetid("", opset)],
        [] if is_palette else list(QUANTIZE_ATTRIBUTES),
        overload=variant.overload,
        doc_string=f"{variant.op_type} version {DOMAIN_VERSION}: levels[codes].",
    )


def _quantize(body: Body, per_channel: bool, bits: int) -> None:
    shape = _channel_shape(body) if per_channel else None
    count = body.dim("thresholds", -1)
    padded = _padded_thresholds(body, count, per_channel, bits)
    code = body.cast(body.op("ConstantOfShape", [body.op("Shape", ["x"])]), TensorProto.INT32)
    for width in (2**bit for bit in reversed(range(bits))):
        probe = body.op("Add", [code, body.scalar(width - 1, TensorProto.INT32)])
        probe = _in_row(body, probe, "thresholds", body.ints(2**bits - 1), shape)
        above = body.op("GreaterOrEqual", ["x", body.op("Gather", [padded, probe])])
        step = body.op("Mul", [body.cast(above, TensorProto.INT32), body.scalar(width, TensorProto.INT32)])
        code = body.op("Add", [code, step])
    last = body.cast(body.op("Squeeze", [count]), TensorProto.INT32)
    code = body.op("Min", [code, last])  # +inf passes the padding too
    index = _in_row(body, code, "levels", body.dim("levels", -1), shape)
    body.op("Gather", [body.op("Reshape", ["levels", body.ints(-1)]), index], "y")


def _padded_thresholds(body: Body, count: str, per_channel: bool, bits: int) -> str:
    """The thresholds with +inf up to 2^bits - 1 a row, flattened."""
    missing = body.op("Sub", [body.ints(2**bits - 1), count])
    pads = body.concat(body.ints(*[0] * (3 if per_channel else 1)), missing)
    padded = body.op("Pad", ["thresholds", pads, body.scalar(math.inf, TensorProto.FLOAT)])
    return body.op("Reshape", [padded, body.ints(-1)])


def _palette(body: Body, per_channel: bool) -> None:
    code = body.cast("codes", TensorProto.INT32)
    shape = None
    if per_channel:
        others = body.op("Sub", [body.op("Shape", [body.op("Shape", ["codes"])]), body.ints(1)])
        shape = body.concat(body.ints(-1), _ones(body, others))
    index = _in_row(body, code, "levels", body.dim("levels", -1), shape)
    body.op("Gather", [body.op("Reshape", ["levels", body.ints(-1)]), index], "weight")


def _channel_shape(body: Body) -> str:
    """[-1, 1, ..., 1]: broadcasts one value a channel along `axis` of x."""
    axis = body.op("Constant", [])
    body.nodes[-1].attribute.append(AttributeProto(name="value_int", ref_attr_name="axis", type=AttributeProto.INT))
    behind = body.op("Sub", [body.op("Sub", [body.op("Shape", [body.op("Shape", ["x"])]), body.ints(1)]), axis])
    return body.concat(body.ints(-1), _ones(body, behind))


def _ones(body: Body, count: str) -> str:
    one = helper.make_tensor("value", TensorProto.INT64, [1], [1])
    return body.op("ConstantOfShape", [count], value=one)


def _in_row(body: Body, index: str, table: str, row_length: str, shape: str | None) -> str:
    """An index into a row of `table` as one into all its rows; the same where there is one row."""
    if shape is None:
        return index
    zero, one = (body.scalar(value, TensorProto.INT64) for value in (0, 1))
    channel = body.op("Range", [zero, body.op("Squeeze", [body.dim(table, 0)]), one])
    start = body.cast(body.op("Reshape", [body.op("Mul", [channel, row_length]), shape]), TensorProto.INT32)
    return body.op("Add", [index, start])
