"""Model-local functions: LUTDense and LUTConv2d in standard ONNX operators, so that any runtime can run the file.

Integers travel as float64, where every sum of this size is exact. A node picks its function by `overload`: which
optional inputs it has, and how it encodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper

from lutc.config import INTEGER_GRIDS

DOMAIN = "lutc"
DOMAIN_VERSION = 1
L2_INPUTS = ("x", "centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult")
"""Those of a closest-centroid search; trees have two more."""
INPUTS = (*L2_INPUTS, "split_dims", "split_thresholds")
COMMON_ATTRIBUTES = {
    "encode_dtype": AttributeProto.STRING,
    "encoder": AttributeProto.STRING,
    "input_signed": AttributeProto.INT,
}
TREE_ATTRIBUTES = {"subvector_len": AttributeProto.INT}
CONV_ATTRIBUTES = {
    "kernel_shape": AttributeProto.INTS,
    "strides": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "dilations": AttributeProto.INTS,
    "group": AttributeProto.INT,
}


@dataclass(frozen=True)
class Variant:
    """One function body: the facts about a node that change its operators."""

    op_type: str
    encode_dtype: str
    input_signed: bool
    has_bias: bool
    has_mult: bool
    encoder: str = "l2"
    has_score_bias: bool = False

    @classmethod
    def of_node(cls, node: NodeProto) -> Variant:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        present = dict(zip(INPUTS, node.input, strict=False))
        encode_dtype = attributes["encode_dtype"].decode()
        return cls(
            op_type=node.op_type,
            encode_dtype=encode_dtype,
            input_signed=bool(attributes["input_signed"]) or encode_dtype == "float32",  # which knows no difference
            has_bias=bool(present.get("bias")),
            has_mult=bool(present.get("mult")),
            encoder=attributes["encoder"].decode(),
            has_score_bias=bool(present.get("score_bias")),
        )

    @property
    def integer(self) -> bool:
        return self.encode_dtype in INTEGER_GRIDS

    @property
    def overload(self) -> str:
        parts = ["tree"] * (self.encoder == "tree") + [self.encode_dtype]
        if self.integer:
            parts.append("signed" if self.input_signed else "unsigned")
        elif self.has_score_bias:
            parts.append("scored")
        return "_".join(parts + ["bias"] * self.has_bias + ["mult"] * self.has_mult)


class Body:
    """Collects the nodes of a function; every call returns the name of the value it makes."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[NodeProto] = []
        self._prefix = prefix

    def op(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: object) -> str:
        name = output or f"{self._prefix}{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def ints(self, *values: int) -> str:
        return self.op("Constant", [], value_ints=list(values))

    def scalar(self, value: float, dtype: int) -> str:
        return self.op("Constant", [], value=helper.make_tensor("value", dtype, [], [value]))

    def dim(self, value: str, axis: int) -> str:
        return self.op("Shape", [value], start=axis, **({} if axis == -1 else {"end": axis + 1}))

    def concat(self, *parts: str) -> str:
        return self.op("Concat", parts, axis=0)

    def cast(self, value: str, dtype: int) -> str:
        return self.op("Cast", [value], to=dtype)

    def attribute_int(self, name: str) -> str:
        """The value int64 [1] of an integer attribute of the function itself."""
        scalar = self.op("Constant", [])
        reference = AttributeProto(name="value_int", ref_attr_name=name, type=AttributeProto.INT)
        self.nodes[-1].attribute.append(reference)
        return self.op("Unsqueeze", [scalar, self.ints(0)])

    def refer(self, node_index: int, *names: str) -> None:
        """Give a node the attributes of the function itself."""
        for name in names:
            kind = CONV_ATTRIBUTES[name]
            self.nodes[node_index].attribute.append(AttributeProto(name=name, ref_attr_name=name, type=kind))


def make_function(variant: Variant, opset: int) -> FunctionProto:
    """The function of one variant for a model of this opset (18 or newer)."""
    body = Body()
    is_tree = variant.encoder == "tree"
    attributes = COMMON_ATTRIBUTES | (TREE_ATTRIBUTES if is_tree else {})
    if variant.op_type == "LUTConv2d":
        _conv2d(body, variant)
        attributes = attributes | CONV_ATTRIBUTES
    else:
        _dense(body, variant)
    search = "a walk down hash trees" if is_tree else "closest-centroid search"
    return helper.make_function(
        DOMAIN,
        variant.op_type,
        list(INPUTS if is_tree else L2_INPUTS),
        ["y"],
        body.nodes,
        [helper.make_opsetid("", opset)],
        list(attributes),
        overload=variant.overload,
        doc_string=f"{variant.op_type} version {DOMAIN_VERSION}: {search}, then a table read and a sum.",
    )


