"""Scalar quantizers (docs/ops/LUTQuantize_v1.md): their constants read from files, checked, and as a Relax call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper
from tvm import relax

import tvm_ext.op
from lutc.errors import ModelImportError
from lutc.importers.onnx_domains import LUTC_DOMAIN
from lutc.importers.onnx_graph import all_nodes, constants, describe

Problem = tuple[str, str]  # reason, fix
OP_TYPE = "LUTQuantize"
_EXPORT_AGAIN = "export the model again with lutc.export_model"


@dataclass(frozen=True, eq=False)
class Quantizer:
    """thresholds float32 [T] or [C, T], levels float32 [T + 1] or [C, T + 1]; `axis` is the channel axis of x."""

    name: str
    thresholds: np.ndarray
    levels: np.ndarray
    axis: int

    def problem(self) -> Problem | None:
        """What is wrong with the constants, and what to do."""
        t, y = self.thresholds, self.levels
        if (
            t.dtype != np.float32
            or y.dtype != np.float32
            or t.ndim not in (1, 2)
            or y.shape != (*t.shape[:-1], t.shape[-1] + 1)
        ):
            return (
                f"its thresholds are {t.dtype.name}{list(t.shape)} and its levels {y.dtype.name}{list(y.shape)}, "
                "expected float32 [T] and [T + 1], or [C, T] and [C, T + 1]",
                _EXPORT_AGAIN,
            )
        if y.shape[-1] > 256:
            return f"it has {y.shape[-1]} levels", "use at most 256"
        if np.isnan(t).any() or np.isneginf(t).any() or not np.isfinite(y).all():
            return "its thresholds or levels are not numbers", "look for a training run that diverged, and export again"
        if (t[..., 1:] < t[..., :-1]).any():
            return "its thresholds decrease", _EXPORT_AGAIN
        return None

    def input_problem(self, shape: tuple[int, ...]) -> Problem | None:
        """What keeps the quantizer from an input of this shape."""
        if self.thresholds.ndim == 1:
            return None
        if 0 <= self.axis < len(shape) and shape[self.axis] == len(self.thresholds):
            return None
        return f"its {len(self.thresholds)} rows do not fit axis {self.axis} of an input {list(shape)}", _EXPORT_AGAIN

    def call(self, x: relax.Expr) -> relax.Call:
        values = relax.const(self.thresholds), relax.const(self.levels)
        return tvm_ext.op.quantize(x, *values, axis=self.axis, layer=self.name)


def quantizer_error(where: str, problem: Problem) -> ModelImportError:
    reason, fix = problem
    return ModelImportError("cannot import a quantizer", where=where, reason=reason, fix=fix)


def read_quantizers(graph: onnx.GraphProto, source: str, places: Mapping[str, str]) -> dict[str, Quantizer]:
    """Node name -> quantizer, for every LUTQuantize node.

    Raises
    ------
    ModelImportError : the first node that is inconsistent, or whose constants are computed.
    """
    known = constants(graph)
    found: dict[str, Quantizer] = {}
    for index, node in enumerate(all_nodes(graph)):
        if node.domain == LUTC_DOMAIN and node.op_type == OP_TYPE:
            quantizer, problem = _read(node, known)
            if quantizer is None or problem is not None:
                place = places.get(node.name) or describe(index, node)
                raise quantizer_error(f"{source}, {place}", problem or ("", _EXPORT_AGAIN))
            found[node.name] = quantizer
    return found


def _read(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> tuple[Quantizer | None, Problem | None]:
    if len(node.input) != 3 or len(node.output) != 1:
        return None, ("it does not take x, thresholds and levels", _EXPORT_AGAIN)
    for argument, name in zip(("thresholds", "levels"), node.input[1:], strict=True):
        if name not in known:
            return None, (f'its {argument} ("{name}") is computed while the model runs', "store it as an initializer")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    quantizer = Quantizer(
        node.name, *(numpy_helper.to_array(known[name]) for name in node.input[1:]), axis=int(attributes.get("axis", 1))
    )
    return quantizer, quantizer.problem()
