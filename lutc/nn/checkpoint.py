"""Checkpoints of an interrupted training run: one file, replaced in one step, loaded without running any code."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch

from lutc.errors import LutcError


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save_checkpoint(path: str | os.PathLike[str], progress: dict[str, Any], **parts: Stateful) -> None:
    """Write the states of models, optimizers and schedules, and `progress`: numbers, strings, tensors, lists."""
    path = Path(path)
    state = {"progress": progress, "random": torch.get_rng_state()}
    state |= {name: part.state_dict() for name, part in parts.items()}
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            torch.save(state, file)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def load_checkpoint(path: str | os.PathLike[str], **parts: Stateful) -> dict[str, Any]:
    """Give the parts their states back, and torch's random numbers; returns `progress`.

    A layer whose table was free when it was saved frees it on loading, so load the model before making its optimizer.

    Raises
    ------
    LutcError : the file is no checkpoint, or holds no state for a part.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = state["progress"]
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
        raise LutcError(
            "cannot load a checkpoint", where=str(path), reason=str(error).splitlines()[0], fix="start without it"
        ) from error
    missing = sorted(set(parts) - set(state))
    if missing:
        raise LutcError(
            "cannot load a checkpoint",
            where=str(path),
            reason=f"it holds {', '.join(sorted(set(state) - {'random', 'progress'}))}, not {', '.join(missing)}",
            fix="pass the parts that were saved",
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return progress
