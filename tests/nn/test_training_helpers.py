"""Distillation, batch norm, temperature schedules, checkpoints and the monitor."""

from __future__ import annotations

import copy
import csv

import pytest
import torch
from rich.console import Console
from torch import nn

from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.nn import param_groups, quantize_
from lutc.nn.batch_norm import (
    BatchRenorm,
    freeze_batch_norm_,
    reestimate_batch_norm_,
    renormalize_batch_norm_,
)
from lutc.nn.checkpoint import load_checkpoint, save_checkpoint
from lutc.nn.distillation import BlockError, distillation_loss
from lutc.nn.monitor import Monitor
from lutc.nn.schedules import AnnealTemperature


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_distillation_is_the_divergence_of_softened_probabilities():
    student, teacher = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    p, q = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    torch.testing.assert_close(distillation_loss(student, teacher), 4 * (p * (p / q).log()).sum(1).mean())
    assert distillation_loss(teacher, teacher).abs() < 1e-6


def test_block_error_is_relative_to_the_float_outputs():
    student, teacher = network(1), network(0)
    error = BlockError(student, teacher, ["0", "2"])
    x = torch.randn(16, 8)
    student(x), teacher(x)
    expected = torch.zeros(())
    for part in (1, 3):
        wanted = teacher[:part](x)
        expected += (student[:part](x) - wanted).square().mean() / wanted.var() / 2
    torch.testing.assert_close(error(), expected, rtol=1e-5, atol=1e-5)
    student.train(), student(x), error().backward()
    assert student[0].weight.grad.abs().max() > 0
    assert teacher[0].weight.grad is None and student[3].weight.grad is None


def test_a_closed_block_error_leaves_no_hooks():
    student, teacher = network(1), network(0)
    error = BlockError(student, teacher, ["0"])
    student(torch.randn(4, 8))
    error.close()
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())
    student(torch.randn(4, 8)), teacher(torch.randn(4, 8))
    with pytest.raises(LutcError, match="cannot compare"):
        error()


def test_block_error_of_a_constant_block_is_finite():
    student, teacher = network(1), network(0)
    nn.init.zeros_(teacher[0].weight), nn.init.zeros_(teacher[0].bias)
    error = BlockError(student, teacher, ["0"])
    student(torch.randn(16, 8)), teacher(torch.randn(16, 8))
    assert error().isfinite()


def test_block_error_takes_a_float_model_of_another_precision_and_memory_format():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Conv2d(3, 4, 3)) for _ in range(2))
    error, x = BlockError(student, teacher, ["0"]), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        y, wanted = student(x), teacher(x).bfloat16().float()
        teacher.bfloat16()(x.bfloat16().contiguous(memory_format=torch.channels_last))
    found = error()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (y - wanted).square().mean() / wanted.var(), rtol=0.03, atol=0)


def test_frozen_batch_norm_keeps_its_statistics_until_training_mode_is_set_again():
    model = network().train()
    freeze_batch_norm_(model)
    mean = model[1].running_mean.clone()
    model(torch.randn(16, 8)).sum().backward()
    assert torch.equal(model[1].running_mean, mean) and model[1].weight.grad is not None and model[0].training
    model.train()(torch.randn(16, 8))
    assert not torch.equal(model[1].running_mean, mean)


def test_batch_norm_is_measured_with_the_hard_lookups():
    model = network()
    x = torch.randn(64, 8)
    quantize_(model, {"0": LUTConfig(8, 4)}, calibration=[x])
    model.train()
    before = model[1].momentum
    reestimate_batch_norm_(model, iter(x.split(16)))
    with torch.no_grad():
        y = model[0].eval()(x)
    torch.testing.assert_close(model[1].running_mean, y.mean(0), rtol=1e-4, atol=1e-5)
    batch_variance = torch.stack([part.var(0) for part in y.split(16)]).mean(0)
    torch.testing.assert_close(model[1].running_var, batch_variance, rtol=1e-4, atol=1e-5)
    assert model[1].momentum == before
    assert model[1].training and model.training
    kept = model[1].running_mean.clone()
    with pytest.raises(LutcError, match="batch-norm"):
        reestimate_batch_norm_(model, [])
    assert torch.equal(model[1].running_mean, kept)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(16, 6), (5, 6, 3), (4, 6, 3, 2)])
