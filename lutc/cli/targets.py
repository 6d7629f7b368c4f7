"""``lutc targets``."""

from __future__ import annotations

import click

from lutc.cli.options import check_json_path, json_option, show_report, verbosity_options


@click.command("targets", short_help="List what can be compiled for, and what runs here.")
@json_option
@verbosity_options
def targets_command(json_path: str | None) -> None:
    """List what can be compiled for, and what runs here.

    A target is a name with optional refinements: --target NAME[,cpu=CPU][,+FEATURE][,-FEATURE]; "native" is the best
    general one for this machine.
    """
    check_json_path(json_path)
    from lutc.report.targets import targets_report

    show_report(targets_report(), json_path)
