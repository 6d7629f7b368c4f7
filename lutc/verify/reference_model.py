"""The ONNX model that says what an artifact computes: found, checked, and run with a look at its layers' inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lutc.artifact.manifest import LayerRow, Manifest
from lutc.errors import VerifyError
from lutc.importers.codebooks import Codebooks
from lutc.importers.lut_layer import ARGUMENTS, LUTLayer
from lutc.importers.onnx_domains import LUTC_DOMAIN
from lutc.importers.onnx_file import read_onnx
from lutc.importers.onnx_graph import prepare
from lutc.importers.onnx_lut_nodes import read_lut_nodes
from lutc.onnx_runner import OnnxRunner
from lutc.verify.annotate import annotate
from lutc.verify.integers import STEPS, annotate_integers

_NUDGE = 3e-6  # a few times what float32 convolutions differ by


class ReferenceModel:
    """A reference with its lookup-table layers.

    Parameters
    ----------
    path : the .onnx file.
    manifest : of the artifact.
    codebooks : those the artifact was compiled with, where the model itself is float.
    narrow : give tables that the compiler narrowed (`table_bits`) the values that the artifact has.
    integers : compute the layers of an int8 remainder as the artifact does.

    Raises
    ------
    ModelImportError : the file cannot be read.
    VerifyError : its layers are not the artifact's.
    """

    def __init__(
        self, path: Path, manifest: Manifest, codebooks: Codebooks | None, *, narrow: bool = True, integers: bool = True
    ) -> None:  # fmt: skip
        model, self.sha256 = read_onnx(path)
        self.path = str(path)
        self._model = prepare(model)
        tables = {row.name for row in manifest.layers if row.kind == "lut"}
        if codebooks is not None:
            used = {name: book for name, book in codebooks.items() if name in tables}
            annotate(self._model, used, self.path)
        self.layers: dict[str, LUTLayer] = read_lut_nodes(self._model.graph, self.path)
        missing = sorted(tables - set(self.layers))
        if missing:
            raise _without_tables(self.path, missing, codebooks)
        nodes = {node.name: node for node in self._model.graph.node if node.domain == LUTC_DOMAIN}
        for row in narrowed_layers(manifest) if narrow else ():
            _narrow(self._model.graph, nodes[row.name], self.layers[row.name], row.table_bits)
        self.layer_inputs = {name: nodes[name].input[0] for name in self.layers if name in nodes}
        self.integers = annotate_integers(self._model, remainder_layers(manifest), self.path) if integers else {}
        self.layer_inputs |= {name: layer.input for name, layer in self.integers.items()}
        self.outputs = [value.name for value in self._model.graph.output]
        self._runner: OnnxRunner | None = None
        self._nudged: list[OnnxRunner] | None = None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's outputs and its layers' inputs by tensor name."""
        if self._runner is None:
            self._runner = OnnxRunner(self._model, list(self.layer_inputs.values()), self.path)
        return self._runner.run(feeds)

    def run_nudged(self, feeds: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The outputs when every layer's input is off by 3 parts in 10^6, once each way; none without layers.

        A code is a decision, which the rounding of a float convolution before it can tip: how far the outputs move here
        is how far two right implementations may be apart.
        """
        if not any(_decides(node) for node in self._model.graph.node):
            return []
        if self._nudged is None:
            self._nudged = [OnnxRunner(_nudged(self._model, sign), [], self.path) for sign in (1, -1)]
        return [runner.run(feeds) for runner in self._nudged]


def narrowed_layers(manifest: Manifest) -> list[LayerRow]:
    """The layers whose int8 tables have fewer bits in the artifact than in the model."""
    return [row for row in manifest.layers if row.table_error]


def remainder_layers(manifest: Manifest) -> list[LayerRow]:
    """The layers that are float in the model and integer in the artifact."""
    return [row for row in manifest.layers if row.kind == "integer" and row.inv_scale]


def _narrow(graph: onnx.GraphProto, node: onnx.NodeProto, layer: LUTLayer, bits: int) -> None:
    """Give a lutc node the table that the compiler made of its own."""
    from tvm_ext.compute.narrow import narrow_table

    table, scale = layer.constants["table"], layer.constants["table_scale"]
    assert table is not None and scale is not None
    values = narrow_table(table, scale, 1 << (8 - bits))
    for argument, value in zip(("table", "table_scale"), values, strict=True):
        name = f"{node.name}.narrow_{argument}"
        graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[1 + ARGUMENTS.index(argument)] = name


def find_reference(artifact: str | os.PathLike[str], manifest: Manifest, given: str | os.PathLike[str] | None) -> Path:
    """The given path, or the compiled model beside the artifact or in the working directory.

    Raises
    ------
    VerifyError : nothing was given and the model is not there, or it has changed since; or it is not ONNX.
    """
    if given is not None:
        return _check_onnx(Path(given))
    name = manifest.source.file
    places = dict.fromkeys([Path(artifact).parent / name, Path(name)])
    found = [place for place in places if place.is_file()]
    if not found:
        raise VerifyError(
            "the model that the artifact was compiled from is not here",
            where=str(artifact),
            reason=f"it was compiled from {name}, which is neither beside it nor in the working directory",
            fix=f"give the model: --reference path/to/{name}",
        )
    path = _check_onnx(found[0])
    if read_onnx(path)[1] != manifest.source.sha256:
        raise VerifyError(
            "the model has changed since the artifact was compiled",
            where=str(path),
            reason="its SHA-256 is not the one in the artifact's manifest",
            fix=f"compile it again, or name the model to compare with: --reference {path}",
        )
    return path


def _check_onnx(path: Path) -> Path:
    if path.suffix != ".onnx" and path.exists():
        raise VerifyError(
            "the reference must be an ONNX model",
            where=str(path),
            reason=f"it is a {path.suffix or 'nameless kind of'} file",
            fix="write the same model as ONNX with lutc.export_model and give that: --reference model.onnx",
        )
    return path


def _without_tables(path: str, missing: list[str], codebooks: Codebooks | None) -> VerifyError:
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    if codebooks is None:
        return VerifyError(
            "the reference is a float model, the artifact has lookup tables",
            where=path,
            reason=f"the model has no codebooks for {shown}; the artifact was compiled with a codebook file",
            fix="give that file too: codebooks=... (--codebooks FILE)",
        )
    return VerifyError(
        "the artifact has lookup tables that neither model nor codebooks know",
        where=path,
        reason=f"layers {shown}",
        fix="give the model and the codebook file that the artifact was compiled from",
    )


def _decides(node: onnx.NodeProto) -> bool:
    """Whether the node turns its float input into codes or levels."""
    lut = node.domain == LUTC_DOMAIN and node.op_type in ("LUTDense", "LUTConv2d", "LUTQuantize")
    return lut or node.name.endswith(STEPS)


def _nudged(model: onnx.ModelProto, sign: int) -> onnx.ModelProto:
    """The model with the input of every second node that makes codes a little larger, of the others smaller."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if _decides(node):
            factor = np.float32(1 + sign * _NUDGE)
            sign = -sign
            name = f"{node.name}.nudge"
            copy.graph.initializer.append(numpy_helper.from_array(factor, name))
            nodes.append(helper.make_node("Mul", [node.input[0], name], [f"{name}.x"]))
            node.input[0] = f"{name}.x"
        nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy
