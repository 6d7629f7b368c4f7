"""Quantization Networks checkpoints in the layout of the training code, variables of PyTorch 0.3 included."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lutc.errors import ModelImportError
from lutc.importers.checkpoints import import_checkpoint
from lutc.importers.checkpoints.architectures import ARCHITECTURES
from tests.importers.checkpoints.small_net import SmallNet, float_state

LEVELS = (-4, -2, -1, 0, 1, 2, 4)
BIASES = [[-3.0, -1.5, -0.5, 0.5, 1.5, 3.0], [-2.0, -1.2, -0.05, 0.05, 1.2, 2.0]]
_ALPHA, _BETA = (0.05, -0.04), (21.0, 18.0)


class OldVariable:
    """Pickles as torch.autograd.Variable did in PyTorch 0.3."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int):
        return OldVariable, (self.data,), (True, False, None)

    def __setstate__(self, state: object) -> None: ...


def save(folder: Path, *, old: bool = False, activations: bool = False, levels=LEVELS) -> Path:
    state = {key.removeprefix("module."): value for key, value in float_state().items()}
    if activations:
        for name in ("quan0", "quan1"):
            state |= {
                f"{name}.alpha": torch.tensor([0.3]),
                f"{name}.beta": torch.tensor([3.0]),
                f"{name}.biases": torch.tensor([0.5, 1.5, 2.5]),
                f"{name}.scales": torch.ones(3),
            }
    wrap = OldVariable if old else (lambda value: value)
    lists = {name: [wrap(torch.tensor([v])) for v in values] for name, values in (("alpha", _ALPHA), ("beta", _BETA))}
    path = folder / "qn.pth.tar"
    torch.save({"state_dict": state, "optimizer": {}, "optimizer_alpha": {}, "optimizer_beta": {}, **lists}, path)
    return path


@pytest.fixture
def old_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module and name under which PyTorch 0.3 knew the class, while the file is written."""
    module = types.ModuleType("torch.autograd.variable")
    module.Variable = OldVariable
    monkeypatch.setitem(sys.modules, "torch.autograd.variable", module)
    names = OldVariable.__module__, OldVariable.__qualname__, OldVariable.__name__
    OldVariable.__module__, OldVariable.__qualname__, OldVariable.__name__ = module.__name__, "Variable", "Variable"
    yield
    OldVariable.__module__, OldVariable.__qualname__, OldVariable.__name__ = names


def expected_weight(name: str, index: int) -> np.ndarray:
    x = float_state()[f"module.{name}.weight"].numpy() * np.float32(_BETA[index])
    codes = (x[..., None] > np.array(BIASES[index], np.float32)).sum(-1)
    return np.array(LEVELS, np.float32)[codes] * np.float32(_ALPHA[index])


def test_weights(tmp_path: Path) -> None:
    network = import_checkpoint(save(tmp_path), "quantization-networks", SmallNet(), level_set=LEVELS, biases=BIASES)
    for index, name in enumerate(("body", "shortcut")):
        np.testing.assert_allclose(network.module.get_submodule(name).weight(), expected_weight(name, index), rtol=1e-6)
    assert network.layers["conv1"] == network.layers["fc"] == "float"


def test_old_variables(tmp_path: Path, old_variable: None) -> None:
    path = save(tmp_path, old=True)
    network = import_checkpoint(path, "quantization-networks", SmallNet(), level_set=LEVELS, biases=BIASES)
    np.testing.assert_allclose(network.module.body.weight(), expected_weight("body", 0), rtol=1e-6)


def test_activations_stand_where_the_training_code_uses_them(tmp_path: Path) -> None:
    network = import_checkpoint(
        save(tmp_path, activations=True), "quantization-networks", SmallNet(), level_set=LEVELS, biases=BIASES
    )
    assert network.layers["quan1"] == "4 levels" and "quan0" not in network.layers
    x = torch.tensor([-1.0, 0.5 / 3, 0.17, 0.6, 0.9, 50.0])
    torch.testing.assert_close(network.module.quan1(x), torch.tensor([0.0, 0.0, 1, 2, 3, 3]) * 0.3)


def test_binary_weights_have_two_levels(tmp_path: Path) -> None:
    """The configuration gives [-1, 0, 1] and both biases 0: the middle level is never reached, and 0 goes down."""
    network = import_checkpoint(
        save(tmp_path), "quantization-networks", SmallNet(), level_set=(-1, 0, 1), biases=[[0.0, 0.0]] * 2
    )
    torch.testing.assert_close(network.module.body.weight.levels, torch.tensor([-0.05, 0.05]))


def test_what_it_refuses(tmp_path: Path, golden) -> None:
    path = save(tmp_path)
    for name, settings in {
        "no-levels": {},
        "too-few-biases": {"level_set": LEVELS, "biases": BIASES[:1]},
        "short-biases": {"level_set": LEVELS, "biases": [[0.0], [1.0]]},
    }.items():
        with pytest.raises(ModelImportError) as caught:
            import_checkpoint(path, "quantization-networks", SmallNet(), **settings)
        golden(str(caught.value), f"importers/checkpoint-qn-{name}.txt")


def test_resnet18_has_the_layers_of_the_training_code() -> None:
    with torch.device("meta"):
        net = ARCHITECTURES["resnet18"].build(1000)
    convs = [name for name, layer in net.named_modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(convs[1:-1]) == 19 and convs[6:9] == ["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv1"]
    assert sum(p.numel() for p in net.parameters()) == 11_689_512