def test_renormalized_batches_have_the_values_of_inference_and_the_gradient_of_training(shape, affine: bool):
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    plain = kind(6, affine=affine, dtype=torch.float64)
    if affine:
        plain.weight.data.normal_(), plain.bias.data.normal_()
    for _ in range(3):
        plain(2 * torch.randn(shape, dtype=torch.float64) - 1)
    model = nn.Sequential(copy.deepcopy(plain))
    renormalize_batch_norm_(model)
    x, upstream = torch.randn(2, *shape, dtype=torch.float64)
    wanted = plain.eval()(x)
    x.requires_grad_()
    found = model.train()(x)
    torch.testing.assert_close(found, wanted)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    spread = (plain.running_var + plain.eps).sqrt()
    axes = [axis for axis in range(len(shape)) if axis != 1]
    batch_spread = (x.detach().var(axes, correction=0) + plain.eps).sqrt()
    scale = (batch_spread / spread).reshape(-1, *[1] * (len(shape) - 2))
    fresh = copy.deepcopy(plain).train()
    (expected,) = torch.autograd.grad(fresh(x), x, upstream)
    torch.testing.assert_close(gradient, expected * scale)
    torch.testing.assert_close(model[0].running_mean, fresh.running_mean)
    torch.testing.assert_close(model[0].running_var, fresh.running_var)


def test_half_precision_inputs_are_renormalized_with_statistics_in_float32():
    model = nn.Sequential(nn.BatchNorm1d(6))
    renormalize_batch_norm_(model)
    x = torch.randn(64, 6).bfloat16() + 3
    model(x.requires_grad_()).float().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(model[0].running_mean, 0.1 * x.detach().float().mean(0))


def test_renormalization_keeps_names_and_parameters_and_ends_with_a_measurement():
    model = nn.Sequential(network(), nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3).eval())
    parameters, names = list(model.parameters()), list(model.state_dict())
    renormalize_batch_norm_(model)
    assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    kinds = [isinstance(module, BatchRenorm) for module in (model[0][1], model[1], model[2])]
    assert kinds == [True, False, True]
    assert model[0][1].training and not model[2].training
    x = torch.randn(64, 8)
    plain = copy.deepcopy(model[0])
    plain[1] = nn.BatchNorm1d(6)
    for each in (plain, model[0]):
        reestimate_batch_norm_(each, x.split(16))
    torch.testing.assert_close(model[0][1].running_mean, plain[1].running_mean)
    torch.testing.assert_close(model[0][1].running_var, plain[1].running_var)
    with pytest.raises(ValueError, match="more than 1 value"):
        model[0].train()(x[:1])


