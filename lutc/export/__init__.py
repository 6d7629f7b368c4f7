"""Trained torch models -> files the compiler reads. Torch is only loaded with `export_model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lutc.export.exporter import export_model

__all__ = ["export_model"]


def __getattr__(name: str) -> Any:
    if name != "export_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lutc.export.exporter import export_model

    return export_model
