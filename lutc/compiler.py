"""Model + target -> artifact: the phases of a compile, with what each did told to a callback."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lutc.artifact.manifest import LayerRow, Manifest, Source, TargetInfo
from lutc.artifact.store import Artifact, check_output, write_artifact
from lutc.errors import LoweringError
from lutc.importers.names import did_you_mean
from lutc.linker import Linker, find_linker
from lutc.program import AUTO, Program, build_shapes
from lutc.targets import Target, check_models, parse_target
from lutc.trace import Progress, Trace, instruments, log_progress, pass_times

if TYPE_CHECKING:
    from lutc.calibrate.data import SampleData
    from lutc.importers.codebooks import Codebooks
    from lutc.model import Model

EMIT = ("so", "asm", "ir")
_LIFT_ABOVE = 8 << 20  # bytes of constants from which on they are stored beside the code: linking stays fast and small


def compile(
    model: Any, target: str | Target = "native", *, output: str | os.PathLike[str] | None = None,
    codebooks: Codebooks | str | os.PathLike[str] | None = None, database: str | os.PathLike[str] | None = None,
    keep_float: Sequence[str] = (), remainder: str = "float32", calibration: Any = None,
    exact: bool = False, linker: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Mapping[str, str | Sequence[int]] | None = None, emit: Sequence[str] = ("so",),
    dump_ir: str | os.PathLike[str] | None = None, time_passes: bool = False,
    overwrite: bool = False, progress: Progress | None = None,
) -> Artifact:  # fmt: skip
    """Compile a model for a target into an artifact folder.

    Parameters
    ----------
    model : a `Model`, or what `import_model` takes.
    target : a target's name with options, e.g. "arm64-dotprod"; "native" is the best level this machine runs.
    output : the artifact's folder; None is ``NAME-TARGET.lutc`` in the working directory.
    codebooks : codebooks, or their file, for float layers that shall become lookup tables.
    keep_float : shell patterns of layer names whose codebooks are not used; "auto" stands for the layers that are
        faster in float by the cost model (see `estimate`).
    remainder : what computes the dense and conv layers that are not tables: "float32", or "int8", with scales from
        `calibration` inputs, where that is faster by the cost model. Layers that `keep_float` names stay float.
    calibration : inputs for an int8 remainder: {input name: array [samples, ...]}, one array, or an .npz or .npy file.
    linker : None for the first that works, "zig", or a compiler's name.
    input_shapes : input name -> sizes, where the model leaves a dimension open.
    dynamic : name of an open dimension -> its sizes at a run, e.g. ``{"batch": "1..8", "sequence": "1..128"}`` (see
        `lutc.importers.dynamic.import_dynamic`); the model must be a file, a ModelProto or an ExportedProgram then.
    emit : "so" and also "asm" (model.s), "ir" (model.ir, the scheduled module as TVMScript), stored in the artifact.
    exact : round nothing for speed. Else levels of quantized layers that are no multiples of one number are rounded to
        8 bits, and int8 tables to 7 or 6 for the AArch64 cores that read such faster; layer rows tell the error.
    dump_ir : a folder that gets the module after every pass.
    time_passes : tell the time of every pass to `progress`, as phase "pass".
    overwrite : replace an artifact that is there.
    progress : called as ``progress(phase, message, seconds)``; None logs.

    The same input gives the same bytes; `created` is only written when SOURCE_DATE_EPOCH is set.

    Raises
    ------
    ModelImportError, LoweringError, TargetError, LinkError, ArtifactError
    InputError : the calibration inputs are missing, cannot be read, or do not fit the model.
    """
    goal = target if isinstance(target, Target) else parse_target(target)
    check_models(goal)
    _check_options(emit, database)
    if output is not None:
        check_output(output, overwrite=overwrite)
    chosen_linker = find_linker(goal, linker)
    from lutc.calibrate.remainder import check_remainder, load_calibration

    check_remainder(remainder, calibration)
    trace = Trace(progress or log_progress, instruments(dump_ir, time_passes))

    if dynamic and remainder == "int8":
        raise _dynamic_remainder()

    keep_text = "ir" in emit

    def build(imported: Model, inner: Trace, keep: Sequence[str], exact: bool) -> Any:
        return _build(imported, goal, keep, exact, None, inner, lift_above=0, keep_text=keep_text)

    if dynamic:
        program = build_shapes(model, dynamic, codebooks, input_shapes, goal, keep_float, exact, trace, build)
    else:
        imported = _import(model, codebooks, input_shapes, trace)
        data = load_calibration(imported, calibration) if remainder == "int8" else None
        built = _build(imported, goal, keep_float, exact, data, trace, lift_above=_LIFT_ABOVE, keep_text=keep_text)
        program = Program()
        program.add(imported, built, {})
    folder = Path(output) if output is not None else Path(f"{_stem(program.model)}-{goal.name}.lutc")
    check_output(folder, overwrite=overwrite)
    manifest = _manifest(program, goal, folder, chosen_linker)
    with trace.phase("link") as message:
        message.append(chosen_linker.name)
        artifact = write_artifact(folder, manifest, program.payload(chosen_linker, emit), overwrite=overwrite)
    for name, seconds in pass_times(trace.instruments):
        trace.progress("pass", name, seconds)
    return artifact


def _check_options(emit: Sequence[str], database: object) -> None:
    unknown = [kind for kind in emit if kind not in EMIT]
    if unknown:
        raise LoweringError(
            f"cannot emit {unknown[0]!r}", where="--emit", reason="the kernels are LLVM code with target intrinsics",
            fix=f"choose from {', '.join(EMIT)}",
        )  # fmt: skip
    if database is not None:
        raise LoweringError(
            "cannot use a tuning database", where=f"--database {database}",
            reason="this version schedules by rule only", fix="leave --database out",
        )  # fmt: skip


def _dynamic_remainder() -> LoweringError:
    return LoweringError(
        "cannot combine dynamic sizes with an int8 remainder", where="--dynamic, --remainder int8",
        reason="scales are fitted to inputs of one shape, and every shape would get others",
        fix="leave --remainder out, or compile an artifact for each shape",
    )  # fmt: skip


def _import(model: Any, codebooks: Any, input_shapes: Any, trace: Trace) -> Model:
    from lutc.importers import import_model
    from lutc.model import Model

    with trace.phase("import") as message:
        if not isinstance(model, Model):
            model = import_model(model, codebooks=codebooks, input_shapes=input_shapes)
        message.append(", ".join(map(str, model.inputs)))
    return model


def _build(
    model: Model, goal: Target, keep_float: Sequence[str], exact: bool, data: SampleData | None, trace: Trace,
    *, lift_above: int, keep_text: bool,
) -> Any:  # fmt: skip
    """The tvm_ext pipeline, phase by phase."""
    from lutc.calibrate.remainder import quantize_remainder
    from lutc.cost_model.estimate import slower_as_int8, slower_as_tables
    from tvm_ext import pipeline
    from tvm_ext.transform import layer_rows, list_layers

    llvm = goal.llvm()
    with trace.phase("rewrite") as message:
        layers = list_layers(model.mod)
        automatic = slower_as_tables(model, goal) if AUTO in keep_float else {}
        asked = _kept_float([pattern for pattern in keep_float if pattern != AUTO], layers)
        kept = asked | set(automatic)
        books = _codebooks(model, kept, layers)
        rewritten = pipeline.rewrite(model.mod, books, trace.instruments, exact=exact, keep_float=kept)
        _check_rows(layer_rows(rewritten), model)
        message.append(f"{len(books)} float layers become lookup tables" if books else "")
        if automatic:
            message.append("; ".join(f"{name} stays float: a table is {why}" for name, why in automatic.items()))
    if data is not None:
        with trace.phase("remainder") as message:
            floats = slower_as_int8(model, goal) | dict.fromkeys(asked, "asked to be kept in float")
            rewritten, told = quantize_remainder(model, rewritten, goal, data, floats, trace.instruments)
            message.append(told)
    with trace.phase("schedule") as message:
        scheduled = pipeline.schedule(rewritten, llvm, trace.instruments, table_bits=8 if exact else 0)
        rows = layer_rows(scheduled)
        tables, floats = (sum(row["kind"] == kind for row in rows) for kind in ("lut", "float"))
        integers = sum(row["kind"] == "integer" for row in rows)
        message.append(f"{tables} of {tables + floats + integers} layers are lookup tables")
        message += [f"{integers} are integer"] if integers else []
        narrow = [row for row in rows if 0 < row.get("table_bits", 0) < 8]
        if narrow:
            error = max(row["table_error"] for row in narrow)
            bits = min(row["table_bits"] for row in narrow)
            message.append(f"({len(narrow)} of {bits} bits: off by {error:.1%} at most)")
    with trace.phase("codegen") as message:
        built = pipeline.codegen(scheduled, llvm, trace.instruments, lift_above=lift_above, keep_text=keep_text)
        message.append(" ".join([goal.triple, goal.cpu, *goal.attrs]))
    order = {name: index for index, name in enumerate(layers)}
    built.layers.sort(key=lambda row: order.get(row["name"], len(order)))
    return built


def _codebooks(model: Model, kept: set[str], layers: Mapping[str, bool]) -> dict[str, Any]:
    """The model's codebooks without those of layers that are `kept` float; names that match no layer are mistakes."""
    if model.codebooks is not None:
        model.codebooks.check_layers(layers)
    return {name: book for name, book in (model.codebooks or {}).items() if name not in kept}


