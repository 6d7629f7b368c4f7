"""What arguments an artifact's kernels get, seen in one run: the manifest does not tell it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

from lutc.artifact.store import Artifact


def kernel_arguments(
    artifact: Artifact, inputs: Mapping[str, Any]
) -> dict[str, tuple[tuple[tuple[int, ...], str], ...]]:
    """Symbol of each kernel -> (shape, dtype) of its arguments; it writes the last."""
    import tvm
    from tvm.runtime.vm import VirtualMachine

    from lutc.runtime.pieces import plan
    from lutc.runtime.session import load_constants

    piece, constants = plan(dict(inputs), artifact.manifest, str(artifact.path)).pieces[0], load_constants(artifact)
    arrays = [*piece.arrays, *(constants[name] for name in piece.constants)]
    found: dict[str, tuple[tuple[tuple[int, ...], str], ...]] = {}

    def watch(_function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> int:
        if before and not name.startswith("vm.builtin."):
            found[name] = tuple((tuple(map(int, a.shape)), str(a.dtype)) for a in arguments if hasattr(a, "shape"))
        return 0  # go on with the call

    with tempfile.TemporaryDirectory(prefix="lutc-profile-") as scratch:
        # by a path of its own: the loader would hand out old code of an artifact that was compiled again
        library = shutil.copy(artifact.path / piece.library, scratch)
        machine = VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
    machine.set_instrument(watch)
    machine["main"](*map(tvm.runtime.tensor, arrays))
    return found
