from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lutc.config import LUTConfig, ScalarConfig
from lutc.errors import LutcError
from lutc.nn import LUTLinear, param_groups, quantize_
from lutc.nn.frozen import FrozenLUTConv2d, FrozenLUTLinear


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 3)
        self.spare = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        y = torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3))
        return self.head(y * scale)


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 1, 8, 8, generator=generator) for _ in range(count)]


def test_report_names_every_layer_and_reason():
    rows = quantize_(Net(), filter_fn=lambda module, name: name != "stem")
    assert [(row.name, row.kind) for row in rows] == [
        ("stem", "float"),
        ("body.0", "float"),
        ("body.2", "lut"),
        ("head", "lut"),
        ("spare", "lut"),
    ]
    reasons = {row.name: row.reason for row in rows}
    assert reasons["stem"] == "excluded by filter_fn"
    assert "depthwise" in reasons["body.0"]
    assert reasons["body.2"] == "K=16, V=4, C=1, encode=int8, table=int8"


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_fused_operation_of_a_transformer_layer_is_not_used_past_its_tables(wrapped):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    model = nn.TransformerEncoder(encoder, 2).eval() if wrapped else nn.Sequential(encoder)
    x = torch.randn(4, 6, 16)
    padding = torch.arange(6) >= torch.tensor([6, 6, 5, 4])[:, None]
    arguments = {"src_key_padding_mask": padding} if wrapped else {}
    with torch.no_grad():
        before = model(x, **arguments)
    quantize_(model, LUTConfig(8, 4), calibration=[{"src": x, **arguments} if wrapped else x])
    expected = model.train()(x, **arguments).detach()
    for step in ("prepared", "converted"):
        with torch.no_grad():
            found = model.eval()(x, **arguments)
        torch.testing.assert_close(found[~padding], expected[~padding], msg=step)
        assert not torch.allclose(found[~padding], before[~padding], atol=1e-2)
        if step == "prepared":
            quantize_(model, step="convert")


def test_patterns_choose_the_settings():
    model = Net()
    quantize_(model, {"head": LUTConfig(8, 3), "body.*": LUTConfig(encode_dtype="float32"), "s*": None})
    assert isinstance(model.head, LUTLinear)
    assert model.head.centroids.shape == (2, 8, 3)
    assert model.body[2].config.encode_dtype == "float32"
    assert type(model.stem) is nn.Conv2d
    with pytest.raises(LutcError, match='"hed" matches no layer'):
        quantize_(Net(), {"hed": LUTConfig()})


def test_calibration_uses_float_activations_and_restores_the_model():
    model = Net().train()
    model.body[3].eval()
    statistics = model.body[3].running_mean.clone()
    rows = quantize_(model, filter_fn=lambda module, name: name != "spare", calibration=batches())
    assert model.stem.training
    assert not model.body[3].training
    assert torch.equal(model.body[3].running_mean, statistics)
    assert model.stem.signed
    assert not model.body[2].signed
    seen = torch.cat(batches()).abs().max()
    torch.testing.assert_close(model.stem.inv_scale, (127 / seen)[None])
    assert sum(row.kind == "lut" for row in rows) == 3


def test_calibrated_layers_start_close_to_the_float_model():
    torch.manual_seed(0)
    data = torch.randn(512, 32)
    model = nn.Sequential(nn.Linear(32, 8))
    expected = model(data).detach()
    quantize_(model, LUTConfig(64, 2), calibration=data.split(64))
    error = (model.eval()(data).detach() - expected).var() / expected.var()
    assert error < 0.08


def test_calibration_accepts_tuples_and_dicts():
    chosen = {"filter_fn": lambda module, name: name == "head"}
    x = batches(1)[0]
    forms: list[object] = [(x, 2.0), {"x": x, "scale": 2.0}]
    centroids = []
    for batch in forms:
        torch.manual_seed(0)
        model = Net()
        quantize_(model, calibration=[batch], **chosen)
        centroids.append(model.head.centroids)
    assert torch.equal(*centroids)
    with pytest.raises(LutcError, match="calibration batch"):
        quantize_(Net(), calibration=["text"], **chosen)


