"""Models on padded axes: what is masked, what is refused, and results that do not depend on the padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_ext.transform import FoldSizes, MaskPadding, PaddingError, padding_sites

Build = Callable[[relax.BlockBuilder, relax.Var], relax.Expr]
_WEIGHT = np.random.default_rng(0).standard_normal((6, 6)).astype("float32")
_PLACES = np.random.default_rng(1).standard_normal((32, 6)).astype("float32")


def module(build: Build, size: int, batch: int = 2) -> tvm.IRModule:
    """main(x float32 [batch, size, 6])."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([batch, size, 6], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x))
        builder.emit_func_output(out)
    return FoldSizes()(builder.get())


def sites(build: Build, size: int = 8, other: int = 4, lowest: int = 1):
    return padding_sites(module(build, size), module(build, other), size, other, lowest)


def size_of(x: relax.Expr) -> int:
    return int(x.ty.shape[1])


def attention(b: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    heads = b.emit(relax.op.permute_dims(b.emit(relax.op.reshape(x, [2, size_of(x), 2, 3])), [0, 2, 1, 3]))
    flat = b.emit(relax.op.reshape(heads, [4, size_of(x), 3]))
    scores = b.emit(relax.op.matmul(flat, b.emit(relax.op.permute_dims(flat, [0, 2, 1]))))
    return relax.op.matmul(b.emit(relax.op.nn.softmax(scores)), flat)


def fused_attention(b: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    heads = b.emit(relax.op.reshape(x, [2, size_of(x), 2, 3]))
    return relax.op.nn.attention(heads, heads, heads)


def anywhere(b: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    large = b.emit(relax.op.astype(b.emit(relax.op.greater(x, relax.const(1.5, "float32"))), "int8"))
    return relax.op.max(large, axis=[1])


def placed(b: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    table = b.emit(relax.op.strided_slice(relax.const(_PLACES), [0], [0], [size_of(x)]))
    return relax.op.add(x, table)


MASKED: dict[str, tuple[Build, list[str], int | None]] = {
    "softmax": (lambda b, x: relax.op.nn.softmax(x, axis=1), ["exclude"], 1),
    "sum": (lambda b, x: relax.op.sum(x, axis=[1]), ["zero"], None),
    "sum of all": (lambda b, x: relax.op.sum(x, axis=[1, 2], keepdims=True), ["zero"], None),
    "mean": (lambda b, x: relax.op.mean(x, axis=[1]), ["mean"], None),
    "max": (lambda b, x: relax.op.max(x, axis=[-2]), ["exclude"], None),
    "any": (anywhere, ["exclude"], None),
    "attention": (attention, ["exclude"], 1),
    "fused attention": (fused_attention, ["bias"], 1),
    "product": (lambda b, x: relax.op.matmul(b.emit(relax.op.permute_dims(x, [0, 2, 1])), x), ["zero"], None),
    "places": (placed, ["place"], 1),
    "same everywhere": (lambda b, x: relax.op.add(x, relax.const(np.ones((size_of(x), 6), "float32"))), [], 1),
    "first": (lambda b, x: relax.op.take(x, relax.const(0, "int64"), axis=1), ["place"], None),
    "dense": (lambda b, x: relax.op.matmul(x, relax.const(_WEIGHT)), [], 1),
    "norm": (lambda b, x: relax.op.nn.layer_norm(x, relax.const(_WEIGHT[0]), relax.const(_WEIGHT[1]), [-1]), [], 1),
    "flat": (lambda b, x: relax.op.reshape(x, [2 * size_of(x), 6]), [], None),
}


@pytest.mark.parametrize("name", MASKED)
def test_padding_is_not_seen(name: str) -> None:
    """Whatever lies behind 5 entries: the same as without it."""
    build, kinds, axis = MASKED[name]
    found = sites(build)
    assert [site.kind for site in found] == kinds
    if name == "flat":
        return  # an output that a run could not cut to size
    masked = MaskPadding({"length": found}, {"length": 8})(module(build, 8))
    x = np.random.default_rng(2).standard_normal((2, 8, 6)).astype("float32")
    x[:, 5:] = 1e4
    mask = np.where(np.arange(8) < 5, 0, -np.inf).astype("float32")
    got, want = _run(masked, x, mask), _run(module(build, 5), x[:, :5])
    if axis is not None:
        got = got.take(range(5), axis)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def _run(mod: tvm.IRModule, *arrays: np.ndarray) -> np.ndarray:
    executable = tvm.compile(mod, target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays]).numpy()


REFUSED: dict[str, Build] = {
    "scan": lambda b, x: relax.op.cumsum(x, axis=1),
    "flip": lambda b, x: relax.op.flip(x, axis=1),
    "last": lambda b, x: relax.op.take(x, relax.const(size_of(x) - 1, "int64"), axis=1),
    "behind the lowest": lambda b, x: relax.op.take(x, relax.const(1, "int64"), axis=1),
    "number of entries": lambda b, x: relax.op.divide(x, relax.const(float(size_of(x)), "float32")),
    "shifted": lambda b, x: relax.op.strided_slice(x, [1], [1], [size_of(x)]),
    "every second": lambda b, x: relax.op.strided_slice(x, [1], [0], [size_of(x)], [2]),
    "end of a table": lambda b, x: relax.op.add(
        x, b.emit(relax.op.strided_slice(relax.const(_PLACES), [0], [32 - size_of(x)], [32]))
    ),
    "joined": lambda b, x: relax.op.concat([x, x], axis=1),
    "moved": lambda b, x: relax.op.reshape(x, [size_of(x), 2, 6]),
    "norm along it": lambda b, x: relax.op.nn.layer_norm(
        b.emit(relax.op.permute_dims(x, [0, 2, 1])), *[relax.const(np.ones(size_of(x), "float32"))] * 2, [-1]
    ),
    "other operators": lambda b, x: relax.op.tanh(x) if size_of(x) == 8 else relax.op.exp(x),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_mix_positions_is_refused(name: str) -> None:
    with pytest.raises(PaddingError):
        sites(REFUSED[name])


def test_a_batch_is_independent() -> None:
    """Also where it shares an axis with the heads."""

    def build(batch: int) -> tvm.IRModule:
        def body(b: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
            flat = b.emit(relax.op.reshape(x, [batch * 8, 6]))
            back = b.emit(relax.op.reshape(b.emit(relax.op.tanh(flat)), [batch, 8, 2, 3]))
            heads = b.emit(relax.op.reshape(b.emit(relax.op.permute_dims(back, [0, 2, 1, 3])), [batch * 2, 8, 3]))
            scores = b.emit(
                relax.op.nn.softmax(b.emit(relax.op.matmul(heads, b.emit(relax.op.permute_dims(heads, [0, 2, 1])))))
            )
            return relax.op.reshape(b.emit(relax.op.matmul(scores, heads)), [batch, 2, 8, 3])

        return module(body, 8, batch)

    assert padding_sites(build(2), build(3), 2, 3, 1) == []

    def swapped(batch: int) -> tvm.IRModule:
        def body(b: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
            flat = b.emit(relax.op.reshape(x, [batch * 8, 6]))
            return relax.op.reshape(flat, [8, batch, 6])

        return module(body, 8, batch)

    with pytest.raises(PaddingError, match="reshape"):
        padding_sites(swapped(2), swapped(3), 2, 3, 1)
