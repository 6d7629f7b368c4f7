"""A small transformer encoder as an ONNX file whose batch and sequence are open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

WIDTH, HEADS, INNER, WORDS, PLACES, CLASSES = 32, 2, 48, 40, 64, 5
_TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
encoder (int64[batch, sequence] ids, float[batch, sequence] mask)
    => (float[batch, sequence, 32] hidden, float[batch, 32] pooled, float[batch, 5] classes)
<float eight = {-10000.0}, float one = {1.0}, float root = {4.0}, int64[1] zero = {0}, int64[1] first = {1},
 int64[2] middle = {1, 2}, int64[1] last = {2}, int64 start = {0}, int64[4] split = {0, 0, 2, 16},
 int64[3] joined = {0, 0, 32}> {
    embedded = Gather <axis = 0> (words, ids)
    shape = Shape (ids)
    length = Slice (shape, first, last)
    here = Slice (places, zero, length, zero)
    summed = Add (embedded, here)
    x = LayerNormalization <axis = -1> (summed, gain, shift)
    open = Unsqueeze (mask, middle)
    closed = Sub (one, open)
    bias = Mul (closed, eight)
    q0 = MatMul (x, w_query)
    k0 = MatMul (x, w_key)
    v0 = MatMul (x, w_value)
    q1 = Reshape (q0, split)
    k1 = Reshape (k0, split)
    v1 = Reshape (v0, split)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    raw = MatMul (q, k)
    scaled = Div (raw, root)
    scores = Add (scaled, bias)
    weights = Softmax <axis = -1> (scores)
    context = MatMul (weights, v)
    turned = Transpose <perm = [0, 2, 1, 3]> (context)
    merged = Reshape (turned, joined)
    attended = MatMul (merged, w_out)
    y0 = Add (x, attended)
    y = LayerNormalization <axis = -1> (y0, gain, shift)
    up0 = MatMul (y, w_up)
    up = Gelu (up0)
    down = MatMul (up, w_down)
    z = Add (y, down)
    hidden = LayerNormalization <axis = -1> (z, gain, shift)
    pooled = ReduceMean <keepdims = 0> (hidden, first)
    head = Gather <axis = 1> (hidden, start)
    classes = MatMul (head, w_classes)
}
"""
LAYERS = ("query", "key", "value", "out", "up", "down", "classes")


def encoder(path: Path) -> Path:
    """Write the model; its dense layers are called like LAYERS."""
    model = parser.parse_model(_TEXT)
    rng = np.random.default_rng(3)
    shapes = {
        "words": (WORDS, WIDTH), "places": (PLACES, WIDTH), "w_up": (WIDTH, INNER), "w_down": (INNER, WIDTH),
        "w_classes": (WIDTH, CLASSES), **{f"w_{name}": (WIDTH, WIDTH) for name in ("query", "key", "value", "out")},
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(np.float32) / shape[0] ** 0.5 for name, shape in shapes.items()}
    arrays |= {"words": 3 * arrays["words"], "gain": np.ones(WIDTH, np.float32), "shift": np.zeros(WIDTH, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith("w_"):
            node.name = node.input[1].removeprefix("w_")
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def inputs(batch: int, sequence: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Token ids, and a mask that hides some of them."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((batch, sequence)) < 0.8).astype(np.float32)
    mask[:, 0] = 1
    return {"ids": rng.integers(0, WORDS, (batch, sequence)), "mask": mask}