def _dense(body: Body, variant: Variant) -> None:
    rows = body.op("Reshape", ["x", body.concat(body.ints(-1), body.op("Shape", ["x"], start=-1))])
    # end=-1 leaves the last axis out
    lead = body.op("Shape", ["x"], end=-1)
    y = _lookup(body, variant, _codes(body, variant, rows))
    body.op("Reshape", [y, body.concat(lead, body.dim("table", 2))], "y")


def _conv2d(body: Body, variant: Variant) -> None:
    batch = body.dim("x", 0)
    rows, out_size = _patches(body, batch)
    y = _lookup(body, variant, _codes(body, variant, rows))
    spatial = body.op("Reshape", [y, body.concat(batch, out_size, body.dim("table", 2))])
    body.op("Transpose", [spatial], "y", perm=[0, 3, 1, 2])


def _patches(body: Body, batch: str) -> tuple[str, str]:
    """im2col as a convolution of single channels with the identity: rows [B*OH*OW, Cin*kh*kw] and (OH, OW)."""
    one = body.ints(1)
    channels = body.dim("x", 1)
    maps = body.op("Reshape", ["x", body.concat(body.ints(-1), one, body.op("Shape", ["x"], start=2))])
    kernel = body.op("Constant", [])
    body.nodes[-1].attribute.append(
        AttributeProto(name="value_ints", ref_attr_name="kernel_shape", type=AttributeProto.INTS)
    )
    taps = body.op("ReduceProd", [kernel, body.ints(0)], keepdims=1)
    square = body.op("ConstantOfShape", [body.concat(taps, taps)])
    identity = body.op("Reshape", [body.op("EyeLike", [square]), body.concat(taps, one, kernel)])
    columns = body.op("Conv", [maps, identity])
    body.refer(-1, "kernel_shape", "strides", "pads", "dilations")
    out_size = body.op("Shape", [columns], start=2)
    depth = body.op("Mul", [channels, taps])
    by_image = body.op("Reshape", [columns, body.concat(batch, depth, body.ints(-1))])
    rows = body.op("Transpose", [by_image], perm=[0, 2, 1])
    return body.op("Reshape", [rows, body.concat(body.ints(-1), depth)]), out_size


def _codes(body: Body, variant: Variant, rows: str) -> str:
    """rows [N, D] -> codes int64 [C, N]."""
    if variant.encoder == "tree":
        length = body.attribute_int("subvector_len")
        return _descend(body, variant, _subvectors(body, rows, body.dim("split_dims", 0), length))
    return _encode(body, variant, _subvectors(body, rows, body.dim("centroids", 0), body.dim("centroids", 2)))


def _subvectors(body: Body, rows: str, codebooks: str, length: str) -> str:
    """rows [N, D] -> [C, N, V], the last subvector zero-padded."""
    missing = body.op("Sub", [body.op("Mul", [codebooks, length]), body.dim(rows, 1)])
    padded = body.op("Pad", [rows, body.concat(body.ints(0, 0, 0), missing)])
    split = body.op("Reshape", [padded, body.concat(body.ints(-1), codebooks, length)])
    return body.op("Transpose", [split], perm=[1, 0, 2])


def _encode(body: Body, variant: Variant, subvectors: str) -> str:
    """[C, N, V] -> codes int64 [C, N]; the lowest index wins a tie."""
    exact = body.cast("centroids", TensorProto.DOUBLE)
    transposed = body.op("Transpose", [exact], perm=[0, 2, 1])
    inputs = _quantized(body, variant, subvectors) if variant.integer else subvectors
    if variant.integer or variant.has_score_bias:
        offset = body.cast("score_bias", TensorProto.DOUBLE)
    else:
        norm = body.op("ReduceSum", [body.op("Mul", [exact, exact]), body.ints(2)], keepdims=0)
        offset = body.op("Mul", [norm, body.scalar(-0.5, TensorProto.DOUBLE)])
    dot = body.op("MatMul", [body.cast(inputs, TensorProto.DOUBLE), transposed])
    score = body.op("Add", [dot, body.op("Unsqueeze", [offset, body.ints(1)])])
    if variant.integer:
        # the arithmetic shift by 4 of the definition
        score = body.op("Floor", [body.op("Mul", [score, body.scalar(1 / 16, TensorProto.DOUBLE)])])
    return body.op("ArgMax", [score], axis=2, keepdims=0, select_last_index=0)


