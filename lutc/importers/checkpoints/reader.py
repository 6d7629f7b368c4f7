"""Checkpoint files: read without running anything of theirs, old variables included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lutc.errors import ModelImportError
from lutc.files import check_file

SUFFIXES = (".pth", ".tar", ".pt", ".ckpt")


class _LegacyVariable:
    """Stands for torch.autograd.Variable as PyTorch 0.3 pickled it: a tensor and (requires_grad, volatile, hooks)."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __setstate__(self, state: object) -> None:
        """The state does not matter for inference."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The file's dictionary, tensors on the CPU; torch.load with weights_only, so that no code of the file runs.

    Raises
    ------
    ModelImportError : missing, unreadable, or with objects other than tensors and plain containers.
    """
    path = check_file(path, SUFFIXES)
    try:
        with torch.serialization.safe_globals([(_LegacyVariable, "torch.autograd.variable.Variable")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ModelImportError(
            "cannot read the checkpoint",
            where=str(path),
            reason=f"{type(error).__name__}: {first}",
            fix="save it again with torch.save({'state_dict': model.state_dict()}, path), tensors and numbers only",
        ) from error
    content = _plain(content)
    if not isinstance(content, dict):
        raise ModelImportError(
            "cannot read the checkpoint",
            where=str(path),
            reason=f"it holds a {type(content).__name__}",
            fix="save the state_dict, or a dictionary with the key state_dict",
        )
    return content


def state_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state_dict inside a checkpoint (or the checkpoint itself), without the prefix of DataParallel.

    Raises
    ------
    ModelImportError : there is none.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ModelImportError(
            "cannot read the checkpoint",
            where=str(path),
            reason=f"no state_dict of tensors in it; its keys are {', '.join(map(str, list(content)[:8]))}",
            fix="save the state_dict, or a dictionary with the key state_dict",
        )
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_float_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the float parameters and statistics of a module; further keys in the state are left alone.

    Raises
    ------
    ModelImportError : keys are missing or have other shapes.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or other:
        shown = [f"{key} is missing" for key in missing] + other
        more = f"\nand {len(shown) - 5} more" if len(shown) > 5 else ""
        raise ModelImportError(
            "the checkpoint is of another network",
            where=source,
            reason="\n".join(shown[:5]) + more,
            fix="choose the --arch it was trained with, or give your own torch module as arch",
        )
    module.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _plain(value: Any) -> Any:
    if isinstance(value, _LegacyVariable):
        return value.data
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
