"""``lutc estimate``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.options import PATH, check_json_path, json_option, model_argument, show_report, verbosity_options


@click.command("estimate", short_help="Tell what each layer would take as a table; runs nothing.")
@model_argument
@click.option("-t", "--target", default="native", metavar="NAME[,...]",
              help="What to compile for; lutc targets lists all.  [default: native]")  # fmt: skip
@click.option("--codebooks", type=PATH, metavar="FILE", help="Codebooks for the layers of a float model.")
@json_option
@verbosity_options
def estimate_command(model: Path, target: str, codebooks: Path | None, json_path: str | None) -> None:
    """Compare every layer of MODEL (.onnx or .pt2) as a lookup table with the same layer in float32 and int8.

    Times come from a model of the target's core, sizes from the shapes. A layer without codebooks is estimated with
    16 centroids of as many values as the kernel has taps (1x1: 4, dense: 16).
    """
    from lutc.files import check_file
    from lutc.targets import parse_target

    goal = parse_target(target)
    check_file(model, (".onnx", ".pt2"))
    if codebooks is not None:
        check_file(codebooks, (".safetensors",), what="the codebooks")
    check_json_path(json_path)
    from lutc.cost_model.estimate import estimate

    show_report(estimate(model, goal, codebooks=codebooks), json_path)
