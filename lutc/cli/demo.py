"""``lutc demo``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.options import PATH, verbosity_options


@click.command("demo", short_help="Compile, run, verify and time a bundled model.")
@click.option("-o", "--output", type=PATH, default=Path("lutc-demo"), metavar="DIR",
              help="Folder for the files.  [default: lutc-demo]")  # fmt: skip
@click.option("--emulate/--no-emulate", default=None,
              help="Also run the arm64 artifact under qemu.  [default: if it is installed]")  # fmt: skip
@verbosity_options
@click.pass_context
def demo_command(ctx: click.Context, output: Path, emulate: bool | None) -> int:
    """Compile a bundled trained model for this machine and for arm64, then run, verify and time it.

    Prints where the files are.
    """
    from rich.console import Console

    from lutc.demo import run_demo

    console = Console(quiet=ctx.meta.get("lutc.quiet", False))
    return run_demo(output, emulate="auto" if emulate is None else emulate, console=console)