def _kept_float(keep_float: Sequence[str], layers: Mapping[str, bool]) -> set[str]:
    """The layers that the patterns name; patterns that match none, or a stored table, are mistakes.

    layers: name -> whether the model stores it as a table.
    """
    kept: set[str] = set()
    for pattern in keep_float:
        matched = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
        tables = [name for name in matched if layers[name]]
        if not matched or tables:
            raise _keep_float_error(pattern, tables, list(layers))
        kept.update(matched)
    return kept


def _keep_float_error(pattern: str, tables: list[str], names: list[str]) -> LoweringError:
    if tables:
        return LoweringError(
            f'cannot keep "{tables[0]}" in float', where=f"--keep-float {pattern}",
            reason="the model stores this layer as a table, without the weights behind it",
            fix="keep it float when the model is exported, or compile the float model with --codebooks",
        )  # fmt: skip
    return LoweringError(
        "nothing to keep in float", where=f"--keep-float {pattern}",
        reason="no conv or dense layer's name matches the pattern" + did_you_mean(pattern, names),
        fix="the layers are: " + (", ".join(names) or "none"),
    )  # fmt: skip


def _check_rows(rows: list[dict], model: Model) -> None:
    """Raise for every codebook that does not fit its layer, all in one message."""
    order = {name: index for index, name in enumerate(model.nodes)}
    bad = sorted((row for row in rows if row["kind"] == "error"), key=lambda row: order.get(row["name"], len(order)))
    if bad:
        names = ", ".join(f'"{row["name"]}"' for row in bad)
        where = "; ".join(model.nodes.get(row["name"], row["name"]) for row in bad)
        raise LoweringError(
            f"cannot turn {names} into lookup tables", where=f"{model.source}, {where}",
            reason="\n".join(f"{row['name']}: {row['reason']}" for row in bad),
            fix="make codebooks for these layers again (lutc calibrate), or keep them in float: --keep-float "
            + " --keep-float ".join(f"'{row['name']}'" for row in bad),
        )  # fmt: skip