def test_unreached_layer_is_an_error_and_changes_nothing():
    model = Net()
    with pytest.raises(LutcError, match="did not reach") as error:
        quantize_(model, calibration=batches())
    assert error.value.where == "spare"
    assert type(model.stem) is nn.Conv2d
    assert not model.stem._forward_pre_hooks


def test_not_finite_calibration_is_an_error():
    with pytest.raises(LutcError, match='cannot calibrate "stem"'):
        quantize_(Net(), {"stem": LUTConfig()}, calibration=[torch.full((1, 1, 8, 8), torch.nan)])


def test_same_seed_same_model():
    def prepared(seed: int) -> nn.Module:
        torch.manual_seed(0)
        model = Net()
        quantize_(model, {"stem": LUTConfig(4)}, calibration=batches(), seed=seed)
        return model

    assert torch.equal(prepared(1).stem.centroids, prepared(1).stem.centroids)
    assert not torch.equal(prepared(1).stem.centroids, prepared(2).stem.centroids)


def test_convert_keeps_the_outputs_and_leaves_only_buffers():
    model = Net()
    quantize_(model, filter_fn=lambda module, name: name != "spare", calibration=batches())
    x = batches(1)[0]
    expected = model.eval()(x)
    rows = quantize_(model, step="convert")
    assert torch.equal(model(x), expected)
    assert isinstance(model.stem, FrozenLUTConv2d)
    assert isinstance(model.head, FrozenLUTLinear)
    assert {row.name: row.kind for row in rows}["body.0"] == "float"
    assert not list(model.head.parameters())


def test_shared_layer_stays_shared():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    quantize_(model)
    assert isinstance(model[0], LUTLinear)
    assert model[0] is model[2]


def test_subclasses_whose_owner_reads_the_weight_stay_float():
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 2))
    rows = quantize_(model)
    assert {row.name: row.kind for row in rows} == {"0.out_proj": "float", "1": "lut"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize_(nn.Linear(4, 4)), "swap a layer"),
        (lambda: quantize_(nn.ReLU()), "nothing to quantize"),
        (lambda: quantize_(Net(), step="convert"), "nothing to quantize"),
        (lambda: quantize_(Net(), step="freeze"), "cannot quantize"),
        (lambda: quantize_(Net(), filter_fn=lambda module, name: False), "nothing to quantize"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(LutcError, match=message):
        call()


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    target = torch.tanh(x @ torch.randn(16, 4))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    quantize_(model, LUTConfig(16, 4), calibration=[x])
    optimizer = torch.optim.Adam(param_groups(model, 1e-2, 1e-2, 1e-2))
    losses = []
    for _ in range(50):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_param_groups_hold_every_parameter_once():
    model = Net()
    quantize_(model, {"stem": LUTConfig(), "head": LUTConfig()})
    groups = param_groups(model, 1.0, 2.0, 3.0, weight_decay=0.1)
    assert [group["lr"] for group in groups] == [1.0, 2.0, 3.0]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len(list(model.parameters()))
    assert len(groups[1]["params"]) == len(groups[2]["params"]) == 2

    mixed = Net()
    quantize_(mixed, {"stem": LUTConfig(), "body.2": ScalarConfig("lsq")}, calibration=batches())
    decaying, *others = param_groups(mixed, weight_decay=0.1)
    assert {group["weight_decay"] for group in others} == {0.0} and decaying["weight_decay"] == 0.1
    steps = [
        p
        for quantizer in (mixed.body[2].input_quantizer, mixed.body[2].weight_quantizer)
        for p in quantizer.parameters()
    ]
    assert steps and not {id(p) for p in steps} & {id(p) for p in decaying["params"]}
    found = [id(p) for group in (decaying, *others) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in mixed.parameters())

    model.stem.weight.requires_grad_(False)
    assert sum(len(group["params"]) for group in param_groups(model, 1.0, 2.0, 3.0)) == len(grouped) - 1
