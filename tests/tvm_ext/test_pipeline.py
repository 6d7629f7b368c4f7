"""The pipeline: its phases in order, the same code every time, and its use through tvm.compile."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir.instrument import pass_instrument
from tvm.target import Target

from tests.execute import execute, skip_unless_runnable
from tests.tvm_ext.layers import Layer, check, inputs_of, module_of
from tests.tvm_ext.targets import TARGETS
from tests.tvm_ext.transform.codebook import module, named, random_codebook, table_of, tensor
from tvm_ext import op, pipeline

LAYERS = [
    Layer("fc", (17, 12), 5, affine=True, relu=True),
    Layer("conv", (1, 3, 7, 7), 6, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), search="s8"),
]


@pass_instrument
class _Names:
    def __init__(self) -> None:
        self.names: list[str] = []

    def run_before_pass(self, _mod, info) -> None:
        self.names.append(str(info.name))


def test_phases_in_order() -> None:
    seen = _Names()
    pipeline.build(module_of(LAYERS), TARGETS["avx2"], [seen])
    wanted = [
        "DecomposeLUT", "ReuseCodes", "FoldScaleIntoTable", "FuseLUTEpilogue", "PackLUTConstants", "LegalizeOps",
        "ApplyDefaultSchedule", "VMShapeLower",
    ]  # fmt: skip
    places = [seen.names.index(name) for name in wanted]
    assert places == sorted(places)


def test_rewriting_passes_come_first() -> None:
    names = [str(p.info.name) for p in pipeline.rewrite_passes({})]
    rewrites = ["RewriteQuantizedToInteger", "RewriteDenseToLUT", "RewriteConv2dToLUT"]
    assert names == ["FoldPermutedConstants", "FoldConstant", *rewrites]


def _code(built: pipeline.Built) -> tuple[str, str]:
    kernels = built.executable.mod.imports[0]
    return kernels.inspect_source("asm"), built.executable.as_text()


def test_the_same_module_gives_the_same_code() -> None:
    first, second = (_code(pipeline.build(module_of(LAYERS), TARGETS["avx2"])) for _ in range(2))
    assert first == second
    assert "vpshufb" in first[0]


def test_build_leaves_the_module_alone() -> None:
    mod = module_of(LAYERS)
    text = mod.script(show_meta=True)
    pipeline.build(mod, TARGETS["avx2"])
    assert mod.script(show_meta=True) == text


def test_layers_are_reported() -> None:
    rows = pipeline.build(module_of(LAYERS), TARGETS["avx2"]).layers
    assert [(row["name"], row["op"], row["kernel"]) for row in rows] == [
        ("fc", "dense", "shuffle avx2"),
        ("conv", "conv2d", "shuffle avx2"),
    ]


def test_registered_as_lutc() -> None:
    target = TARGETS["generic"]
    skip_unless_runnable(target)
    executable = tvm.compile(module_of(LAYERS), Target(target), relax_pipeline=relax.get_pipeline("lutc"))
    for layer, got in zip(LAYERS, execute(executable, inputs_of(LAYERS), target), strict=True):
        check(layer, got)


def test_float_layers_with_codebooks() -> None:
    """matmul, bias, relu with a codebook: one table read, the same numbers as the layer written as a lut op."""
    rng, target = np.random.default_rng(0), TARGETS["generic"]
    weight, bias = rng.standard_normal((6, 10)).astype("float32"), rng.standard_normal(6).astype("float32")
    book, x = random_codebook(3, 16, 4), tensor("x", 17, 10)

    def float_layer(bb: relax.BlockBuilder) -> relax.Expr:
        y = bb.emit(named(relax.op.matmul(x, relax.const(weight.T.copy())), "fc"))
        return relax.op.nn.relu(bb.emit(relax.op.add(y, relax.const(bias))))

    def lut_layer(bb: relax.BlockBuilder) -> relax.Expr:
        table = table_of(book, weight)
        return relax.op.nn.relu(bb.emit(op.dense(x, relax.const(book.centroids), *table, relax.const(bias))))

    rewritten = pipeline.rewrite(module([x], float_layer), {"fc": book})
    built = pipeline.build(rewritten, target)
    (row,) = built.layers
    assert (row["name"], row["kind"], row["kernel"]) == ("fc", "lut", "shuffle generic")
    value = rng.standard_normal((17, 10)).astype("float32")
    (got,) = execute(built.executable, [value], target)
    (wanted,) = execute(pipeline.build(module([x], lut_layer), target).executable, [value], target)
    np.testing.assert_array_equal(got, wanted)
    exact = np.maximum(value @ weight.T + bias, 0)
    assert np.corrcoef(got.ravel(), exact.ravel())[0, 1] > 0.3, "a random codebook still approximates"


def test_batch_norm_and_relu_cost_no_kernel() -> None:
    """conv, batch norm, relu is the plane, the search and the table read, and the reshape of a graph's output."""
    layer = LAYERS[1]
    norm = [relax.const(np.full(6, value, "float32")) for value in (1.5, 0.5, 0.1, 2.0)]
    x = tensor("x", *layer.x)

    def emit(bb: relax.BlockBuilder) -> relax.Expr:
        y = bb.emit(layer.expression(x, None))
        return relax.op.nn.relu(bb.emit(bb.emit(relax.op.nn.batch_norm(y, *norm, axis=1, training=False))[0]))

    scheduled = pipeline.schedule(module([x], emit), TARGETS["avx2"])
    names = [str(g.name_hint) for g, f in scheduled.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    assert sorted(name.split("_")[1] if "_" in name else name for name in names) == [
        "encode", "lookup", "plane", "reshape",
    ]  # fmt: skip
