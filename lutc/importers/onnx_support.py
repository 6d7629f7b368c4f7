"""Which ONNX operators can be imported; all that cannot are named in one error."""

from __future__ import annotations

import onnx
from tvm.relax.frontend.onnx import onnx_frontend

from lutc.errors import ModelImportError
from lutc.importers.names import did_you_mean
from lutc.importers.onnx_domains import LUTC_DOMAIN, STANDARD_DOMAINS
from lutc.importers.onnx_graph import all_nodes

LUT_OPS = ("LUTDense", "LUTConv2d", "LUTQuantize")
LUTC_VERSION = 1
# TVM looks operators up by name alone, so a foreign operator must not pass for a standard one of the same name
_CONTRIB_DOMAIN = "com.microsoft"
_CONTRIB_OPS = frozenset({"BiasGelu", "EmbedLayerNormalization", "FastGelu", "Gelu", "SkipLayerNormalization"})
_HANDLED_BY_IMPORTER = frozenset({"If", "Constant"})
_HINTS = {
    "Loop": "export the model with the loop unrolled, for a fixed number of steps",
    "Scan": "export the model with the loop unrolled, for a fixed number of steps",
    "LSTM": "lutc compiles networks of conv and dense layers; run the recurrent part elsewhere",
    "GRU": "lutc compiles networks of conv and dense layers; run the recurrent part elsewhere",
    "RNN": "lutc compiles networks of conv and dense layers; run the recurrent part elsewhere",
    "QLinearConv": "export the float model; lutc makes its own integer kernels",
    "QLinearMatMul": "export the float model; lutc makes its own integer kernels",
    "ConvInteger": "export the float model; lutc makes its own integer kernels",
    "FusedConv": "give the model as it was exported, before ONNX Runtime optimized it",
    "FusedMatMul": "give the model as it was exported, before ONNX Runtime optimized it",
}
_GENERAL_HINT = "export the model without these operators (cut pre- and post-processing off, or try another opset)"


def check_supported(model: onnx.ModelProto, source: str) -> None:
    """Raise ModelImportError that lists every operator without a converter, with the nodes that use it."""
    _check_lutc_version(model, source)
    supported = set(onnx_frontend._get_convert_map()) | _HANDLED_BY_IMPORTER
    found: dict[tuple[str, str], list[str]] = {}
    for node in all_nodes(model.graph):
        if not _is_supported(node, supported):
            found.setdefault((node.domain, node.op_type), []).append(node.name)
    if not found:
        return
    lines = [_line(domain, op_type, names, supported) for (domain, op_type), names in found.items()]
    hints = dict.fromkeys(_HINTS.get(op_type, _GENERAL_HINT) for _, op_type in found)
    count = sum(map(len, found.values()))
    raise ModelImportError(
        f"the model has {count} node{'s' * (count > 1)} with operators that cannot be imported",
        where=source,
        reason="\n".join(lines),
        fix="\n".join(hints),
    )


def _is_supported(node: onnx.NodeProto, supported: set[str]) -> bool:
    if node.domain == LUTC_DOMAIN:
        return node.op_type in LUT_OPS
    if node.domain == _CONTRIB_DOMAIN:
        return node.op_type in _CONTRIB_OPS
    return node.domain in STANDARD_DOMAINS and node.op_type in supported


def _line(domain: str, op_type: str, names: list[str], supported: set[str]) -> str:
    known = LUT_OPS if domain == LUTC_DOMAIN else supported if domain in STANDARD_DOMAINS else ()
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    title = f"{domain}::{op_type}" if domain else op_type
    return f"{title} ({len(names)} node{'s' * (len(names) > 1)}: {shown}){did_you_mean(op_type, known)}"


def _check_lutc_version(model: onnx.ModelProto, source: str) -> None:
    for opset in model.opset_import:
        if opset.domain == LUTC_DOMAIN and opset.version > LUTC_VERSION:
            raise ModelImportError(
                "the model uses a newer version of the lutc operators",
                where=f"{source}, opset import of domain {LUTC_DOMAIN}",
                reason=f"it asks for version {opset.version}; this version of lutc reads up to {LUTC_VERSION}",
                fix="upgrade lutc, or export the model again with this version",
            )
