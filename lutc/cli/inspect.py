"""``lutc inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.options import PATH, check_json_path, json_option, show_report, verbosity_options


@click.command("inspect", short_help="Show what a model, codebook file or artifact holds.")
@click.argument("file", type=PATH)
@json_option
@verbosity_options
def inspect_command(file: Path, json_path: str | None) -> None:
    """Show what FILE holds: an .onnx model, a .safetensors codebook file, a .pt2 program, or an artifact folder.

    Layers are listed with K centroids of V values in C codebooks, or as float with their sizes.
    """
    check_json_path(json_path)
    from lutc.report.inspect import inspect

    show_report(inspect(file), json_path)
