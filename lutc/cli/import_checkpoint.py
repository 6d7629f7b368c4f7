"""``lutc import-checkpoint``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.options import PATH, output_option, overwrite_option, verbosity_options

_FORMATS = ("apot", "llt", "nulsq", "quantization-networks")
_NETWORKS = ("resnet20", "resnet32", "resnet44", "resnet56", "preresnet20", "preresnet56", "resnet18")


@click.command("import-checkpoint", short_help="Turn a quantized training checkpoint into an ONNX model.")
@click.argument("checkpoint", type=PATH)
@click.option("--format", "checkpoint_format", required=True, type=click.Choice(_FORMATS),
              help="The training code it comes from.")  # fmt: skip
@click.option("--arch", required=True, metavar="NAME",
              help=f"The network: {', '.join(_NETWORKS)}.")  # fmt: skip
@click.option("--bits", type=click.IntRange(1, 8), metavar="N",
              help="Bit width, where the file does not say it: apot, and LSQ or LCQ layers of nulsq.")  # fmt: skip
@click.option("--settings", type=PATH, metavar="FILE",
              help="What else the file does not say, as JSON: level_set, biases, input_ranges.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=1, metavar="N", help="Images a run takes.  [default: 1]")
@output_option("Model to write, .onnx or .pt2.  [default: CHECKPOINT.onnx]")
@overwrite_option
@verbosity_options
def import_checkpoint_command(
    checkpoint: Path,
    checkpoint_format: str,
    arch: str,
    bits: int | None,
    settings: Path | None,
    batch: int,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Turn CHECKPOINT, trained with scalar quantizers by one of the known repositories, into a model to compile.

    Weights become codes and levels, activations thresholds and levels, exactly as the training code evaluates them.
    Needs torch.
    """
    from lutc.errors import ArtifactError
    from lutc.files import check_writable

    output = output or Path(f"{checkpoint.name.partition('.')[0]}.onnx")
    check_writable(output, ArtifactError, overwrite=overwrite)
    from lutc.importers.checkpoints import convert_checkpoint

    layers = convert_checkpoint(
        checkpoint, checkpoint_format, arch, output, bits=bits, settings_file=settings, batch=batch
    )
    quantized = [text for text in layers.values() if text != "float"]
    click.echo(
        f"Wrote {output} ({len(quantized)} layers quantized, {len(layers) - len(quantized)} float). "
        f"Next: lutc compile {output}"
    )
