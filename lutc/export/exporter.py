"""export_model: a converted torch model -> .onnx or .pt2."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from lutc import __version__
from lutc.errors import LutcError
from lutc.nn.eval_mode import eval_mode
from lutc.nn.frozen import FrozenLUTLayer
from lutc.nn.frozen_quantized import FrozenPalette, FrozenQuantizer
from lutc.nn.layer import LUTLayer
from lutc.nn.quantized_layer import QuantizedLayer


def export_model(
    model: nn.Module,
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Write a model whose layers are converted (or all float) in eval mode; the batch size is that of the example.

    Parameters
    ----------
    example_inputs : the arguments of forward, float32; a lone tensor is one argument.
    path : ends in .onnx (domain `lutc`, runs in ONNX Runtime as it is) or .pt2 (an ExportedProgram that calls
        torch.ops.lutc; import lutc.nn before loading it).
    input_names, output_names : names of the ONNX graph's inputs and outputs; forward's own by default.

    Returns
    -------
    The path written. It is replaced in one step: an interrupted export leaves no half file.

    Raises
    ------
    LutcError : the suffix is neither, or a layer is still in its training form.
    """
    path = Path(path)
    _check_suffix(path)
    _check_converted(model)
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    for name, module in model.named_modules():
        if isinstance(module, (FrozenLUTLayer, FrozenQuantizer, FrozenPalette)):
            module.set_name(name)
    with eval_mode(model), torch.no_grad():
        if path.suffix == ".onnx":
            _write(path, lambda target: _save_onnx(model, inputs, target, input_names, output_names))
        else:
            _write(path, lambda target: _save_pt2(model, inputs, target))
    return path


def _save_onnx(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    target: Path,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> None:
    try:
        from lutc.export.onnx_writer import layer_metadata, to_onnx  # slow to import, and .pt2 does not need it
    except ImportError as error:
        raise LutcError(
            "cannot write ONNX files",
            where="this Python environment",
            reason=str(error),
            fix="pip install 'lutc[torch]'",
        ) from error

    configs = {name: layer.config.to_dict() for name, layer in _frozen_layers(model).items()}
    metadata = {"lutc.version": __version__, "lutc.config": layer_metadata(configs)}
    proto = to_onnx(model, inputs, input_names=input_names, output_names=output_names, metadata=metadata)
    target.write_bytes(proto.SerializeToString(deterministic=True))


def _save_pt2(model: nn.Module, inputs: tuple[torch.Tensor, ...], target: Path) -> None:
    program = torch.export.export(model, inputs)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of the exporting machine
    torch.export.save(program, target)


def _write(path: Path, save: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        target = Path(folder) / path.name
        save(target)
        os.replace(target, path)


def _frozen_layers(model: nn.Module) -> dict[str, FrozenLUTLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FrozenLUTLayer)}


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".onnx", ".pt2"):
        raise LutcError(
            f'cannot export to "{path.name}"',
            where=str(path),
            reason=f"the suffix {path.suffix!r} names no known format",
            fix="end the path in .onnx or .pt2",
        )
    if not path.parent.is_dir():
        raise LutcError(
            f'cannot export to "{path.name}"',
            where=str(path),
            reason=f"the folder {path.parent} does not exist",
            fix="create the folder first",
        )


def _check_converted(model: nn.Module) -> None:
    waiting = {
        name or "(the model itself)": module
        for name, module in model.named_modules()
        if isinstance(module, (LUTLayer, QuantizedLayer))
    }
    if waiting:
        tables = any(isinstance(module, LUTLayer) for module in waiting.values())
        held = "lookup-table layer(s) still hold trainable centroids instead of tables"
        raise LutcError(
            "cannot export a model in its training form",
            where=", ".join(waiting),
            reason=f"{len(waiting)} " + (held if tables else "layer(s) still hold quantizers that are trained"),
            fix='quantize_(model, config, step="convert")',
        )
