"""Results as objects: the terminal, JSON, CSV, HTML and tests read the same numbers."""

from lutc.report.base import Column, Report, TensorInfo

__all__ = ["Column", "Report", "TensorInfo"]
