"""Checkpoint files that are none: each is told, and nothing in them runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lutc.errors import ModelImportError
from lutc.importers.checkpoints import import_checkpoint
from tests.importers.checkpoints.small_net import SmallNet


class Dangerous:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-checkpoint",)


def test_a_file_with_code_is_refused_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Dangerous()}, tmp_path / "bad.pth")
    with pytest.raises(ModelImportError, match="cannot read the checkpoint"):
        import_checkpoint(tmp_path / "bad.pth", "apot", SmallNet())
    assert not (tmp_path / "made-by-a-checkpoint").exists()


def test_files_that_are_no_checkpoint(tmp_path: Path, golden) -> None:
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    for name in ("missing", "list", "empty"):
        with pytest.raises(ModelImportError) as caught:
            import_checkpoint(tmp_path / f"{name}.pth", "apot", SmallNet())
        golden(str(caught.value).replace(str(tmp_path), "FOLDER"), f"importers/checkpoint-file-{name}.txt")
    with pytest.raises(ModelImportError, match="cannot read the checkpoint"):
        import_checkpoint(tmp_path / "text.pth", "apot", SmallNet())
