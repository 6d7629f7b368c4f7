"""Tensor intrinsics, one file an ISA. A file with an `ISA` row and a `register()` is found by itself."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from tvm_ext.tensor_intrin.spec import PLAIN_DOT, ROWS, TABLE_ENTRIES, Dot, Isa, Product, TableRead, Tree, Window

__all__ = [
    "PLAIN_DOT",
    "ROWS",
    "TABLE_ENTRIES",
    "Dot",
    "Isa",
    "Product",
    "TableRead",
    "Tree",
    "Window",
    "get_isa",
    "list_isas",
]


@functools.cache
def list_isas() -> tuple[Isa, ...]:
    """All ISAs, best first; their intrinsics are registered by the first call."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "ISA"):
            module.register()
            found.append(module.ISA)
    return tuple(sorted(found, key=lambda isa: -isa.rank))


def get_isa(name: str) -> Isa:
    """The ISA called `name`, or NAME/rows for `Isa.of_rows`; raises ValueError if there is none."""
    base, _, form = name.partition("/")
    for isa in list_isas():
        if isa.name == base:
            return isa.of_rows if form == ROWS else isa
    raise ValueError(f"no ISA named {name!r}; there are {', '.join(isa.name for isa in list_isas())}")
