"""Training on a device that is not the CPU: every tensor a step makes lies where the model does.

Fake tensors know their device and raise where two of them meet, as a GPU would, without values and without a GPU.
"meta" stands for it: it takes the same paths as any device that is not the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F

from lutc.config import SCALAR_METHODS, LUTConfig, ScalarConfig
from lutc.nn import LUTLinear, param_groups, quantize_
from lutc.nn.batch_norm import freeze_batch_norm_, reestimate_batch_norm_, renormalize_batch_norm_
from lutc.nn.distillation import BlockError, distillation_loss
from lutc.nn.layer import LUTLayer
from lutc.nn.monitor import Monitor
from lutc.nn.output_metric import refresh_metrics_
from lutc.nn.quantizers import ScalarQuantizer
from lutc.nn.schedules import AnnealTemperature

DEVICE = torch.device("meta")
SEARCHES = [
    LUTConfig(),
    LUTConfig(encode_dtype="int6", table_bits=4),
    LUTConfig(encode_dtype="float32", table_dtype="float32"),
    LUTConfig(metric="inputs"),
    LUTConfig(encoder="tree"),
    LUTConfig(encoder="tree", encode_dtype="float32"),
    LUTConfig(encoder="tree", tree_gradient="softmax"),
]


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake tensors, made from Python numbers and giving them though none has a value; modules of them can be moved."""

    def through_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """For the device meta these functions give true tensors."""
        return lambda data, *, device="cpu", **options: make(data, **options).to(device)

    def moved(module: nn.Module, device: torch.device) -> nn.Module:
        """torch swaps what is in the parameters it finds, which fake ones do not bear."""
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                part.register_parameter(name, nn.Parameter(parameter.detach().to(device), parameter.requires_grad))
            for name, buffer in part.named_buffers(recurse=False):
                part.register_buffer(name, buffer.to(device))
        return module

    def bincount(index: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
        """A length that depends on values is not for fake tensors."""
        return (index if weights is None else index + weights).new_zeros(minlength)

    monkeypatch.setattr(torch, "bincount", bincount)
    monkeypatch.setattr(torch, "tensor", through_cpu(torch.tensor))
    monkeypatch.setattr(torch, "as_tensor", through_cpu(torch.as_tensor))
    monkeypatch.setattr(ScalarQuantizer, "to", moved)
    monkeypatch.setattr(FakeTensor, "item", lambda self: 1.0 if self.is_floating_point() else 1)
    for name, value in (("__int__", 1), ("__float__", 1.0), ("__bool__", True)):
        monkeypatch.setattr(FakeTensor, name, lambda self, value=value: value)
    with FakeTensorMode():
        yield


class Net(nn.Module):
    """Convolutions whose codebooks are a channel, a part of one and several; groups, strides, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, device=DEVICE), nn.BatchNorm2d(6, device=DEVICE)
        self.grouped = nn.Conv2d(6, 6, 3, stride=2, padding=(1, 0), groups=3, device=DEVICE)
        self.dilated = nn.Conv2d(6, 8, (3, 2), dilation=2, device=DEVICE)
        self.point = nn.Conv2d(8, 6, 1, bias=False, device=DEVICE)
        self.fc = nn.Linear(6, 5, device=DEVICE)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.norm(self.stem(x)))))
        return self.fc(torch.relu(self.point(torch.relu(self.dilated(x)))).mean((2, 3)))


def step(model: nn.Module, teacher: nn.Module, error: BlockError, groups: list[dict[str, object]]) -> None:
    x, labels = torch.empty(4, 3, 17, 16, device=DEVICE), torch.empty(4, dtype=torch.int64, device=DEVICE)
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    target = teacher(x)
    scores = model(x)
    loss = F.cross_entropy(scores, labels) + distillation_loss(scores, target) + error()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_tensors_of_two_devices_do_not_meet_unseen() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(3, device=DEVICE) + torch.empty(3)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("config", SEARCHES, ids=str)
def test_lookup_tables(config: LUTConfig, free: bool) -> None:
    model, teacher = Net(), Net().eval()
    quantize_(model, {"dilated": LUTConfig(**config.to_dict() | {"subvector_len": 5}), "*": config})
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LUTLayer)}
    assert list(layers) == ["stem", "grouped", "dilated", "point", "fc"]
    if free:
        for layer in layers.values():
            layer.free_table()
    error = BlockError(model, teacher, ["grouped", "point"])
    step(model.train(), teacher, error, param_groups(model, 1e-3, 1e-3, 1e-2))
    for layer in layers.values():
        trained = [p for p in layer.parameters() if p.requires_grad]
        assert trained and all(p.grad is not None and p.grad.device == DEVICE for p in trained)

    AnnealTemperature(model)(0.5)
    refresh_metrics_(model)
    renormalize_batch_norm_(model)
    model(torch.empty(4, 3, 17, 16, device=DEVICE)).sum().backward()
    freeze_batch_norm_(model)
    images = torch.empty(4, 3, 17, 16, device=DEVICE)
    model(images).sum().backward()
    assert model.eval()(images).device == DEVICE
    reestimate_batch_norm_(model, [images])
    rows = Monitor(model, [images], teacher)(1)
    assert [row.name for row in rows] == list(layers)


@pytest.mark.parametrize("config", SEARCHES, ids=str)
def test_rows_of_any_rank(config: LUTConfig) -> None:
    layer = LUTLinear(21, 7, config=config, device=DEVICE)
    for shape in ((21,), (3, 21), (2, 3, 21)):
        x = torch.empty(shape, device=DEVICE, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None and x.grad.device == DEVICE


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", [method for method in SCALAR_METHODS if method != "pact"])
def test_scalar_quantizers(method: str, per_channel: bool) -> None:
    model, teacher = Net(), Net().eval()
    quantize_(model, ScalarConfig(method, 2, 2 if method != "ttq" else None, per_channel=per_channel))
    error = BlockError(model, teacher, ["grouped", "point"])
    step(model.train(), teacher, error, [{"params": list(model.parameters())}])
    for quantizer in (module for module in model.modules() if isinstance(module, ScalarQuantizer)):
        assert all(tensor.device == DEVICE for tensor in [*quantizer.parameters(), *quantizer.buffers()])
    assert model.eval()(torch.empty(4, 3, 17, 16, device=DEVICE)).device == DEVICE
