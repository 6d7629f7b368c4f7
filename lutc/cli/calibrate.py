"""``lutc calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lutc.cli.options import (
    PATH,
    model_argument,
    output_option,
    overwrite_option,
    progress,
    seed_option,
    verbosity_options,
)
from lutc.config import ENCODE_DTYPES, METRICS, TABLE_DTYPES


@click.command("calibrate", short_help="Learn codebooks for a float model from sample inputs.")
@model_argument
@click.option("--data", required=True, type=PATH, metavar="FILE", help="Sample inputs: .npz by input name, or .npy.")
@output_option("Codebook file to write.  [default: MODEL.codebooks.safetensors]")
@click.option("--num-centroids", type=click.IntRange(2, 256), default=16, metavar="K",
              help="Centroids a codebook holds.  [default: 16]")  # fmt: skip
@click.option("--subvector-len", type=click.IntRange(1), metavar="V",
              help="Length of a subvector.  [default: 9 for 3x3 convs, 4 for 1x1, 16 for dense]")  # fmt: skip
@click.option("--encode-dtype", type=click.Choice(ENCODE_DTYPES), default="int8",
              help="Arithmetic of the centroid search.  [default: int8]")  # fmt: skip
@click.option("--table-dtype", type=click.Choice(TABLE_DTYPES), default="int8",
              help="Type of the table entries.  [default: int8]")  # fmt: skip
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="outputs",
    help="What makes a centroid close: errors in the layer's outputs, or in its inputs.  [default: outputs]",
)
@click.option("--layers", multiple=True, metavar="PATTERN",
              help="Only layers with such names; may be repeated.  [default: all but a first conv]")  # fmt: skip
@click.option("--keep-float", multiple=True, metavar="PATTERN",
              help="Keep layers with such names in float, e.g. 'layer1.*'; may be repeated.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use the first N samples.  [default: all]")
@seed_option
@overwrite_option
@verbosity_options
def calibrate_command(
    model: Path,
    data: Path,
    output: Path | None,
    layers: tuple[str, ...],
    keep_float: tuple[str, ...],
    samples: int | None,
    seed: int,
    overwrite: bool,
    **config: Any,
) -> None:
    """Learn codebooks for the conv and dense layers of MODEL (.onnx) by k-means on sample inputs; needs no torch.

    Without training the network afterwards, expect to lose accuracy: keep sensitive layers in float, or train with
    lutc.quantize_.
    """
    from lutc.config import LUTConfig
    from lutc.errors import ArtifactError
    from lutc.files import check_file, check_writable
    from lutc.inputs import check_input_file

    check_file(model, (".onnx",))
    check_input_file(data)
    output = output or Path(f"{model.stem}.codebooks.safetensors")
    check_writable(output, ArtifactError, overwrite=overwrite)
    from lutc.calibrate import calibrate_file

    codebooks = calibrate_file(
        model,
        data,
        output,
        config=LUTConfig(**config),
        layers=layers or None,
        keep_float=keep_float,
        samples=samples,
        seed=seed,
        overwrite=overwrite,
        progress=progress(),
    )
    click.echo(f"Wrote {output} ({len(codebooks)} layers). Next: lutc compile {model} --codebooks {output}")
