"""LLT checkpoints: the float file, and quantized ones as the training code lays them out, evaluated or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lutc.importers.checkpoints import import_checkpoint
from lutc.nn.quantizers import LLT
from tests.end_to_end.resnet20 import ResNet20, data_folder, images
from tests.importers.checkpoints.small_net import SmallNet, float_state


def quantizer(bits: int, signed: bool, seed: int) -> LLT:
    torch.manual_seed(seed)
    made = LLT(bits, signed=signed, is_weight=signed).eval()
    made.initialized.fill_(True)
    with torch.no_grad():
        made.log_scale.fill_(-2.0 if signed else -0.8)
        made.table.normal_()
    return made


def hard_table(made: LLT) -> Tensor:
    """The table of an evaluation, as the training code shapes it."""
    return made._lookup(F.one_hot(made.table.argmax(2), made.granularity).float())[0].detach()


def checkpoint(folder: Path, bits: int, *, evaluated: bool) -> tuple[Path, dict[str, tuple[LLT, LLT]]]:
    state, made = float_state(), {}
    for seed, name in enumerate(("body", "shortcut")):
        pair = quantizer(bits, False, seed), quantizer(bits, True, seed + 10)
        made[name] = pair
        for key, part in zip(("act_quant", "kernel_quant"), pair, strict=True):
            prefix = f"module.{name}.{key}"
            state[f"{prefix}.scale"], state[f"{prefix}.table"] = part.log_scale[0].detach(), part.table[0].detach()
            state[f"{prefix}.T"] = torch.ones(1, 1, 2 * part.cells - 1)
            if evaluated:
                state[f"{prefix}.table_q"] = hard_table(part).reshape(1, 1, -1, 1)
        if evaluated:
            state[f"module.{name}.kernel_q"] = pair[1](state[f"module.{name}.weight"]).detach()
    path = folder / "llt.pth"
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {}}, path)
    return path, made


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("evaluated", [False, True])
def test_quantized_layers(bits: int, evaluated: bool, tmp_path: Path) -> None:
    path, made = checkpoint(tmp_path, bits, evaluated=evaluated)
    network = import_checkpoint(path, "llt", SmallNet())
    assert network.layers["conv1"] == network.layers["fc"] == "float"
    x = torch.rand(50_000) * 1.2
    for name, (inputs, weights) in made.items():
        layer = network.module.get_submodule(name)
        original = float_state()[f"module.{name}.weight"]
        torch.testing.assert_close(layer.weight(), weights(original), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.input_quantizer(x), inputs(x), rtol=1e-5, atol=1e-6)
        assert len(layer.input_quantizer.levels) == 2**bits


def test_one_bit_weights_need_to_be_told(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, 2, evaluated=False)
    assert import_checkpoint(path, "llt", SmallNet()).module.body.weight.levels.numel() == 3
    one_bit = import_checkpoint(path, "llt", SmallNet(), bits=1).module.body.weight.levels
    torch.testing.assert_close(one_bit, torch.tensor(-2.0).exp() * torch.tensor([-1.0, 1.0]))


def test_float_file() -> None:
    path = data_folder() / "llt-resnet20-32bit.pth"
    network = import_checkpoint(path, "llt", "resnet20")
    assert set(network.layers.values()) == {"float"}
    twin = ResNet20()
    state = torch.load(path, weights_only=True)
    twin.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    x = images("test", 16)
    with torch.no_grad():
        torch.testing.assert_close(network.module(x), twin.eval()(x), rtol=0, atol=0)
