"""Checkpoints of other people's training code -> networks in inference form, ready for `lutc.export_model`.

Importing this package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lutc.errors import ModelImportError

if TYPE_CHECKING:
    from lutc.importers.checkpoints.convert import convert_checkpoint
    from lutc.importers.checkpoints.network import ImportedNetwork, import_checkpoint

__all__ = ["ImportedNetwork", "convert_checkpoint", "import_checkpoint"]

_HOME = {"ImportedNetwork": "network", "convert_checkpoint": "convert", "import_checkpoint": "network"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        raise ModelImportError(
            "cannot import a checkpoint",
            where="this Python environment",
            reason=str(error),
            fix='pip install "lutc[torch]"',
        ) from error
    return getattr(home, name)
