"""Lookups per nanosecond of the table read in WebAssembly, in node: SIMD kernels beside scalar ones of the same layers.

    python benchmarks/wasm_table_read.py [--repeat 15] [--number 20]

One lookup is one (row, codebook, output); shapes and kernels are those of `table_read.py`. Both kernels of a shape are
linked into one program and take turns at every sample (A B A B ...), each sample the mean of --number calls; their
results must be equal. Warm caches, one pinned thread, minimum and median over --repeat samples.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import tvm
from table_read import SHAPES, lookup_module

from lutc.benchmark.call_steps import call_steps
from lutc.benchmark.foreign_kernels import link
from lutc.runtime.kernel_program import Call
from lutc.targets import parse_target
from tvm_ext import pipeline

KERNELS = {"simd": "wasm32", "scalar": "wasm32,-simd128"}


def measure(shape: tuple[int, int, int], repeat: int, number: int) -> np.ndarray:
    """Seconds of single calls of the table read, [kernel, sample]."""
    calls, libraries = [], []
    for name, target in KERNELS.items():
        llvm = parse_target(target).llvm()
        scheduled = pipeline.schedule(lookup_module(*shape, layer=name), llvm)
        (x,) = scheduled["main"].params
        values = np.random.default_rng(1).standard_normal([int(d) for d in x.ty.shape]).astype("float32")
        steps, _ = call_steps(scheduled, [values])
        calls += [Call(symbol, tuple(np.from_dlpack(t) for t in arguments)) for symbol, arguments in steps]
        kernels = {symbol: scheduled[symbol].with_attr("global_symbol", symbol) for symbol, _ in steps}
        libraries.append(tvm.compile(tvm.IRModule(kernels), target=tvm.target.Target(llvm)).mod)
    reads = [index for index, call in enumerate(calls) if call.symbol.startswith("lut_lookup")]
    with tempfile.TemporaryDirectory() as folder:
        program = link(libraries, calls, parse_target("wasm32"), Path(folder))
        results = program.run()
        np.testing.assert_array_equal(results[reads[0]], results[reads[1]])
        return program.time(repeat, number)[reads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--number", type=int, default=20)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{'(N, C, M)':<18}{'simd us: min':>14}{'median':>9}{'scalar us: min':>16}{'median':>9}", end="")
    print(f"{'lookups/ns: simd':>18}{'scalar':>8}{'ratio':>7}")
    for shape in SHAPES:
        us = measure(shape, options.repeat, options.number) * 1e6
        least, middle, count = us.min(axis=1), np.median(us, axis=1), np.prod(shape)
        print(f"{shape!s:<18}{least[0]:14.0f}{middle[0]:9.0f}{least[1]:16.0f}{middle[1]:9.0f}", end="")
        print(f"{count / least[0] / 1e3:18.1f}{count / least[1] / 1e3:8.2f}{least[1] / least[0]:7.1f}")


if __name__ == "__main__":
    main()
