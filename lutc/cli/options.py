"""Options that mean the same in every verb."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lutc.files import check_writable

if TYPE_CHECKING:
    from lutc.report import Report

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def model_argument(function: F) -> F:
    return click.argument("model", type=PATH)(function)


def artifact_argument(function: F) -> F:
    return click.argument("artifact", type=PATH)(function)


def output_option(help: str) -> Callable[[F], F]:
    return click.option("-o", "--output", type=PATH, metavar="PATH", help=help)


def overwrite_option(function: F) -> F:
    return click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")(function)


def threads_option(function: F) -> F:
    text = "Threads of a run.  [default: 1]"
    return click.option("--threads", type=click.IntRange(1), default=1, metavar="N", help=text)(function)


def emulate_option(function: F) -> F:
    return click.option("--emulate", is_flag=True, help="Run AArch64 code under qemu.")(function)


def remote_option(function: F) -> F:
    text = "Run on another machine, where a TVM RPC server listens."
    return click.option("--remote", metavar="HOST:PORT", callback=_check_remote, help=text)(function)


def _check_remote(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and ctx.params.get("emulate"):
        raise click.UsageError("--emulate and --remote are two places to run: give one")
    return value


def seed_option(function: F) -> F:
    text = "Seed of random choices.  [default: 0]"
    return click.option("--seed", type=int, default=0, metavar="N", help=text)(function)


def size_option(function: F) -> F:
    text = "Size of a dimension in random inputs, of an artifact compiled with --dynamic; may be repeated."
    return click.option("--size", "sizes", multiple=True, metavar="NAME=N", callback=_parse_sizes, help=text)(function)


def _parse_sizes(ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    sizes = {}
    for value in values:
        name, separator, size = value.rpartition("=")
        if not (separator and name and size.isdecimal()):
            raise click.BadParameter(f"{value!r} is not NAME=N, for example batch=4")
        sizes[name] = int(size)
    if sizes and ctx.params.get("input_path") is not None:
        raise click.UsageError("--size is for random inputs: those of --input have their sizes")
    return sizes


def input_option(function: F) -> F:
    text = "Inputs: an .npz with the inputs' names, or an .npy for a single input."
    return click.option("-i", "--input", "input_path", type=PATH, metavar="FILE", help=text)(function)


def json_option(function: F) -> F:
    text = "Print the result as JSON, or write it to FILE."
    return click.option(
        "--json", "json_path", is_flag=False, flag_value="-", metavar="[FILE]", callback=_check_json, help=text
    )(function)


def _check_json(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    # without this, `lutc inspect --json model.onnx` would take the model for the file to write
    if value not in (None, "-") and not value.endswith(".json"):
        raise click.BadParameter(f"{value!r} does not end in .json; to print JSON put --json last")
    return value


def verbosity_options(function: F) -> F:
    quiet = click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet, help="No progress.")
    verbose = click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=_set_verbose, help="More detail, and tracebacks."
    )
    return verbose(quiet(function))


def _set_quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta["lutc.quiet"] = value


def _set_verbose(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    logging.getLogger("lutc").setLevel(logging.DEBUG if value else logging.WARNING)


def progress() -> Callable[[str, str, float], None]:
    """A callback (phase, message, seconds) that prints a line on stderr, or nothing under --quiet."""
    quiet = click.get_current_context().meta.get("lutc.quiet", False)

    def show(phase: str, message: str, seconds: float) -> None:
        if not quiet:
            took = f"{seconds * 1e3:5.1f} ms" if phase == "pass" else f"{seconds:5.1f} s"
            click.echo(f"  {phase:<9} {message:<74} {took}", err=True)

    return show


def check_json_path(json_path: str | None) -> None:
    """Refuse a file that cannot be written before any work is done."""
    if json_path not in (None, "-"):
        from lutc.errors import ArtifactError

        check_writable(json_path, ArtifactError)


def show_report(report: Report, json_path: str | None) -> None:
    """Print the report, as JSON under --json; with a file, print it and write the file."""
    if json_path == "-":
        click.echo(report.to_json(), nl=False)
        return
    click.echo(str(report))
    if json_path is not None:
        report.save(json_path)
        click.echo(f"Wrote {json_path}", err=True)