def _manifest(program: Program, goal: Target, folder: Path, linker: Linker) -> Manifest:
    model, codes = program.model, [code for code, _ in program.codes]
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return Manifest(
        name=folder.name.removesuffix(".lutc"),
        versions={"lutc": importlib.metadata.version("lutc"), "tvm": importlib.metadata.version("apache-tvm")},
        source=Source(file=Path(model.source).name, sha256=model.source_sha256),
        target=TargetInfo(
            name=goal.name, arch=goal.arch, triple=goal.triple, cpu=goal.cpu,
            attrs=list(goal.attrs), requires=list(goal.requires), core=goal.core,
        ),
        inputs=list(model.inputs),
        outputs=list(model.outputs),
        layers=[_layer(row) for row in program.built.layers],
        linker=linker.name,
        constants=codes[0].constants,
        dimensions=list(program.dimensions),
        shapes=codes if program.dimensions else [],
        workspace_bytes=program.built.workspace_bytes,
        created=datetime.fromtimestamp(int(epoch), timezone.utc).isoformat() if epoch else None,
    )  # fmt: skip


def _layer(row: Mapping[str, Any]) -> LayerRow:
    return LayerRow(**row, schedule="" if row["kind"] == "float" else "rule")


def _stem(model: Model) -> str:
    return Path(model.source).stem or "model"
