"""Palette weights (docs/ops/LUTPalette_v1.md) as the constants they stand for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from lutc.errors import ModelImportError
from lutc.importers.onnx_domains import LUTC_DOMAIN
from lutc.importers.onnx_graph import constants

Problem = tuple[str, str]  # reason, fix
_EXPORT_AGAIN = "export the model again with lutc.export_model"


def palette_weight(codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """float32 [M, ...] of codes uint8 [M, ...] and levels float32 [L] or [M, L].

    Raises
    ------
    ValueError : inconsistent constants; the arguments are (reason, fix).
    """
    problem = _problem(codes, levels)
    if problem:
        raise ValueError(*problem)
    if levels.ndim == 1:
        return levels[codes]
    rows = codes.reshape(len(codes), -1).astype(np.intp)
    return np.take_along_axis(levels, rows, 1).reshape(codes.shape)


def expand_palettes(model: onnx.ModelProto, source: str) -> None:
    """Replace the LUTPalette nodes of the main graph by initializers, in place.

    Raises
    ------
    ModelImportError : a node is inconsistent, or its inputs are not constants.
    """
    graph = model.graph
    known = constants(graph)
    kept = []
    for index, node in enumerate(graph.node):
        if node.domain != LUTC_DOMAIN or node.op_type != "LUTPalette":
            kept.append(node)
            continue
        try:
            weight = _weight(node, known)
        except ValueError as error:
            where = f'{source}, node {index} (LUTPalette "{node.name}")'
            raise palette_error(where, error) from error
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def palette_error(where: str, error: ValueError) -> ModelImportError:
    reason, fix = error.args
    return ModelImportError("cannot import a palette weight", where=where, reason=reason, fix=fix)


def _weight(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> np.ndarray:
    if len(node.input) != 2 or len(node.output) != 1:
        raise ValueError("it takes codes and levels, and gives one output", _EXPORT_AGAIN)
    for argument, name in zip(("codes", "levels"), node.input, strict=True):
        if name not in known:
            raise ValueError(
                f'its {argument} ("{name}") is computed while the model runs', "store it as an initializer"
            )
    codes, levels = (numpy_helper.to_array(known[name]) for name in node.input)
    return palette_weight(codes, levels)


def _problem(codes: np.ndarray, levels: np.ndarray) -> Problem | None:
    if codes.dtype != np.uint8 or codes.ndim < 1:
        return f"its codes are {codes.dtype.name}{list(codes.shape)}, expected uint8 [M, ...]", _EXPORT_AGAIN
    rows = (len(codes),)
    if (
        levels.dtype != np.float32
        or levels.ndim == 0
        or levels.shape[:-1] not in ((), rows)
        or not 1 <= levels.shape[-1] <= 256
    ):
        return (
            f"its levels are {levels.dtype.name}{list(levels.shape)}, expected float32 [L] or [{len(codes)}, L] with "
            "1 to 256 levels",
            _EXPORT_AGAIN,
        )
    if not np.isfinite(levels).all():
        return "its levels hold NaN or infinity", "look for a training run that diverged, and export again"
    if codes.size and codes.max() >= levels.shape[-1]:
        return f"it has the code {codes.max()} and {levels.shape[-1]} levels", _EXPORT_AGAIN
    return None
