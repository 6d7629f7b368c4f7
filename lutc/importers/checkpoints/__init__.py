"""Checkpoints of other people's training code -> networks in inference form, ready for `lutc.export_model`.

Importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lutc.importers.checkpoints.network import ImportedNetwork, import_checkpoint

FORMATS = ("apot", "llt", "nulsq", "quantization-networks")
_LAZY = ("ImportedNetwork", "import_checkpoint")

__all__ = ["FORMATS", "ImportedNetwork", "import_checkpoint"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lutc.importers.checkpoints import network

    return getattr(network, name)
