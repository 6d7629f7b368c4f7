"""Layers of an int8 remainder: as nodes of the reference model, and their kernels' sums against numpy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lutc import reference
from lutc.artifact.manifest import LayerRow, TargetInfo
from lutc.errors import VerifyError
from lutc.importers.onnx_graph import constants, weight_rows
from lutc.importers.padding import resolve_pads
from lutc.targets import llvm_target
from lutc.verify.annotate import bias_nodes
from lutc.verify.codes import RunMany, run_executable
from lutc.verify.report import VerifyRow

if TYPE_CHECKING:
    from tvm_ext.compute.uniform_levels import UniformLevels

STEPS = ".lutc_steps"
"""End of the names of the nodes that scale inputs before they are rounded."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer: the tensor it reads, how that becomes integers, its int8 weight, and a conv's ONNX attributes."""

    name: str
    input: str
    levels: UniformLevels
    weight: np.ndarray
    attributes: Mapping[str, object] | None

    def geometry(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]] | None:
        """kernel_shape, strides, pads and dilations of a conv whose input has this shape."""
        if self.attributes is None:
            return None
        kernel = self.weight.shape[2:]
        strides, dilations = (tuple(self.attributes.get(name, (1, 1))) for name in ("strides", "dilations"))  # type: ignore
        mode = self.attributes.get("auto_pad", b"NOTSET").decode()  # type: ignore
        pads = tuple(self.attributes.get("pads", (0, 0, 0, 0))) if mode == "NOTSET" else mode  # type: ignore
        resolved = resolve_pads(pads, shape[2:], kernel, strides, dilations)
        return {"kernel_shape": kernel, "strides": strides, "pads": resolved, "dilations": dilations}


def annotate_integers(model: onnx.ModelProto, rows: Sequence[LayerRow], source: str) -> dict[str, IntegerLayer]:
    """Let the layers of `rows` compute in integers (held in float32), in place; gives them by name.

    Raises VerifyError where the model has no such layer with a constant weight.
    """
    wanted, known = {row.name: row for row in rows}, constants(model.graph)
    layers, nodes = {}, []
    for node in model.graph.node:
        row = wanted.get(node.name) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if row is None or node.input[1] not in known:
            nodes.append(node)
            continue
        made, layers[row.name] = _integer_nodes(node, row, known, model.graph)
        nodes += made
    missing = [name for name in wanted if name not in layers]
    if missing:
        raise VerifyError(
            "the reference lacks layers that the artifact computes in int8", where=source,
            reason=f"it has no conv or dense layer with a constant weight named {', '.join(missing)}",
            fix="give the model that the artifact was compiled from",
        )  # fmt: skip
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return layers


def _integer_nodes(
    node: onnx.NodeProto, row: LayerRow, known: Mapping[str, onnx.TensorProto], graph: onnx.GraphProto
) -> tuple[list[onnx.NodeProto], IntegerLayer]:
    """Mul, Round and Clip the input; the layer with integers as weights; Mul and Add; a bias."""
    from tvm_ext.compute.uniform_levels import UniformLevels, integer_layer

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    conv, name = node.op_type == "Conv", node.name
    weight = numpy_helper.to_array(known[node.input[1]])
    weight = weight if conv else weight_rows(node.op_type, weight, attributes)
    levels = UniformLevels(row.inv_scale, row.input_low, row.input_high)
    integers, scale, bias = integer_layer(weight, levels, row.input_mean)
    shape = (-1, 1, 1) if conv else (-1,)
    values = {
        "inv_scale": np.float32(levels.inv_scale), "low": np.float32(levels.low), "high": np.float32(levels.high),
        "integers": (integers if conv else integers.T).astype(np.float32),
        "scale": scale.astype(np.float32).reshape(shape), "shift": bias.astype(np.float32).reshape(shape),
    }  # fmt: skip
    for key, value in values.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{name}.int8_{key}"))
    given = {key: f"{name}.int8_{key}" for key in values}
    biased = len(node.input) > 2 and node.input[2] != ""
    result = f"{name}.int8_result" if biased else node.output[0]
    product = helper.make_node(node.op_type if conv else "MatMul", [f"{name}.q", given["integers"]], [f"{name}.sums"])
    product.attribute.extend(node.attribute if conv else [])
    made = [
        helper.make_node("Mul", [node.input[0], given["inv_scale"]], [f"{name}.steps"], name=f"{name}{STEPS}"),
        helper.make_node("Round", [f"{name}.steps"], [f"{name}.rounded"]),
        helper.make_node("Clip", [f"{name}.rounded", given["low"], given["high"]], [f"{name}.q"]),
        product,
        helper.make_node("Mul", [f"{name}.sums", given["scale"]], [f"{name}.scaled"]),
        helper.make_node("Add", [f"{name}.scaled", given["shift"]], [result]),
        *(bias_nodes(node, result, known, attributes, graph) if biased else []),
    ]
    return made, IntegerLayer(name, node.input[0], levels, integers, attributes if conv else None)


def compare_sums(
    layer: IntegerLayer, inputs: Sequence[np.ndarray], target: TargetInfo, run_many: RunMany | None
) -> VerifyRow:
    """Every sum of every input: the kernel that the compiler makes for the target against numpy; both exact."""
    from tvm_ext.integer_sums import build_sums

    geometry = layer.geometry(inputs[0].shape)
    llvm = llvm_target(target.triple, target.cpu, target.attrs, target.core)
    executable = build_sums(inputs[0].shape, layer.levels, layer.weight, target=llvm, geometry=geometry)
    compared = different = 0
    for x, got in zip(inputs, run_executable(executable, inputs, target, run_many), strict=True):
        expected = reference.sums(layer.levels.integers(x), layer.weight, geometry).astype(np.float32)
        compared, different = compared + expected.size, different + int((got != expected).sum())
    return VerifyRow(layer.name, "sums", compared, different == 0, flips=different)
