"""Lookups per nanosecond of the table read alone, beside the bound of the instructions it is made of.

    TVM_NUM_THREADS=1 python benchmarks/table_read.py [--target x86-64-v3] [--repeat 30]

One lookup is one (row, codebook, output). The kernel is the one `lutc compile` would choose: codes and tables packed,
float32 output with scale and bias. Warm caches, one pinned thread, minimum and median over --repeat samples.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import tvm
from tvm import relax

from lutc.targets import check_runs_here, parse_target
from tvm_ext import op as lut
from tvm_ext import pipeline

SHAPES = ((3136, 64, 64), (768, 128, 128), (192, 256, 256), (64, 512, 512))
K, SIDE_LENGTHS = 16, {3136: 56, 768: (24, 32), 192: (12, 16), 64: 8}


def lookup_module(rows: int, codebooks: int, outputs: int, layer: str = "layer") -> tvm.IRModule:
    """A 1x1 convolution with V = 1: its table read has `rows` positions, `codebooks` codebooks, `outputs` outputs."""
    side = SIDE_LENGTHS[rows]
    height, width = (side, side) if isinstance(side, int) else side
    rng = np.random.default_rng(0)
    constants = (
        rng.standard_normal((codebooks, K, 1)).astype("float32"),
        rng.integers(-127, 128, (codebooks, K, outputs)).astype("int8"),
        rng.random(outputs).astype("float32"),
        rng.random(outputs).astype("float32"),
    )
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([1, codebooks, height, width], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit_output(lut.conv2d(x, *map(relax.const, constants), kernel_shape=(1, 1), layer=layer))
        bb.emit_func_output(y)
    return bb.get()


def measure(rows: int, codebooks: int, outputs: int, llvm: dict, repeat: int) -> np.ndarray:
    """Seconds of single calls of the table read, `repeat` samples."""
    scheduled = pipeline.schedule(lookup_module(rows, codebooks, outputs), llvm)
    kernel = next(f for gv, f in scheduled.functions_items() if gv.name_hint.startswith("lut_lookup"))
    library = tvm.compile(kernel.with_attr("global_symbol", "lookup"), target=tvm.target.Target(llvm))
    rng, arguments = np.random.default_rng(1), []
    for parameter in kernel.params:
        shape, dtype = [int(d) for d in parameter.ty.shape], str(parameter.ty.dtype)
        values = rng.integers(0, K, shape) if dtype == "uint8" else rng.integers(-127, 128, shape)
        arguments.append(tvm.runtime.tensor(values.astype(dtype)))
    timer = library.mod.time_evaluator("lookup", tvm.cpu(), number=20, repeat=repeat)
    return np.array(timer(*arguments).results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native")
    parser.add_argument("--repeat", type=int, default=30)
    options = parser.parse_args()
    target = parse_target(options.target)
    check_runs_here(target)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{target.name}, 1 thread\n{'(N, C, M)':<18}{'min us':>10}{'median us':>11}{'lookups/ns (min)':>18}")
    for shape in SHAPES:
        seconds = measure(*shape, target.llvm(), options.repeat)
        rate = np.prod(shape) / seconds.min() / 1e9
        print(f"{shape!s:<18}{seconds.min() * 1e6:10.1f}{np.median(seconds) * 1e6:11.1f}{rate:18.1f}")


if __name__ == "__main__":
    main()
