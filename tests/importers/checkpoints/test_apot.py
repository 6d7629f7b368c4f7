"""APoT checkpoints: the trained ResNet-20 files, against the definition of the training code written out here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.errors import ModelImportError
from lutc.export import export_model
from lutc.importers.checkpoints import import_checkpoint
from lutc.nn.frozen_quantized import FrozenQuantizedConv2d
from tests.end_to_end.resnet20 import ResNet20, data_folder, images
from tests.importers.checkpoints.small_net import SmallNet, float_state

ACCURACY = {2: 0.792, 4: 0.833}  # of the training code's evaluation, first 1,000 JPEG test images
_UNSIGNED = {2: ([0, 1, 2, 4], 4), 4: ([0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48], 48)}
_MAGNITUDES = {2: ([0, 1], 1), 4: ([0, 1, 2, 3, 4, 6, 8, 10], 10)}


def project(x: Tensor, levels: tuple[list[int], int]) -> Tensor:
    values = torch.tensor(levels[0]) / levels[1]
    return values[(x[..., None] - values).abs().argmin(-1)]


def reference(state: dict[str, Tensor], bits: int) -> nn.Module:
    """ResNet-20 whose quantized convolutions compute as the training code does in evaluation."""
    net = ResNet20()
    net.load_state_dict({key: value for key, value in state.items() if "alpha" not in key})
    for name, conv in list(net.named_modules()):
        if f"{name}.act_alpha" not in state:
            if isinstance(conv, (nn.Conv2d, nn.Linear)):
                most = conv.weight.data.max()
                conv.weight.data = conv.weight.data.div(most).mul(127).round().div(127).mul(most)
            continue
        clip, weight_clip = state[f"{name}.act_alpha"], state[f"{name}.weight_quant.wgt_alpha"]
        unit = (conv.weight.data - conv.weight.data.mean()) / conv.weight.data.std() / weight_clip
        unit = unit.clamp(-1, 1)
        conv.weight.data = project(unit.abs(), _MAGNITUDES[bits]) * unit.sign() * weight_clip

        def quantized(conv: nn.Conv2d, inputs: tuple[Tensor, ...], clip: Tensor = clip) -> tuple[Tensor]:
            return (project((inputs[0] / clip).clamp(max=1), _UNSIGNED[bits]) * clip,)

        conv.register_forward_pre_hook(quantized)
    return net.eval()


@pytest.mark.parametrize("bits", [2, 4])
def test_trained_network_is_that_of_its_training_code(bits: int) -> None:
    path = data_folder() / f"apot-resnet20-{bits}bit.pth.tar"
    network = import_checkpoint(path, "apot", "resnet20", bits=bits)
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    twin = reference({key.removeprefix("module."): value for key, value in state.items()}, bits)
    assert network.input_shape == (3, 32, 32)
    levels = {2: "3 weight levels, 4 input levels", 4: "15 weight levels, 16 input levels"}[bits]
    assert [text for name, text in network.layers.items() if name not in ("conv1", "fc")] == [levels] * 20
    for name, layer in network.module.named_modules():
        if isinstance(layer, FrozenQuantizedConv2d):
            assert torch.equal(layer.weight(), twin.get_submodule(name).weight)
    x = images("test", 64)
    with torch.no_grad():
        torch.testing.assert_close(network.module(x), twin(x), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 4])
def test_accuracy_in_torch_and_onnx_runtime(bits: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = import_checkpoint(data_folder() / f"apot-resnet20-{bits}bit.pth.tar", "apot", "resnet20", bits=bits)
    x = images("test", 1000)
    with np.load(data_folder() / "cifar10-test.npz") as pack:
        labels = pack["labels"][:1000]
    with torch.no_grad():
        ours = torch.cat([network.module(part).argmax(1) for part in x.split(250)]).numpy()
    assert (ours == labels).mean() == ACCURACY[bits]
    path = export_model(network.module, x[:250], tmp_path / "net.onnx", input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    parts = [session.run(None, {"x": part.numpy()})[0].argmax(1) for part in x.split(250)]
    theirs = np.concatenate(parts)
    # float sums in another order move values across thresholds, a few classes in a thousand
    assert (ours != theirs).sum() <= 5
    assert abs((theirs == labels).mean() - ACCURACY[bits]) <= 0.003


def small_checkpoint(folder: Path) -> Path:
    state = float_state()
    for name in ("body", "shortcut"):
        state[f"module.{name}.act_alpha"] = torch.tensor(0.7)
        state[f"module.{name}.weight_quant.wgt_alpha"] = torch.tensor(1.5)
    torch.save({"epoch": 3, "state_dict": state, "best_prec": 50.0, "optimizer": {}}, folder / "small.pth.tar")
    return folder / "small.pth.tar"


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_other_bit_widths(bits: int, tmp_path: Path) -> None:
    network = import_checkpoint(small_checkpoint(tmp_path), "apot", SmallNet(), bits=bits)
    found = network.module.body.input_quantizer.levels
    assert len(found) == 2**bits
    torch.testing.assert_close(found[-1], torch.tensor(0.7))
    assert F.relu(network.module(torch.randn(2, 3, 8, 8))).shape == (2, 5)


def test_what_it_refuses(tmp_path: Path, golden) -> None:
    path = small_checkpoint(tmp_path)
    for name, arguments in {
        "no-bits": ("apot", SmallNet()),
        "other-network": ("apot", "resnet20"),
        "unknown-arch": ("apot", "resnet21"),
        "unknown-format": ("apott", SmallNet()),
    }.items():
        with pytest.raises(ModelImportError) as caught:
            import_checkpoint(path, *arguments)
        golden(str(caught.value).replace(str(tmp_path), "FOLDER"), f"importers/checkpoint-{name}.txt")