def _quantized(body: Body, variant: Variant, values: str) -> str:
    """float32 [C, N, ...] -> their 8-bit values, still float32."""
    low, high = (-128.0, 127.0) if variant.input_signed else (0.0, 255.0)
    scaled = body.op("Mul", [values, body.op("Unsqueeze", ["inv_scale", body.ints(1, 2)])])
    grid = INTEGER_GRIDS[variant.encode_dtype]
    limits = [body.scalar(value, TensorProto.FLOAT) for value in (low, high)]
    rounded = body.op("Clip", [body.op("Round", [scaled]), *limits])
    if grid == 1:
        return rounded
    half, step = (body.scalar(value, TensorProto.FLOAT) for value in (grid // 2, grid))
    raised = body.op("Min", [body.op("Add", [rounded, half]), limits[1]])
    return body.op("Mul", [body.op("Floor", [body.op("Div", [raised, step])]), step])


def _descend(body: Body, variant: Variant, subvectors: str) -> str:
    """[C, N, V] -> codes int64 [C, N]: one comparison a level; node i has the children 2i + 1 and 2i + 2."""
    dims = body.op("Unsqueeze", [body.cast("split_dims", TensorProto.INT64), body.ints(1)])
    shape = body.concat(body.op("Shape", [subvectors], end=2), body.dim("split_dims", 1))
    values = body.op("GatherElements", [subvectors, body.op("Expand", [dims, shape])], axis=2)
    if variant.integer:
        values = _quantized(body, variant, values)
    by_level = body.op("Transpose", [values], perm=[2, 0, 1])
    root = body.op("ConstantOfShape", [body.op("Shape", [subvectors], end=2)], value=_int64("value", 0))
    levels = body.op("Squeeze", [body.dim("split_dims", 1)])
    leaf = body.op("Loop", [levels, "", root], body=_level(by_level))
    return body.op("Sub", [leaf, body.dim("split_thresholds", 1)])


def _level(by_level: str) -> GraphProto:
    """The body of the loop over levels; `by_level` [L, C, N] and the thresholds are taken from outside."""
    body = Body("level_")
    value = body.op("Gather", [by_level, "level"], axis=0)
    threshold = body.op("GatherElements", ["split_thresholds", "node"], axis=1)
    right = body.cast(body.op("GreaterOrEqual", [value, threshold]), TensorProto.INT64)
    left_child = body.op("Add", [body.op("Mul", ["node", body.scalar(2, TensorProto.INT64)]), body.ints(1)])
    body.op("Add", [left_child, right], "next")
    body.op("Identity", ["go_on"], "still")
    inputs = [("level", TensorProto.INT64, []), ("go_on", TensorProto.BOOL, []), ("node", TensorProto.INT64, None)]
    outputs = [("still", TensorProto.BOOL, []), ("next", TensorProto.INT64, None)]
    return helper.make_graph(
        body.nodes,
        "level",
        *([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)),
    )


def _int64(name: str, value: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [1], [value])


def _lookup(body: Body, variant: Variant, codes: str) -> str:
    """codes [C, N] -> float32 [N, M]."""
    num_codebooks = body.op("Squeeze", [body.dim("table", 0)])
    zero, one = (body.scalar(value, TensorProto.INT64) for value in (0, 1))
    index = body.op("Range", [zero, num_codebooks, one])
    first = body.op("Unsqueeze", [body.op("Mul", [index, body.dim("table", 1)]), body.ints(1)])
    flat = body.op("Reshape", ["table", body.concat(body.ints(-1), body.dim("table", 2))])
    picked = body.cast(body.op("Gather", [flat, body.op("Add", [codes, first])], axis=0), TensorProto.DOUBLE)
    if variant.has_mult:
        mult = body.op("Unsqueeze", [body.cast("mult", TensorProto.DOUBLE), body.ints(1, 2)])
        picked = body.op("Mul", [picked, mult])
    total = body.cast(body.op("ReduceSum", [picked, body.ints(0)], keepdims=0), TensorProto.FLOAT)
    y = body.op("Mul", [total, "table_scale"])
    return body.op("Add", [y, "bias"]) if variant.has_bias else y
