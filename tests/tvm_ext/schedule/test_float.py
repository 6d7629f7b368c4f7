"""The float remainder: every rule computes what float64 computes, on shapes that fit vectors and shapes that do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import tvm
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op
from tvm.target import Target

from tests.execute import execute, execute_scheduled
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline
from tvm_ext.schedule import RowReduction, Transpose


@dataclass(frozen=True)
class Case:
    """An expression of Relax, and the same in torch with float64; both get the inputs in order."""

    name: str
    inputs: tuple[np.ndarray, ...]
    relax: Callable[..., relax.Expr]
    torch: Callable[..., torch.Tensor]


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def _weight(*shape: int) -> tuple[np.ndarray, relax.Expr]:
    value = _random(*shape, seed=1)
    return value, relax.const(value)


def _conv(
    x: tuple[int, ...], outputs: int, kernel: int, stride: int = 1, pad: int = 0, groups: int = 1, dilation: int = 1,
    epilogue: bool = True,
) -> Case:  # fmt: skip
    value, weight = _weight(outputs, x[1] // groups, kernel, kernel)
    bias = _random(outputs, seed=2)

    def expression(v: relax.Expr) -> relax.Expr:
        y = op.nn.conv2d(v, weight, strides=stride, padding=pad, dilation=dilation, groups=groups)
        return op.nn.relu(op.add(y, relax.const(bias[:, None, None]))) if epilogue else y

    def reference(v: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(v, torch.tensor(value).double(), None, stride, pad, dilation, groups)
        return torch.relu(y + torch.tensor(bias).double()[:, None, None]) if epilogue else y

    return Case(
        f"conv {x} {outputs} {kernel} {stride} {pad} {groups} {dilation}", (_random(*x),), expression, reference
    )


def _dense(x: tuple[int, ...], outputs: int) -> Case:
    value, weight = _weight(x[-1], outputs)
    residual = _random(*x[:-1], outputs, seed=3)
    return Case(
        f"dense {x} {outputs}",
        (_random(*x), residual),
        lambda v, r: op.add(op.matmul(v, weight), r),
        lambda v, r: v @ torch.tensor(value).double() + r,
    )


def _attention(shape: tuple[int, ...], other: tuple[int, ...]) -> Case:
    def expression(q: relax.Expr, k: relax.Expr) -> relax.Expr:
        axes = [*range(len(other) - 2), len(other) - 1, len(other) - 2]
        scores = op.matmul(q, op.permute_dims(k, axes))
        return op.matmul(op.nn.softmax(op.multiply(scores, relax.const(0.1, "float32"))), k)

    return Case(
        f"attention {shape} {other}",
        (_random(*shape), _random(*other)),
        expression,
        lambda q, k: torch.softmax(q @ k.transpose(-1, -2) * np.float32(0.1), -1) @ k,
    )


def _norm(shape: tuple[int, ...], axes: int, offset: float = 0.0) -> Case:
    scale, shift = _random(*shape[-axes:], seed=4), _random(*shape[-axes:], seed=5)
    sizes = shape[-axes:]
    return Case(
        f"layer_norm {shape} {axes}",
        (_random(*shape) + np.float32(offset),),
        lambda v: op.nn.layer_norm(v, relax.const(scale), relax.const(shift), [*range(-axes, 0)], 1e-5),
        lambda v: F.layer_norm(v, sizes, torch.tensor(scale).double(), torch.tensor(shift).double(), 1e-5),
    )


def _map(shape: tuple[int, ...], expression: Callable, reference: Callable, name: str) -> Case:
    return Case(f"{name} {shape}", (_random(*shape) * 3,), expression, reference)


def _gelu(v: torch.Tensor) -> torch.Tensor:
    return F.gelu(v)


def _int_product(v: relax.Expr) -> relax.Expr:
    x = op.astype(v, "int32")
    return op.astype(op.matmul(x, op.permute_dims(x)), "float32")


CASES = [
    _conv((1, 3, 19, 17), 64, 7, 2, 3),
    _conv((2, 16, 9, 9), 32, 3, 1, 1),
    _conv((1, 5, 7, 11), 10, 3, 1, 1),
    _conv((1, 32, 4, 4), 48, 3, 1, 1, epilogue=False),
    _conv((1, 24, 2, 2), 33, 3, 1, 1),
    _conv((1, 128, 2, 2), 256, 3, 1, 1),
    _conv((1, 20, 9, 9), 24, 1, 2),
    _conv((1, 16, 13, 13), 16, 3, 2, 1, groups=16),
    _conv((1, 21, 7, 5), 21, 5, 1, 2, groups=21),
    _conv((1, 12, 8, 8), 20, 3, 1, 1, groups=4),
    _conv((1, 6, 10, 10), 8, 3, 1, 2, dilation=2),
    _dense((1, 50), 10),
    _dense((17, 33), 100),
    _dense((2, 12, 64), 48),
    _dense((3, 1, 16), 2),
    _attention((2, 3, 16, 32), (2, 3, 16, 32)),
    _attention((1, 2, 13, 20), (1, 2, 13, 20)),
    _attention((2, 2, 5, 8), (1, 2, 5, 8)),
    _norm((2, 9, 64), 1),
    _norm((7, 100), 1, offset=30.0),
    _norm((3, 5, 6, 7), 2),
    _map((6, 1000), lambda v: op.nn.softmax(v), lambda v: torch.softmax(v, -1), "softmax"),
    _map((2, 5, 9), lambda v: op.nn.softmax(v, axis=1), lambda v: torch.softmax(v, 1), "softmax of an inner axis"),
    _map((3, 67), lambda v: op.nn.log_softmax(v), lambda v: torch.log_softmax(v, -1), "log_softmax"),
    _map((37,), op.nn.gelu, _gelu, "gelu"),
    _map((5, 48), lambda v: op.divide(v, relax.const(1.4, "float32")), lambda v: v / np.float32(1.4), "over"),
    _map((7, 3), lambda v: op.divide(op.multiply(v, relax.const(1e-30, "float32")), relax.const(1e-39, "float32")),
         lambda v: v * np.float32(1e-30) / np.float32(1e-39), "over next to 0"),
    _map((9, 64), op.nn.gelu, _gelu, "gelu"),
    _map((5, 50), op.tanh, torch.tanh, "tanh"),
    _map((5, 48), op.sigmoid, torch.sigmoid, "sigmoid"),
    _map((130,), lambda v: op.exp(op.tanh(v)), lambda v: torch.exp(torch.tanh(v)), "exp of tanh"),
    _map((1, 16, 9, 9), lambda v: op.nn.max_pool2d(v, (3, 3), (2, 2), (1, 1)),
         lambda v: F.max_pool2d(v, 3, 2, 1), "max_pool2d"),
    _map((2, 3, 9, 15), lambda v: op.nn.max_pool2d(v, (2, 2), (2, 2)), lambda v: F.max_pool2d(v, 2), "max_pool2d"),
    _map((2, 3, 2, 3), lambda v: op.nn.max_pool2d(v, (2, 2), (2, 2)), lambda v: F.max_pool2d(v, 2), "max_pool2d"),
    _map((1, 3, 40, 70), lambda v: op.nn.max_pool2d(v, (2, 2), (2, 2)), lambda v: F.max_pool2d(v, 2), "max_pool2d"),
    _map((1, 7, 12, 12), lambda v: op.nn.avg_pool2d(v, (2, 2), (2, 2)), lambda v: F.avg_pool2d(v, 2), "avg_pool2d"),
    _map((2, 20, 7, 7), lambda v: op.mean(v, [2, 3]), lambda v: v.mean((2, 3)), "mean of maps"),
    _map((2, 20, 16, 8), lambda v: op.mean(v, [2, 3]), lambda v: v.mean((2, 3)), "mean of maps"),
    _map((4, 9, 40), lambda v: op.max(v, [1]), lambda v: v.amax(1), "max of lines"),
    _map((4, 300), lambda v: op.variance(v, [1]), lambda v: v.var(1, correction=0), "variance"),
    _map((17, 50), lambda v: op.sum(v), lambda v: v.sum(), "sum of all"),
    _map((4, 6), lambda v: op.mean(op.nn.gelu(v)), lambda v: _gelu(v).mean(), "mean of all"),
    _map((12, 40), lambda v: op.subtract(v, op.mean(v)), lambda v: v - v.mean(), "less the mean of all"),
    _map((16, 32), lambda v: op.std(v), lambda v: v.std(correction=0), "deviation of all"),
    _map((4, 64), lambda v: op.astype(op.argmax(v), "float32"), lambda v: v.argmax(), "argmax of all"),
    _map((2, 33, 47), lambda v: op.permute_dims(v, [0, 2, 1]), lambda v: v.transpose(1, 2), "transpose"),
    _map((3, 4, 5, 16), lambda v: op.permute_dims(v, [0, 2, 1, 3]), lambda v: v.transpose(1, 2), "transpose of lines"),
    _map((2, 7, 9, 21), lambda v: op.permute_dims(v, [0, 3, 1, 2]), lambda v: v.permute(0, 3, 1, 2), "channels first"),
    _map((2, 19, 40), lambda v: op.permute_dims(op.reshape(v, (2, 19, 5, 8)), [0, 2, 3, 1]),
         lambda v: v.reshape(2, 19, 5, 8).permute(0, 2, 3, 1), "heads"),
    _map((6, 10), lambda v: op.reshape(op.permute_dims(v), (4, 15)), lambda v: v.T.reshape(4, 15), "reshape"),
    _map((4, 30), lambda v: op.concat([v, op.negative(v)], 1), lambda v: torch.cat([v, -v], 1), "concat"),
    _map((8, 9), lambda v: op.strided_slice(v, [0, 1], [1, 2], [7, 8], [2, 1]), lambda v: v[1:7:2, 2:8], "slice"),
    _map((5, 11), lambda v: op.cumsum(v, 1), lambda v: v.cumsum(1), "cumsum"),
    _map((5, 40), lambda v: op.astype(op.argmax(v, 1), "float32"), lambda v: v.argmax(1), "argmax"),
    _map((4, 6), _int_product, lambda v: v.int() @ v.int().T, "int32 matmul"),
]  # fmt: skip


def _module(cases: list[Case]) -> tvm.IRModule:
    bb, params, outputs = relax.BlockBuilder(), [], []
    taken = [
        [relax.Var(f"x{i}_{j}", relax.TensorType(x.shape, "float32")) for j, x in enumerate(case.inputs)]
        for i, case in enumerate(cases)
    ]
    params = [var for variables in taken for var in variables]
    with bb.function("main", params):
        with bb.dataflow():
            for case, variables in zip(cases, taken, strict=True):
                outputs.append(bb.emit_output(bb.normalize(case.relax(*variables))))
        bb.emit_func_output(relax.Tuple(outputs))
    return bb.get()


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon", "neon_armv7", "wasm_simd128"])
def test_every_kernel_is_scheduled_and_equals_float64(isa: str) -> None:
    target = TARGETS[isa]
    scheduled = pipeline.schedule(pipeline.rewrite(_module(CASES), {}), target)
    assert _unscheduled(scheduled) <= {"cumsum"}, "TVM writes that one as loops, without blocks"
    inputs = [x for case in CASES for x in case.inputs]
    results, _ = execute_scheduled(scheduled, inputs, target)
    wrong = {}
    for case, got in zip(CASES, results, strict=True):
        wanted = case.torch(*(torch.tensor(x).double() for x in case.inputs)).numpy()
        assert got.shape == wanted.shape, case.name
        error = np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())
        if not error < 2e-5:
            wrong[case.name] = error
    assert not wrong


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        (RowReduction, _norm((2, 9, 64), 1)),
        (RowReduction, _map((2, 3, 5, 128), lambda v: op.nn.softmax(v), torch.clone, "softmax")),
        (RowReduction, _map((2, 20, 7, 7), lambda v: op.mean(v, [2, 3]), torch.clone, "mean")),
        (Transpose, _map((1, 14, 14, 64), lambda v: op.permute_dims(v, [0, 3, 1, 2]), torch.clone, "channels first")),
        (Transpose, _map((1, 8, 48), lambda v: op.permute_dims(op.reshape(v, (1, 8, 6, 8)), [0, 2, 3, 1]),
                         torch.clone, "heads")),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)  # fmt: skip
def test_rules_take_what_they_are_for(rule: type, case: Case) -> None:
    """Another rule would give the same values, slower."""
    target = Target(TARGETS["avx512"])
    with target, tvm.transform.PassContext(opt_level=3):
        legal = tvm.transform.Sequential(pipeline.legalize_passes(target))(_module([case]))
    (func,) = (func for _, func in legal.functions_items() if isinstance(func, tvm.tirx.PrimFunc))
    assert rule().apply(func, target, False) is not None


@pytest.mark.parametrize(("size", "locality"), [(2, 3), (7, 2), (28, None)])
def test_large_weights_are_fetched_ahead(size: int, locality: int | None) -> None:
    """Of a map that one tile covers just ahead, of one with a few tiles a block ahead; small ones stay in the cache."""
    channels = 32 if locality is None else 256
    target = TARGETS["avx512"]
    module = _module([_conv((1, channels, size, size), channels, 3, 1, 1)])
    text = pipeline.schedule(pipeline.rewrite(module, {}), target).script()
    assert re.findall(r"T\.prefetch\(.*, 0, (\d), 1\)", text) == ([] if locality is None else [str(locality)])


@pytest.mark.parametrize(
    "case",
    [
        _map((64, 128), lambda v: op.nn.softmax(v), torch.clone, "softmax"),
        _map((64, 128), lambda v: op.erf(op.divide(v, relax.const(1.4142135, "float32"))), torch.clone, "half of gelu"),
    ],
    ids=lambda case: case.name,
)
def test_vectors_are_not_divided(case: Case) -> None:
    """A division of 16 values takes as long as 32 products: rows divide once, constants when compiled."""
    built = pipeline.build(_module([case]), TARGETS["avx512"])
    asm = built.executable.mod.imports[0].inspect_source("asm")
    assert "zmm" in asm
    assert not [line for line in asm.splitlines() if "vdivps" in line and "zmm" in line]


@pytest.mark.parametrize(("groups", "turned"), [(16, 2), (1, 1)])
def test_grouped_convolutions_read_channels_last(groups: int, turned: int) -> None:
    """Their channels are in lanes; of a plain one each value goes to all lanes, wherever it lies. Results turn back."""
    scheduled = pipeline.schedule(_module([_conv((1, 16, 13, 13), 16, 3, 2, 1, groups=groups)]), TARGETS["avx512"])
    names = [str(gv.name_hint) for gv, func in scheduled.functions_items() if isinstance(func, tvm.tirx.PrimFunc)]
    assert sum("transpose" in name for name in names) == turned, names


def _unscheduled(mod: tvm.IRModule) -> set[str]:
    return {
        str(gv.name_hint)
        for gv, func in mod.functions_items()
        if isinstance(func, tvm.tirx.PrimFunc) and not (func.attrs and "tirx.is_scheduled" in func.attrs)
    }


@pytest.mark.parametrize(
    ("name", "low", "high"), [("exp", -87, 88.7), ("erf", -6, 6), ("tanh", -12, 12), ("sigmoid", -80, 80)]
)
def test_elementary_functions(name: str, low: float, high: float) -> None:
    """Relative error below 1e-6 over the whole range, and what they are at the ends of the numbers."""
    target = TARGETS["avx2"]
    x = np.linspace(low, high, 50_001, dtype="float32")
    x[:7] = [np.nan, np.inf, -np.inf, 0, 1e-30, -1e-6, -200]
    case = Case(name, (x,), getattr(op, name), getattr(torch, name))
    (got,) = execute(pipeline.build(_module([case]), target).executable, [x], target)
    wanted = case.torch(torch.tensor(x).double()).numpy().astype("float32")
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-37)
