"""``lutc compile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lutc.cli.options import (
    PATH,
    check_json_path,
    json_option,
    model_argument,
    output_option,
    overwrite_option,
    progress,
    show_report,
    verbosity_options,
)

if TYPE_CHECKING:
    from lutc.artifact.store import Artifact

EMIT = ("so", "asm", "ir")
REMAINDERS = ("float32", "int8")


def _parse_shapes(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, list[int]]:
    shapes = {}
    for value in values:
        name, separator, sizes = value.rpartition("=")
        numbers = sizes.replace("x", ",").split(",")
        if not (separator and name and all(number.isdecimal() and int(number) > 0 for number in numbers)):
            raise click.BadParameter(f"{value!r} is not NAME=SIZE,SIZE,..., for example x=1,3,224,224")
        shapes[name] = [int(number) for number in numbers]
    return shapes


def _parse_dynamic(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, separator, sizes = value.partition("=")
        if not (separator and name and sizes):
            raise click.BadParameter(f"{value!r} is not NAME=SIZES, for example batch=1..8")
        found[name] = sizes
    return found


def _parse_emit(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(value.split(",")))
    for kind in kinds:
        if kind not in EMIT:
            raise click.BadParameter(f"{kind!r} is not one of {', '.join(EMIT)}")
    return kinds


@click.command("compile", short_help="Compile a model into an artifact.")
@model_argument
@click.option("-t", "--target", default="native", metavar="NAME[,...]",
              help="What to compile for; lutc targets lists all.  [default: native]")  # fmt: skip
@output_option("Artifact folder to write.  [default: MODEL-TARGET.lutc]")
@click.option("--codebooks", type=PATH, metavar="FILE", help="Codebooks for the layers of a float model.")
@click.option("--keep-float", multiple=True, metavar="PATTERN",
              help="Keep layers with such names in float, e.g. 'layer1.*', or with 'auto' those that are faster so; "
              "may be repeated.")  # fmt: skip
@click.option("--remainder", type=click.Choice(REMAINDERS), default="float32",
              help="Arithmetic of other layers than tables; int8 needs --calibration.  [default: float32]")  # fmt: skip
@click.option("--calibration", type=PATH, metavar="FILE",
              help="Inputs that scales of an int8 remainder are fitted to: .npz by input name, or .npy.")  # fmt: skip
@click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=SIZES", callback=_parse_shapes,
              help="Sizes of an input with open dimensions, e.g. x=1,3,224,224; may be repeated.")  # fmt: skip
@click.option("--dynamic", multiple=True, metavar="NAME=SIZES", callback=_parse_dynamic,
              help="Leave an open dimension to the run: batch=1..8, sequence=1..128, or sequence=16,64 for these sizes "
              "only; may be repeated.")  # fmt: skip
@click.option("--emit", default="so", metavar="KINDS", callback=_parse_emit,
              help=f"What to put in the artifact: {','.join(EMIT)}.  [default: so]")  # fmt: skip
@click.option("--exact", is_flag=True,
              help="Keep what is else rounded for speed: quantization levels (8 bits), tables on Arm (7).")  # fmt: skip
@click.option("--linker", metavar="NAME", help="zig, or a compiler to link with.  [default: the first that works]")
@click.option("--dump-ir", type=PATH, metavar="DIR", help="Write the program after every pass into DIR.")
@click.option("--time-passes", is_flag=True, help="Print the time of every pass.")
@overwrite_option
@json_option
@verbosity_options
def compile_command(
    model: Path, target: str, output: Path | None, codebooks: Path | None, calibration: Path | None,
    json_path: str | None, **options: Any,
) -> None:  # fmt: skip
    """Compile MODEL (.onnx or .pt2) into an artifact, a folder that `lutc run` and lutc.load take.

    Layers annotated with codebooks become lookup tables, and so do those that --codebooks names; the others are
    compiled in float, or in int8.
    """
    from lutc.artifact.store import check_output
    from lutc.files import check_file
    from lutc.linker import find_linker
    from lutc.targets import check_models, parse_target

    chosen = parse_target(target)
    check_models(chosen)
    check_file(model, (".onnx", ".pt2"))
    if codebooks is not None:
        check_file(codebooks, (".safetensors",), what="the codebooks")
    if calibration is not None:
        from lutc.inputs import check_input_file

        check_input_file(calibration)
    output = output or Path(f"{model.stem}-{chosen.name}.lutc")
    check_output(output, overwrite=options["overwrite"])
    check_json_path(json_path)
    find_linker(chosen, options["linker"])
    from lutc.compiler import compile

    options |= {"codebooks": codebooks, "calibration": calibration}
    artifact = compile(model, chosen, output=output, progress=progress(), **options)
    _show(artifact, output, model, json_path)


def _show(artifact: Artifact, output: Path, model: Path, json_path: str | None) -> None:
    if json_path is not None:
        from lutc.report.inspect import inspect

        show_report(inspect(output), json_path)
    if json_path != "-":
        click.echo(_summary(artifact, output, model))


def _summary(artifact: Artifact, output: Path, model: Path) -> str:
    from lutc.report.text import format_bytes

    tables = sum(layer.table_bytes for layer in artifact.manifest.layers)
    sizes = f"{format_bytes(artifact.size_bytes)}, of it tables {format_bytes(tables)}"
    sizes += f", a run takes {format_bytes(artifact.manifest.workspace_bytes)} more"
    source = f"{model.name} is {format_bytes(model.stat().st_size)}"
    return f"Wrote {output} ({sizes}; {source}). {_next_step(artifact, output)}"


def _next_step(artifact: Artifact, output: Path) -> str:
    from lutc.errors import TargetError
    from lutc.targets import OTHER_TARGETS, WITH_RUNTIME, check_runs_here

    target = artifact.manifest.target
    if target.arch not in WITH_RUNTIME:
        return f"It is for a program with TVM's runtime: {OTHER_TARGETS}"
    try:
        check_runs_here(target)
    except TargetError:
        return f"Next: lutc verify {output} --emulate" if target.arch == "aarch64" else f"It runs on {target.name}."
    return f"Next: lutc verify {output}"
