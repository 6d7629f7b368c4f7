"""nuLSQ, LSQ and LCQ checkpoints in the layout of the training code, against nearest levels by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lutc.errors import ModelImportError
from lutc.importers.checkpoints import import_checkpoint
from lutc.importers.checkpoints.architectures import ARCHITECTURES
from lutc.nn.quantizers import LCQ
from tests.importers.checkpoints.small_net import SmallNet, float_state


def save(folder: Path, extra: dict[str, Tensor], bare_edges: bool = False) -> Path:
    """A checkpoint without prefix; every layer carries the training code's flag unless edges are plain float layers."""
    state = {key.removeprefix("module."): value for key, value in float_state().items()}
    for name in ("body", "shortcut") if bare_edges else ("conv1", "body", "shortcut", "fc"):
        state[f"{name}.init_state"] = torch.tensor(True)
    content = {"epoch": 1, "state_dict": state | extra, "optimizer": {}, "scheduler": {}, "best_acc": 9.0, "acc": 8.0}
    torch.save(content, folder / "nulsq.pth")
    return folder / "nulsq.pth"


def steps_of(layer: str, bits: int, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    count = 2**bits - 1
    return {
        f"{layer}.x_scale": torch.rand(count) * 0.2 + 0.02,
        f"{layer}.w_scale": torch.rand(count) * 0.1 + 0.02,
        f"{layer}.Ns_x": torch.tensor(4.0),
    }


def nearest(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return levels[np.abs(x[..., None] - levels).argmin(-1)]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_nulsq(bits: int, tmp_path: Path) -> None:
    extra = steps_of("body", bits, 0) | steps_of("shortcut", bits, 1)
    network = import_checkpoint(save(tmp_path, extra), "nulsq", SmallNet())
    x = torch.rand(20_000) * 2
    for name in ("body", "shortcut"):
        layer = network.module.get_submodule(name)
        levels = np.concatenate([[0], np.cumsum(extra[f"{name}.x_scale"].double().numpy())])
        np.testing.assert_allclose(layer.input_quantizer(x), nearest(x.double().numpy(), levels), rtol=1e-5)
        steps = extra[f"{name}.w_scale"].double().numpy()
        half = 2 ** (bits - 1)
        levels = np.concatenate([-np.cumsum(steps[:half])[::-1], [0], np.cumsum(steps[half:])])
        weight = float_state()[f"module.{name}.weight"].double().numpy()
        np.testing.assert_allclose(layer.weight(), nearest(weight, levels), rtol=1e-5, atol=1e-7)


def test_edges_take_eight_bits_from_the_largest_value(tmp_path: Path) -> None:
    path = save(tmp_path, steps_of("body", 4, 0) | steps_of("shortcut", 4, 1))
    network = import_checkpoint(path, "nulsq", SmallNet())
    weight = float_state()["module.conv1.weight"].numpy()
    most = weight.max()
    np.testing.assert_allclose(network.module.conv1.weight(), np.rint(weight / most * 127) * most / 127, rtol=1e-5)
    assert network.module.conv1.input_quantizer is None
    ranged = import_checkpoint(path, "nulsq", SmallNet(), input_ranges={"conv1": 2.0, "fc": 1.0}).module
    torch.testing.assert_close(ranged.conv1.input_quantizer(torch.tensor([9.0, -9.0])), torch.tensor([2.0, -2.0]))
    assert ranged.fc.input_quantizer.levels.numel() == 255
    plain = import_checkpoint(save(tmp_path, steps_of("body", 4, 0), bare_edges=True), "nulsq", SmallNet())
    assert plain.layers["conv1"] == plain.layers["fc"] == "float"


def test_float_weights_beside_quantized_inputs(tmp_path: Path) -> None:
    extra = {key: value for key, value in steps_of("body", 2, 0).items() if "w_scale" not in key}
    network = import_checkpoint(save(tmp_path, extra), "nulsq", SmallNet())
    assert torch.equal(network.module.body.weight(), float_state()["module.body.weight"])
    assert network.layers["body"] == "4 input levels"


def test_a_zero_step_drops_a_level(tmp_path: Path) -> None:
    extra = steps_of("body", 3, 0)
    extra["body.x_scale"][2] = 0
    network = import_checkpoint(save(tmp_path, extra), "nulsq", SmallNet())
    assert network.module.body.input_quantizer.levels.numel() == 7


def test_lsq(tmp_path: Path, golden) -> None:
    extra = {}
    for name in ("body", "shortcut"):
        extra |= {f"{name}.x_scale": torch.tensor([0.11]), f"{name}.w_scale": torch.tensor([0.07])}
    path = save(tmp_path, extra)
    network = import_checkpoint(path, "nulsq", SmallNet(), bits=3)
    x = torch.rand(1000)
    layer = network.module.body
    torch.testing.assert_close(layer.input_quantizer(x), (x / 0.11).round().clamp(0, 7) * 0.11)
    weight = float_state()["module.body.weight"]
    torch.testing.assert_close(layer.weight(), (weight / 0.07).round().clamp(-4, 3) * 0.07)
    with pytest.raises(ModelImportError) as caught:
        import_checkpoint(path, "nulsq", SmallNet())
    golden(str(caught.value), "importers/checkpoint-lsq-no-bits.txt")
    # nuLSQ activations beside LSQ weights tell the width
    mixed = extra | {f"{name}.x_scale": torch.full((7,), 0.1) for name in ("body", "shortcut")}
    assert import_checkpoint(save(tmp_path, mixed), "nulsq", SmallNet()).module.body.weight.levels.numel() <= 8


def test_lcq(tmp_path: Path) -> None:
    torch.manual_seed(0)
    extra = {}
    for name in ("body", "shortcut"):
        for side, clip in (("x", 1.3), ("w", 2.0)):
            extra |= {
                f"{name}.{side}_threshold": torch.tensor(clip),
                f"{name}.{side}_theta": torch.randn(16),
                f"{name}.{side}_dst": torch.full((16,), 1 / 16),
            }
    network = import_checkpoint(save(tmp_path, extra), "nulsq", SmallNet(), bits=4)
    quantizer = LCQ(4, signed=False).eval()
    quantizer.initialized.fill_(True)
    with torch.no_grad():
        quantizer.clip.fill_(1.3)
        quantizer.theta.copy_(extra["body.x_theta"])
    x = torch.rand(5000) * 2
    torch.testing.assert_close(network.module.body.input_quantizer(x), quantizer(x))
    weight = float_state()["module.body.weight"]
    quantized = network.module.body.weight()
    assert quantized.unique().numel() <= 15
    spread = float(weight.std())
    assert float(quantized.abs().max()) <= 2.0 * spread * 1.0001  # multiplied back by the deviation


def test_negative_steps_are_refused(tmp_path: Path, golden) -> None:
    extra = steps_of("body", 2, 0)
    extra["body.x_scale"][1] = -0.1
    with pytest.raises(ModelImportError) as caught:
        import_checkpoint(save(tmp_path, extra), "nulsq", SmallNet())
    golden(str(caught.value), "importers/checkpoint-negative-step.txt")


def test_preactivated_network_has_the_names_of_the_training_code() -> None:
    net = ARCHITECTURES["preresnet20"].build(10).eval()
    names = set(net.state_dict())
    assert {
        "features.init_block.weight",
        "features.stage1.unit1.body.conv1.bn.weight",
        "features.stage1.unit1.body.conv1.conv.weight",
        "features.stage2.unit1.identity_conv.weight",
        "features.post_activ.bn.running_mean",
        "output.bias",
    } <= names
    assert sum(p.numel() for p in net.parameters()) == 272_282
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
