"""``lutc``: the group of verbs, and what happens with errors. Loads the module of the chosen verb only."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from lutc.cli.failure import EXIT_INTERRUPTED, EXIT_OK, report_failure

_GROUPS: dict[str, dict[str, str]] = {
    "Discover": {
        "targets": "List what can be compiled for, and what runs here.",
        "inspect": "Show what a model, codebook file or artifact holds.",
        "estimate": "Tell what each layer would take as a table; runs nothing.",
    },
    "Build": {
        "calibrate": "Learn codebooks for a float model from sample inputs.",
        "import-checkpoint": "Turn a quantized training checkpoint into an ONNX model.",
        "compile": "Compile a model into an artifact.",
    },
    "Measure": {
        "run": "Run an artifact on inputs.",
        "verify": "Check an artifact against its model.",
        "bench": "Time an artifact against other engines.",
        "profile": "Show where the time of a run goes.",
    },
    "Start here": {"demo": "Compile, run, verify and time a bundled model."},
}
VERBS = {verb: text for verbs in _GROUPS.values() for verb, text in verbs.items()}


class _Lutc(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = cmd_name.replace("-", "_")
        return getattr(importlib.import_module(f"lutc.cli.{module}"), f"{module}_command")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"No such command {args[0]!r}.{_nearest(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{verb:<17}", text) for verb, text in verbs.items()])


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" The commands are {', '.join(VERBS)}."


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from lutc.cli.failure import versions

        click.echo("lutc " + ", ".join(f"{name} {number}" for name, number in versions().items())[len("lutc ") :])
        ctx.exit()


@click.group(
    cls=_Lutc,
    invoke_without_command=True,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
              help="Show the versions of lutc and of what it runs on.")  # fmt: skip
@click.pass_context
def lutc(ctx: click.Context) -> None:
    """Compile neural networks with lookup-table layers for ARM and x86 CPUs.

    \b
    lutc demo                                            see all of it on a bundled model
    lutc compile model.onnx --target arm64 -o model.lutc
    lutc verify model.lutc --emulate
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 ok, 1 a check failed, 2 usage, 3 cannot be done, 130 interrupted."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        status = lutc.main(arguments, prog_name="lutc", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        # An interrupt that left text given to exec() (dataclasses are made so) leaves a mark in CPython, for which it
        # ends by SIGINT whatever status is asked for; the next such text clears it.
        exec("")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(EXIT_OK)
    except Exception as error:
        sys.exit(report_failure(error))
    sys.exit(status if isinstance(status, int) else EXIT_OK)


if __name__ == "__main__":
    main()
