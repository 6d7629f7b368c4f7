"""Models of one float layer each, to time what is left beside tables: a first convolution, a classifier, dense layers.

python benchmarks/single_layers.py --output layers
lutc bench --suite networks layers --remainder int8 --baseline onnxruntime --baseline onnxruntime-int8
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONVS = {"stem-7x7": ((1, 3, 224, 224), (64, 3, 7, 7), 2), "shortcut-1x1": ((1, 64, 56, 56), (128, 64, 1, 1), 2)}
"""Name -> shapes of input and weight, stride; the border keeps the size."""
DENSES = {"classifier": (1, 512, 1000), "dense-768": (128, 768, 768), "dense-3072": (128, 768, 3072)}
"""Name -> rows, inputs, outputs."""


def layer_models() -> dict[str, onnx.ModelProto]:
    """Name -> model from "x" to "y" with random weights; the convolutions have a relu behind them."""
    found: dict[str, onnx.ModelProto] = {}
    for name, (shape, weight, stride) in CONVS.items():
        pad, size = weight[2] // 2, (shape[2] - 1) // stride + 1
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name, strides=[stride] * 2, pads=[pad] * 4),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
        found[name] = _model(nodes, shape, (1, weight[0], size, size), {"w": weight, "b": weight[:1]})
    for name, (rows, inputs, outputs) in DENSES.items():
        nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], name), helper.make_node("Add", ["m", "b"], ["y"])]
        found[name] = _model(nodes, (rows, inputs), (rows, outputs), {"w": (inputs, outputs), "b": (outputs,)})
    return found


def _model(
    nodes: list[onnx.NodeProto], x: tuple[int, ...], y: tuple[int, ...], weights: Mapping[str, tuple[int, ...]]
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    values = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), key) for key, shape in weights.items()
    ]
    specs = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "layer", specs[:1], specs[1:], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("layers"), help="folder to write")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in layer_models().items():
        onnx.save(model, folder / f"{name}.onnx")
        print(folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
