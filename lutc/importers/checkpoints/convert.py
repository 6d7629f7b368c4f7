"""convert_checkpoint: a checkpoint file -> a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lutc.errors import ModelImportError
from lutc.export.exporter import export_model
from lutc.files import check_file
from lutc.importers.checkpoints.network import import_checkpoint

_KEYS = ("bits", "level_set", "biases", "input_ranges")


def convert_checkpoint(
    path: Path,
    format: str,
    arch: str,
    output: Path,
    *,
    bits: int | None = None,
    settings_file: Path | None = None,
    batch: int = 1,
) -> dict[str, str]:
    """Import a checkpoint of a known network and write it as .onnx or .pt2; returns what each layer holds.

    Raises
    ------
    ModelImportError : as `import_checkpoint`, or the settings cannot be read.
    """
    settings = _settings(settings_file)
    if bits is not None:
        settings["bits"] = bits
    network = import_checkpoint(path, format, arch, **settings)
    assert network.input_shape is not None
    export_model(network.module, torch.zeros(batch, *network.input_shape), output)
    return network.layers


def _settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    path = check_file(path, (".json",))
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(path, f"it is not JSON: {error}") from error
    if not isinstance(settings, dict) or not set(settings) <= set(_KEYS):
        found = ", ".join(settings) if isinstance(settings, dict) else type(settings).__name__
        raise _unreadable(path, f"it holds {found}")
    return settings


def _unreadable(path: Path, reason: str) -> ModelImportError:
    return ModelImportError(
        "cannot read the settings", where=str(path), reason=reason, fix=f"write an object with {', '.join(_KEYS)}"
    )
