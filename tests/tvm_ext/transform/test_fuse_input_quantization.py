"""FuseInputQuantization: what table reads hand to the layers behind them, and that the numbers stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.target import Target

from tests import oracle
from tests.execute import execute
from tests.tvm_ext.targets import TARGETS
from tvm_ext import op, pipeline
from tvm_ext.op.encode import OP as ENCODE
from tvm_ext.op.lookup_accumulate import OP as LOOKUP
from tvm_ext.op.plane import OP as PLANE

CONV3 = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)}
HALF1 = {"kernel_shape": (1, 1), "strides": (2, 2), "pads": (0, 0, 0, 0)}


@dataclass
class Net:
    """A network written once, as Relax and in numpy.

    Tables, scales and residuals are integers and inputs are scaled by powers of two, so every result is exact, and many
    values lie halfway between two quantized ones.
    """

    bb: relax.BlockBuilder | None
    signed: bool = False
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def layer(self, x, depth: int, outputs: int, length: int, name: str, geometry: dict | None = None, k: int = 16):
        codebooks = -(-depth // length)
        constants = {
            "centroids": self.rng.integers(-127, 128, (codebooks, k, length)).astype("int8"),
            "table": self.rng.integers(-127, 128, (codebooks, k, outputs)).astype("int8"),
            "table_scale": np.ones(outputs, "float32"),
            "bias": self.rng.integers(-300, 300, outputs).astype("float32"),
            "inv_scale": 2.0 ** self.rng.integers(-4, -1, codebooks).astype("float32"),
            "score_bias": self.rng.integers(-30000, 30000, (codebooks, k)).astype("int32"),
        }
        attrs = {**(geometry or {}), "encode_dtype": "int8", "input_signed": self.signed}
        if self.bb is None:
            return (oracle.conv2d if geometry else oracle.dense)(x, **constants, **attrs)[0]
        make = op.conv2d if geometry else op.dense
        return self.bb.emit(make(x, **{k: relax.const(v) for k, v in constants.items()}, **attrs, layer=name))

    def relu(self, x):
        return np.maximum(x, 0) if self.bb is None else self.bb.emit(relax.op.nn.relu(x))

    def pool(self, x, size: int, pad: int):
        """Maxima of windows `size` wide, two apart."""
        if self.bb is not None:
            return self.bb.emit(relax.op.nn.max_pool2d(x, (size, size), (2, 2), (pad, pad, pad, pad)))
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
        return windows[:, :, ::2, ::2].max((4, 5))

    def add(self, x, y):
        return x + y if self.bb is None else self.bb.emit(relax.op.add(x, y))


def two_convs(net: Net, x):
    return (net.layer(net.relu(net.layer(x, 54, 6, 9, "a", CONV3)), 54, 5, 9, "b", CONV3),)


def residual_block(net: Net, x):
    y = net.relu(net.layer(x, 54, 6, 9, "a", CONV3))
    y = net.relu(net.add(net.layer(y, 54, 6, 9, "b", CONV3), x))
    left = net.layer(y, 54, 9, 9, "c", CONV3 | {"strides": (2, 2)})
    return (net.relu(net.add(left, net.layer(y, 6, 9, 2, "down", HALF1))),)


def pooled(net: Net, x):
    y = net.pool(net.layer(x, 54, 6, 9, "a", CONV3), 2, 0)
    z = net.pool(net.layer(y, 54, 5, 9, "b", CONV3), 3, 1)
    return (net.layer(z, 45, 4, 9, "c", CONV3),)


def pooled_for_two(net: Net, x):
    y = net.pool(net.layer(x, 54, 6, 9, "a", CONV3), 2, 0)
    return y, net.layer(y, 54, 5, 9, "b", CONV3)


def two_readers(net: Net, x):
    y = net.layer(x, 54, 6, 9, "a", CONV3)
    return y, net.layer(y, 54, 5, 9, "b", CONV3)


def big_codebook(net: Net, x):
    """Subvectors that split channels read float32."""
    return (net.layer(net.layer(x, 54, 6, 9, "a", CONV3), 54, 5, 6, "b", CONV3),)


def gathered(net: Net, x):
    """A table read of 32 centroids, by row gathers, in front of one of 16."""
    y = net.layer(x, 54, 6, 9, "a", CONV3, 32)
    return y, net.layer(y, 54, 5, 9, "b", CONV3)


def two_dense(net: Net, x):
    y = net.layer(x, 24, 32, 4, "a")
    return y, net.layer(y, 32, 7, 16, "b")


def two_dense_odd(net: Net, x):
    y = net.relu(net.layer(x, 24, 12, 4, "a"))
    return net.layer(y, 12, 7, 6, "b"), net.layer(y, 12, 9, 5, "ragged")


IMAGE, ROWS = (2, 6, 7, 9), (37, 24)
CASES: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "two_convs": (two_convs, IMAGE),
    "residual_block": (residual_block, IMAGE),
    "pooled": (pooled, IMAGE),
    "pooled_for_two": (pooled_for_two, IMAGE),
    "two_readers": (two_readers, IMAGE),
    "big_codebook": (big_codebook, IMAGE),
    "gathered": (gathered, IMAGE),
    "two_dense": (two_dense, ROWS),
    "two_dense_odd": (two_dense_odd, ROWS),
}


def _module(case: str, signed: bool) -> tvm.IRModule:
    network, shape = CASES[case]
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(list(shape), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            outputs = [bb.emit_output(y) for y in network(Net(bb, signed), x)]
        bb.emit_func_output(relax.Tuple(outputs))
    return bb.get()


def _calls(case: str, isa: str = "avx512_vbmi", signed: bool = False) -> dict[str, relax.Call]:
    """The lut calls of a case after the passes, as "read a", "plane b", "encode b"."""
    target = Target(TARGETS[isa])
    with target:
        after = tvm.transform.Sequential(pipeline.lut_passes(target))(_module(case, signed))
    relax.analysis.well_formed(after)
    names, found = {LOOKUP: "read", PLANE: "plane", ENCODE: "encode"}, {}

    def note(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.op in names:
            found[f"{names[expr.op]} {expr.attrs['layer']}"] = expr

    relax.analysis.post_order_visit(after["main"], note)
    return found


def _dtypes(call: relax.Call) -> list[str]:
    fields = call.ty.fields if isinstance(call.ty, relax.TupleType) else [call.ty]
    return [str(f.dtype) for f in fields]


def test_nothing_but_8_bits_goes_from_conv_to_conv() -> None:
    calls = _calls("two_convs")
    assert _dtypes(calls["read a"]) == ["uint8"]
    assert str(calls["plane b"].args[0].ty.dtype) == "uint8"
    assert _dtypes(calls["read b"]) == ["float32"]


@pytest.mark.parametrize(("isa", "dtype"), [("avx512_vbmi", "uint8"), ("avx2", "uint8"), ("neon_dotprod", "int8")])
def test_the_dtype_is_the_isa_s(isa: str, dtype: str) -> None:
    assert _dtypes(_calls("two_convs", isa, signed=True)["read a"]) == [dtype]


def test_float32_is_kept_for_other_readers() -> None:
    calls = _calls("two_readers")
    assert _dtypes(calls["read a"]) == ["float32", "uint8"]
    assert _dtypes(_calls("two_dense")["read a"]) == ["float32", "uint8"]
    calls = _calls("residual_block")
    assert _dtypes(calls["read a"]) == ["uint8"]
    assert _dtypes(calls["read b"]) == ["float32", "uint8"]


def test_maxima_are_taken_in_8_bits() -> None:
    calls = _calls("pooled")
    assert _dtypes(calls["read a"]) == _dtypes(calls["read b"]) == ["uint8"]
    assert str(calls["plane c"].args[0].ty.dtype) == "uint8"
    assert _dtypes(_calls("pooled_for_two")["read a"]) == ["float32"]


def test_a_second_quantization_is_its_layer_s_own() -> None:
    calls = _calls("residual_block")
    dtypes = {name: str(calls[f"plane {name}"].args[0].ty.dtype) for name in ("c", "down")}
    assert sorted(dtypes.values()) == ["float32", "uint8"]


def test_split_channels_and_ragged_rows_read_float32() -> None:
    assert _dtypes(_calls("big_codebook")["read a"]) == ["float32"]
    calls = _calls("two_dense_odd")
    assert str(calls["encode ragged"].args[0].ty.dtype) == "float32"
    assert str(calls["encode b"].args[0].ty.dtype) == "uint8"


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("case", ["residual_block", "two_dense_odd", "pooled"])
def test_results_equal_the_oracle(case: str, isa: str) -> None:
    _check(case, isa, signed=False)


@pytest.mark.parametrize("isa", ["ssse3", "avx512_vbmi", "neon_dotprod"])  # a dot product each of int16, uint8, int8
def test_signed_inputs(isa: str) -> None:
    _check("two_readers", isa, signed=True)
    _check("two_dense", isa, signed=True)
    _check("pooled", isa, signed=True)


def test_many_centroids_gather_and_quantize() -> None:
    _check("gathered", "avx512_vbmi", signed=False)


def _check(case: str, isa: str, *, signed: bool) -> None:
    network, shape = CASES[case]
    x = np.random.default_rng(3).integers(-200, 800, shape).astype("float32")
    got = execute(_module(case, signed), [x], TARGETS[isa])
    for y, want in zip(got, network(Net(None, signed), x), strict=True):
        np.testing.assert_array_equal(y, want)
