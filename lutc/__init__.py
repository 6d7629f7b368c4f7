"""A compiler for lookup-table neural networks: codebook layers become shuffle-instruction kernels for ARM and x86.

The public names load when they are first used, so that ``import lutc`` and the command line start at once.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lutc.benchmark import benchmark
    from lutc.calibrate import calibrate
    from lutc.compiler import compile
    from lutc.config import LUTConfig, ScalarConfig
    from lutc.cost_model.estimate import estimate
    from lutc.errors import LutcError
    from lutc.export import export_model
    from lutc.importers import import_model
    from lutc.nn import quantize_
    from lutc.report.inspect import inspect
    from lutc.runtime.session import load
    from lutc.targets import Target, list_targets
    from lutc.verify import verify

_HOME = {
    "LUTConfig": "lutc.config",
    "LutcError": "lutc.errors",
    "ScalarConfig": "lutc.config",
    "Target": "lutc.targets",
    "benchmark": "lutc.benchmark",
    "calibrate": "lutc.calibrate",
    "compile": "lutc.compiler",
    "estimate": "lutc.cost_model.estimate",
    "export_model": "lutc.export",
    "import_model": "lutc.importers",
    "inspect": "lutc.report.inspect",
    "list_targets": "lutc.targets",
    "load": "lutc.runtime.session",
    "quantize_": "lutc.nn",
    "verify": "lutc.verify",
}

__all__ = [
    "LUTConfig",
    "LutcError",
    "ScalarConfig",
    "Target",
    "benchmark",
    "calibrate",
    "compile",
    "estimate",
    "export_model",
    "import_model",
    "inspect",
    "list_targets",
    "load",
    "quantize_",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lutc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `lutc.verify` the function after `lutc/verify.py` was imported; likewise benchmark and calibrate."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
