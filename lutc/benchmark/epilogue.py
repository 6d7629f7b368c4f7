"""How long a table read takes for what is not reading tables: scale, bias, residual, activation, order and type.

They are fused into one kernel with the read, so they cannot be timed in it. Timed instead is a kernel compiled alike
whose table has one group of codebooks only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from lutc.benchmark.protocol import time_in_turns


@dataclass(frozen=True)
class ReadCall:
    """Arguments of a table read as (shape, dtype), in the kernel's order, results last.

    layout : "rowwise" or the ISA's name, as R.lut.lookup_accumulate takes it.
    """

    arguments: tuple[tuple[tuple[int, ...], str], ...]
    layout: str

    def smallest(self) -> ReadCall:
        """The same with one group of codebooks."""
        (codes, code), (table, entry), *rest = self.inputs()
        at = 1 if self.layout == "rowwise" else 2
        few = [((*codes[:at], 1, *codes[at + 1 :]), code)]
        few.append(((1, *table[1:]) if self.layout == "rowwise" else (table[0], 1, *table[2:]), entry))
        few += [((1, *shape[1:]) if dtype == "uint8" else shape, dtype) for shape, dtype in rest]  # uint8: multipliers
        return ReadCall((*few, *self.arguments[self._inputs :]), self.layout)

    @property
    def _inputs(self) -> int:
        """Arguments before the results; where the result is quantized, the scales for that come last of them."""
        if self.arguments[-1][1] == "float32":
            return len(self.arguments) - 1
        return 1 + max(i for i, (shape, _) in enumerate(self.arguments) if len(shape) == 1)

    def expression(self, variables: list[Any]) -> Any:
        """The call in Relax; `variables` are the inputs."""
        from tvm_ext import op

        codes, table, scale, *optional = variables
        results = self.arguments[self._inputs :]
        shape, dtype = results[-1]
        quantized = "" if dtype == "float32" else dtype
        inv_scale = optional.pop() if quantized else None
        kinds = {"bias": None, "mult": None, "residual": None}
        for variable, (of, kind) in zip(optional, self.arguments[3:], strict=False):
            kinds["mult" if kind == "uint8" else "bias" if len(of) == 1 else "residual"] = variable
        return op.lookup_accumulate(
            codes, table, scale, **kinds, inv_scale=inv_scale, axis=1 if len(shape) == 3 else -1, activation="relu",
            layout=self.layout, rows=shape[-1] if len(shape) == 3 else shape[0], quantized=quantized,
            keep_float=len(results) == 2,
        )  # fmt: skip

    def inputs(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        return self.arguments[: self._inputs]


@cache
def epilogue_us(call: ReadCall, target: tuple[tuple[str, Any], ...], repeat: int) -> float:
    """Microseconds, the least of `repeat` runs; `target` are the items of a TVM target dict, lists as tuples."""
    import tvm
    from tvm import relax

    from tvm_ext import pipeline

    small = call.smallest()
    builder = relax.BlockBuilder()
    variables = [relax.Var(f"a{i}", relax.TensorType(list(s), d)) for i, (s, d) in enumerate(small.inputs())]
    with builder.function("main", variables):
        with builder.dataflow():
            y = builder.emit_output(small.expression(variables))
        builder.emit_func_output(y)
    llvm: Mapping[str, Any] = {key: list(value) if isinstance(value, tuple) else value for key, value in target}
    scheduled = pipeline.schedule(builder.get(), llvm)
    (symbol,) = (gv.name_hint for gv, _ in scheduled.functions_items() if gv.name_hint.startswith("lut_lookup"))
    function = pipeline.codegen(scheduled, llvm).executable.mod.imports[0][symbol]
    arrays = [tvm.runtime.tensor(np.zeros(shape, dtype)) for shape, dtype in small.arguments]
    return time_in_turns({"": partial(function, *arrays)}, repeat=repeat)[""].min_us
