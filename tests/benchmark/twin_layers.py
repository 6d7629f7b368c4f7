"""An artifact with two dense layers whose names differ only in a character that symbols cannot have."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save_twins(folder: Path) -> Path:
    """ "a.1" (16 -> 16) and "a_1" (16 -> 5) after one another, compiled for this machine."""
    import onnx
    from onnx import helper, numpy_helper

    from lutc.compiler import compile

    rng = np.random.default_rng(0)
    nodes, constants = [], []
    for index, (name, outputs) in enumerate((("a.1", 16), ("a_1", 5))):
        values = {
            f"centroids{index}": rng.standard_normal((4, 16, 4), np.float32),
            f"table{index}": rng.integers(-127, 128, (4, 16, outputs)).astype(np.int8),
            f"scale{index}": np.full(outputs, 0.01, np.float32),
        }
        constants += [numpy_helper.from_array(value, key) for key, value in values.items()]
        nodes.append(
            helper.make_node(
                "LUTDense", [("x", "h")[index], *values], [("h", "y")[index]], name=name, domain="lutc",
                encode_dtype="float32", encoder="l2", input_signed=1,
            )
        )  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "twins",
        [helper.make_tensor_value_info("x", 1, [8, 16])],
        [helper.make_tensor_value_info("y", 1, [8, 5])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lutc", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "twins.onnx")
    return compile(folder / "twins.onnx", "native", output=folder / "twins.lutc").path