def test_annealed_temperatures():
    model = network()
    quantize_(model, LUTConfig(4, 4))
    schedule = AnnealTemperature(model, 1.0, 0.01)
    temperatures = []
    for done in (0.0, 0.5, 1.0, 2.0):
        schedule(done)
        temperatures.append(float(model[0].log_temperature.exp()))
    assert temperatures == pytest.approx([1.0, 0.1, 0.01, 0.01])
    assert sum(len(group["params"]) for group in param_groups(model, 1, 1, 1)[2:3]) == 0


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        loss = model(torch.randn(16, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(param_groups(model, 1e-2, 1e-2, 1e-2))


@pytest.mark.parametrize("encoder", ["l2", "tree"])
def test_a_run_goes_on_where_it_stopped(tmp_path, encoder):
    config = LUTConfig(8, 4, encoder=encoder)
    model = network()
    quantize_(model, config, calibration=[torch.randn(64, 8)])
    for layer in (model[0], model[3]):
        if layer.table is None:
            layer.free_table()
    optimizer = optimizer_of(model)
    train(model, optimizer, 3)
    save_checkpoint(tmp_path / "run.pt", {"step": 3}, model=model, optimizer=optimizer)
    train(model, optimizer, 3)

    other = network(1)
    quantize_(other, config)
    assert load_checkpoint(tmp_path / "run.pt", model=other) == {"step": 3}
    resumed = optimizer_of(other)
    load_checkpoint(tmp_path / "run.pt", optimizer=resumed)
    train(other, resumed, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_bad_checkpoints_are_told(tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    for path in (tmp_path / "bad.pt", tmp_path / "none.pt"):
        with pytest.raises(LutcError, match="cannot load a checkpoint"):
            load_checkpoint(path)
    save_checkpoint(tmp_path / "run.pt", {}, model=network())
    with pytest.raises(LutcError) as error:
        load_checkpoint(tmp_path / "run.pt", optimizer=torch.optim.SGD(network().parameters(), 0.1))
    assert error.value.reason == "it holds model, not optimizer"


def test_monitor_tells_what_is_known_of_a_made_up_layer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    reference = nn.Sequential(nn.Linear(4, 3))
    reference.load_state_dict(model.state_dict())
    quantize_(model, LUTConfig(4, 4, encode_dtype="float32", table_dtype="float32"))
    with torch.no_grad():
        model[0].centroids.copy_(torch.tensor([[[0.0] * 4, [1.0] * 4, [50.0] * 4, [60.0] * 4]]))
        model[0].log_temperature.zero_()
    x = torch.tensor([[0.0] * 4] * 5 + [[1.0] * 4] * 5)
    monitor = Monitor(model, [x], reference)
    (row,) = monitor(7)
    assert (row.step, row.name, row.temperature, row.unused) == (7, "0", 1.0, 0.5)
    assert row.entropy == pytest.approx(0.5)  # two of four codes, equally often
    assert row.error == pytest.approx(0.0, abs=1e-10)
    assert row.margin > 1e3
    with torch.no_grad():
        model[0].weight *= torch.tensor([[3.0], [-2.0], [0.5]])
        model[0].bias += 5
    (row,) = monitor(7)
    assert row.error == pytest.approx(0.0, abs=1e-10)  # a batch norm behind the layer takes scale and shift away
    with torch.no_grad():
        model[0].centroids[0] = 1.0
    monitor(8)
    assert monitor.rows[-1].entropy == 0.0
    assert monitor.rows[-1].error == pytest.approx(1.0)
    assert monitor.rows[-1].margin == 0.0  # a tie

    console = Console(record=True, width=100)
    monitor.print(console)
    assert "step 8" in console.export_text()
    monitor.save(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["7", "7", "8"]
    assert model[0].training


def test_margins_are_of_the_layers_own_distances():
    model = nn.Sequential(nn.Linear(2, 3))
    quantize_(model, LUTConfig(2, 2, encode_dtype="float32"))
    with torch.no_grad():
        model[0].centroids.copy_(torch.tensor([[[0.0, 0.0], [4.0, 1.0]]]))
        model[0].metric.copy_(torch.diag(torch.tensor([0.25, 4.0])))
    (row,) = Monitor(model, [torch.tensor([[1.0, 0.0]])])(1)
    assert row.margin == pytest.approx((1.5**2 + 2**2) ** 0.5 / 0.5 - 1)


@pytest.mark.parametrize(("encode_dtype", "first"), [("float32", 2.4), ("int8", 2.5)])  # 1.2, read as 1.25
def test_margins_of_trees_are_to_the_nearest_threshold_of_the_path(encode_dtype, first):
    model = nn.Sequential(nn.Linear(2, 3))
    quantize_(model, LUTConfig(4, 2, encoder="tree", encode_dtype=encode_dtype))
    model[0].set_input_range(torch.tensor([-15.0]), torch.tensor([15.875]))  # in steps of 1/8
    dims, thresholds = torch.tensor([[1, 0]]), torch.tensor([[0.0, 5.0, 2.0]])  # the left one is on no path here
    model[0].set_trees(dims, thresholds, 0.5)
    monitor = Monitor(model, [torch.tensor([[5.0, 1.2], [2.25, 3.0], [1.0, 4.0]])])
    (row,) = monitor(1)
    assert monitor.margins["0"].tolist() == pytest.approx([first, 0.5, 2.0])
    assert row.margin == pytest.approx(2.0)


def test_monitor_draws(tmp_path):
    pytest.importorskip("matplotlib")
    model = network()
    x = torch.randn(32, 8)
    quantize_(model, {"0": LUTConfig(8, 4), "3": LUTConfig(8, encoder="tree")}, calibration=[x])
    monitor = Monitor(model, [x])
    monitor(0), monitor(1)
    assert len(monitor.margins["0"]) and len(monitor.margins["3"])
    monitor.save(tmp_path / "curves.svg")
    assert "</svg>" in (tmp_path / "curves.svg").read_text()
