"""Trained torch models -> files the compiler reads."""

from __future__ import annotations

from lutc.export.export_model import export_model

__all__ = ["export_model"]
