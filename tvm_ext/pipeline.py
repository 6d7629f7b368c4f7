"""The whole compiler on one page: Relax with ordinary layers or lut ops in, a Relax VM executable out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.ir.instrument import PassInstrument
from tvm.relax.backend.cpu_generic import pipeline as cpu
from tvm.s_tir import dlight
from tvm.target import Target

from tvm_ext import transform as t
from tvm_ext.schedule import RULES
from tvm_ext.target import best_isa
from tvm_ext.transform._from_weights import CodebookLike
from tvm_ext.transform.quantize_remainder import LayerInput


def rewrite_passes(
    codebooks: Mapping[str, CodebookLike], exact: bool = False, keep_float: Collection[str] = ()
) -> list[tvm.transform.Pass]:  # fmt: skip
    """Quantized layers become integer ones; float layers that have a codebook become R.lut.dense and R.lut.conv2d."""
    return [
        t.FoldPermutedConstants(),
        relax.transform.FoldConstant(),
        t.RewriteQuantizedToInteger(exact, keep_float),
        t.RewriteDenseToLUT(codebooks),
        t.RewriteConv2dToLUT(codebooks),
    ]


def lut_passes(target: Target, table_bits: int = 0) -> list[tvm.transform.Pass]:
    """Lut layers become packed encodes and table reads with everything fused that is free there.

    `table_bits`: the least bits that int8 tables may be narrowed to; 8 keeps them as the model has them.
    """
    return [
        t.DecomposeLUT(),
        t.ReuseCodes(),
        t.FoldScaleIntoTable(),
        t.FuseLUTEpilogue(),
        t.PackLUTConstants(target, table_bits),
        t.PackQuantized(target),
        relax.transform.CanonicalizeBindings(),
        t.FuseInputQuantization(),
    ]


def legalize_passes(target: Target) -> list[tvm.transform.Pass]:
    """Operators become PrimFuncs; the float remainder is fused by TVM, lut kernels are opaque to it."""
    return [
        *cpu.library_dispatch_passes(target),
        t.ConvertConvLayout(),
        relax.transform.EliminateCommonSubexpr(),  # one transpose for all who read it channels first
        t.FoldPermutedConstants(),
        relax.transform.FoldConstant(),
        t.LegalizeFloat(),
        relax.transform.DeadCodeElimination(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        t.VectorizeElementary(),
    ]


def schedule_passes() -> list[tvm.transform.Pass]:
    """Loops are ordered, tiled, vectorized and tensorized."""
    return [
        dlight.ApplyDefaultSchedule(*(rule() for rule in RULES)),
        t.WholeVectors(),
        t.PrefetchWeights(),
        t.PrefetchTables(),
    ]


def lower_passes(target: Target) -> list[tvm.transform.Pass]:
    """Relax becomes VM bytecode with planned memory."""
    return [*cpu.dataflow_lower_passes(target), *cpu.finalize_passes(target)]


@relax.register_pipeline("lutc")
def lutc_pipeline(codebooks: Mapping[str, CodebookLike] | None = None, table_bits: int = 0):
    """The phases above, in order, for the current target; `table_bits` as in `lut_passes`."""

    @tvm.transform.module_pass(opt_level=0, name="lutc")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        target = Target.current(allow_none=False)
        phases = [
            *rewrite_passes(codebooks or {}),
            *lut_passes(target, table_bits),
            *legalize_passes(target),
            *schedule_passes(),
            *lower_passes(target),
        ]
        return tvm.transform.Sequential(phases, name="lutc")(mod)

    return run


@dataclass(frozen=True)
class Built:
    """A compiled module.

    executable : Relax VM executable; its function "main" is the model.
    layers : one dict a layer, as `transform.layer_rows` gives.
    constants : values that "main" takes after the model's inputs, in order.
    workspace_bytes : memory of a run besides constants, inputs and outputs; see `transform.planned_memory`.
    scheduled : the module before lowering, as text, if asked for.
    """

    executable: relax.VMExecutable
    layers: list[dict]
    constants: list[tvm.runtime.Tensor]
    workspace_bytes: int
    scheduled: str = ""


def rewrite(
    mod: tvm.IRModule, codebooks: Mapping[str, CodebookLike], instruments: Sequence[PassInstrument] = (),
    *, exact: bool = False, keep_float: Collection[str] = (),
) -> tvm.IRModule:  # fmt: skip
    """The first phase alone, so that a caller can look at what became a table and stop (`transform.layer_rows`).

    exact : levels of quantized layers that are no multiples of one number keep up to 16 bits instead of 8.
    keep_float : names of quantized layers that stay float.
    """
    with tvm.transform.PassContext(opt_level=3, instruments=list(instruments)):
        return tvm.transform.Sequential(rewrite_passes(codebooks, exact, keep_float), name="rewrite")(mod)


def quantize_remainder(
    mod: tvm.IRModule, target: Mapping, inputs: Mapping[str, LayerInput], instruments: Sequence[PassInstrument] = ()
) -> tvm.IRModule:
    """A rewritten module with the float layers that `inputs` names computed in integers of 8 bits.

    Levels have 7 bits where the target adds products of bytes in pairs of 16 bits.
    """
    count = 256 if best_isa(Target(dict(target))).product.dot else 128
    with tvm.transform.PassContext(opt_level=3, instruments=list(instruments)):
        return t.QuantizeRemainder(inputs, count)(mod)


def schedule(
    mod: tvm.IRModule, target: Mapping, instruments: Sequence[PassInstrument] = (), *, table_bits: int = 0
) -> tvm.IRModule:
    """A rewritten module (see `rewrite`) with its kernels chosen, legalized and scheduled for `target`, a TVM dict."""
    tvm_target = Target(dict(target))
    passes = [*lut_passes(tvm_target, table_bits), *legalize_passes(tvm_target), *schedule_passes()]
    with tvm_target, tvm.transform.PassContext(opt_level=3, instruments=list(instruments)):
        return tvm.transform.Sequential(passes, name="schedule")(mod)


def codegen(
    mod: tvm.IRModule, target: Mapping, instruments: Sequence[PassInstrument] = (),
    *, lift_above: int | None = None, keep_text: bool = False,
) -> Built:  # fmt: skip
    """Machine code of a scheduled module. Constants of more than `lift_above` bytes together become parameters."""
    tvm_target = Target(dict(target))
    rows, constants = t.layer_rows(mod), []
    if lift_above is not None:
        mod, constants = t.lift_constants(mod, lift_above)
    text = mod.script() if keep_text else ""
    with tvm_target, tvm.transform.PassContext(opt_level=3, instruments=list(instruments)):
        lowered = tvm.transform.Sequential(lower_passes(tvm_target), name="lower")(mod)
        executable = relax.build(lowered, tvm_target, relax_pipeline=None)
    return Built(executable, rows, constants, t.planned_memory(lowered), text)


def build(
    mod: tvm.IRModule, target: Mapping, instruments: Sequence[PassInstrument] = (), *, table_bits: int = 0
) -> Built:
    """`schedule` and `codegen` of a rewritten module."""
    return codegen(schedule(mod, target, instruments, table_bits=table_bits), target, instruments)
