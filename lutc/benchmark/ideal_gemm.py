"""What an AArch64 layer with weights could take at best: our own matrix micro-kernels, for the same simulation.

One tile of 8 rows and 8 outputs is computed over the whole depth, from operands that lie as the kernel reads them,
with bias and relu (and, of 8 bits, the scale) behind it; a layer is as many tiles. Patches, packing and edges cost
nothing here. The 8-bit layer also quantizes its input, as a table does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lutc.benchmark.operators import Operator
from lutc.runtime.kernel_program import Call
from lutc.targets import Target

TILE = 8
_ROUND = 12582912.0  # 1.5 * 2**23: a float32 that is added to it has its integer in the low bits
_QUANTIZED = 4096  # values that the quantizing kernel is run on


@dataclass(frozen=True, eq=False)
class IdealGemm:
    """Calls of the micro-kernels of one depth, and what each must compute."""

    calls: tuple[Call, Call, Call]
    expected: tuple[np.ndarray, np.ndarray, np.ndarray]

    def float_cycles(self, o: Operator, costs: tuple[float, float, float]) -> float:
        """Of a whole float32 layer, from the cycles of the three calls."""
        return _tiles(o) * costs[0]

    def int8_cycles(self, o: Operator, costs: tuple[float, float, float]) -> float:
        """Of a whole layer of 8-bit integers, float32 in to float32 out."""
        return _tiles(o) * costs[1] + float(np.prod(o.input_shape)) / _QUANTIZED * costs[2]


def _tiles(o: Operator) -> float:
    return o.positions * o.outputs / TILE**2


def build(depth: int, target: Target, path: Path) -> IdealGemm:
    """Compile the micro-kernels for a target with dot products into an object file."""
    import tvm

    depth += -depth % 4
    kernels = {f.attrs["global_symbol"]: f for f in (_gemm_float(depth), _gemm_int8(depth), _quantize())}
    llvm = {**target.llvm(), "mattr": sorted({*target.attrs, "+neon", "+dotprod"})}
    tvm.compile(tvm.IRModule(kernels), target=tvm.target.Target(llvm)).mod.write_to_file(str(path))
    return _calls(depth)


def _calls(depth: int) -> IdealGemm:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, depth, TILE)).astype(np.float32)
    bias, scale = rng.standard_normal((2, TILE)).astype(np.float32)
    out = np.zeros((TILE, TILE), np.float32)
    qa, qb = rng.integers(-127, 128, (2, depth // 4, 4 * TILE)).astype(np.int8)
    x = (40 * rng.standard_normal(_QUANTIZED)).astype(np.float32)
    step = np.full(4, 1.25, np.float32)
    products = np.einsum("kri,kmi->rm", *(q.astype(np.int64).reshape(-1, TILE, 4) for q in (qa, qb)))
    return IdealGemm(
        (
            Call("ideal_gemm_float", (a, b, bias, out)),
            Call("ideal_gemm_int8", (qa, qb, scale, bias, out.copy())),
            Call("ideal_quantize", (x, step, np.zeros(_QUANTIZED, np.int8))),
        ),
        (
            np.maximum(a.T.astype(np.float64) @ b + bias, 0).astype(np.float32),
            np.maximum(products * scale.astype(np.float64) + bias, 0).astype(np.float32),
            np.clip(np.rint(x * np.float32(1.25)), -128, 127).astype(np.int8),
        ),
    )


def _gemm_float(depth: int) -> Any:
    from tvm.script import tirx as T

    from tvm_ext.tensor_intrin.spec import llvm_intrinsic

    fma = llvm_intrinsic("llvm.fma.v4f32")

    @T.prim_func(s_tir=True)
    def ideal_gemm_float(
        a: T.Buffer((depth, TILE), "float32"), b: T.Buffer((depth, TILE), "float32"),
        bias: T.Buffer((TILE,), "float32"), out: T.Buffer((TILE, TILE), "float32"),
    ):  # fmt: skip
        T.func_attr({"global_symbol": "ideal_gemm_float", "tirx.noalias": True})
        acc = T.alloc_buffer((TILE * TILE,), "float32")
        for i in T.unroll(TILE):
            for j in T.unroll(TILE // 4):
                acc[T.ramp(i * TILE + j * 4, 1, 4)] = bias[T.ramp(j * 4, 1, 4)]
        for k in T.serial(depth):
            for i in T.unroll(TILE):
                for j in T.unroll(TILE // 4):
                    acc[T.ramp(i * TILE + j * 4, 1, 4)] = T.call_llvm_pure_intrin(
                        "float32x4", fma, b[k, T.ramp(j * 4, 1, 4)],
                        T.Shuffle([a[k, T.ramp(i // 4 * 4, 1, 4)]], [i % 4] * 4), acc[T.ramp(i * TILE + j * 4, 1, 4)],
                    )  # fmt: skip
        for i in T.unroll(TILE):
            for j in T.unroll(TILE // 4):
                out[i, T.ramp(j * 4, 1, 4)] = T.max(acc[T.ramp(i * TILE + j * 4, 1, 4)], T.broadcast(T.float32(0), 4))

    return ideal_gemm_float


def _gemm_int8(depth: int) -> Any:
    from tvm.script import tirx as T

    from tvm_ext.tensor_intrin.spec import llvm_intrinsic

    sdot, fma = llvm_intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8"), llvm_intrinsic("llvm.fma.v4f32")

    @T.prim_func(s_tir=True)
    def ideal_gemm_int8(
        a: T.Buffer((depth // 4, 4 * TILE), "int8"), b: T.Buffer((depth // 4, 4 * TILE), "int8"),
        scale: T.Buffer((TILE,), "float32"), bias: T.Buffer((TILE,), "float32"),
        out: T.Buffer((TILE, TILE), "float32"),
    ):  # fmt: skip
        T.func_attr({"global_symbol": "ideal_gemm_int8", "tirx.noalias": True})
        acc = T.alloc_buffer((TILE * TILE,), "int32")
        for i in T.unroll(TILE * TILE // 4):
            acc[T.ramp(i * 4, 1, 4)] = T.broadcast(T.int32(0), 4)
        for k in T.serial(depth // 4):
            for i in T.unroll(TILE):
                for j in T.unroll(TILE // 4):
                    acc[T.ramp(i * TILE + j * 4, 1, 4)] = T.call_llvm_pure_intrin(
                        "int32x4", sdot, acc[T.ramp(i * TILE + j * 4, 1, 4)],
                        b[k, T.ramp(j * 16, 1, 16)],
                        T.reinterpret("int8x16", T.Shuffle(
                            [T.reinterpret("int32x4", a[k, T.ramp(i // 4 * 16, 1, 16)])], [i % 4] * 4)),
                    )  # fmt: skip
        for i in T.unroll(TILE):
            for j in T.unroll(TILE // 4):
                out[i, T.ramp(j * 4, 1, 4)] = T.max(
                    T.call_llvm_pure_intrin(
                        "float32x4", fma, T.cast(acc[T.ramp(i * TILE + j * 4, 1, 4)], "float32x4"),
                        scale[T.ramp(j * 4, 1, 4)], bias[T.ramp(j * 4, 1, 4)],
                    ),
                    T.broadcast(T.float32(0), 4),
                )  # fmt: skip

    return ideal_gemm_int8


def _quantize() -> Any:
    from tvm.script import tirx as T

    from tvm_ext.tensor_intrin.spec import llvm_intrinsic

    narrow = llvm_intrinsic("llvm.aarch64.neon.sqxtn.v8i8")

    @T.prim_func(s_tir=True)
    def ideal_quantize(
        x: T.Buffer((_QUANTIZED,), "float32"), step: T.Buffer((4,), "float32"), out: T.Buffer((_QUANTIZED,), "int8")
    ):
        T.func_attr({"global_symbol": "ideal_quantize", "tirx.noalias": True})
        for n in T.serial(_QUANTIZED // 16):
            for j in T.unroll(2):
                t = T.alloc_buffer((8,), "int32")
                for i in T.unroll(2):
                    t[T.ramp(i * 4, 1, 4)] = T.reinterpret(
                        "int32x4",
                        x[T.ramp(n * 16 + j * 8 + i * 4, 1, 4)] * step[T.ramp(0, 1, 4)]
                        + T.broadcast(T.float32(_ROUND), 4),
                    )
                out[T.ramp(n * 16 + j * 8, 1, 8)] = T.call_llvm_pure_intrin(
                    "int8x8", narrow, T.cast(t[T.ramp(0, 1, 8)], "int16x8")
                )

    return ideal_quantize
