"""What the training helpers say when they cannot go on; `--update-golden` writes the texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lutc.calibrate import calibrate
from lutc.config import LUTConfig, ScalarConfig
from lutc.errors import LutcError
from lutc.nn import quantize_, reconstruct_
from lutc.nn.batch_norm import reestimate_batch_norm_
from lutc.nn.checkpoint import load_checkpoint, save_checkpoint


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))


def load_without_optimizer(folder: Path) -> None:
    save_checkpoint(folder / "run.pt", {}, model=network())
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    load_checkpoint(folder / "run.pt", optimizer=optimizer)


CASES: dict[str, Callable[[Path], object]] = {
    "share-unknown": lambda folder: quantize_(network(), share=[("0", "2")]),
    "share-different": lambda folder: quantize_(network(), LUTConfig(4, 2), share=[("0", "1")]),
    "reconstruct-scalar": lambda folder: reconstruct_(
        nn.Sequential(*network(), nn.Linear(4, 4)), ScalarConfig("lsq"), calibration=[]
    ),
    "reconstruct-no-batch": lambda folder: reconstruct_(network(), calibration=[]),
    "batch-norm-no-batch": lambda folder: reestimate_batch_norm_(network(), []),
    "checkpoint-part": load_without_optimizer,
    "calibrate-four-bits": lambda folder: calibrate("model.onnx", {}, LUTConfig(table_bits=4)),
}


@pytest.mark.parametrize("case", CASES)
def test_errors(case: str, golden: Callable[[str, str], None], tmp_path: Path) -> None:
    with pytest.raises(LutcError) as caught:
        CASES[case](tmp_path)
    golden(str(caught.value).replace(str(tmp_path), "runs"), f"nn/{case}.txt")
