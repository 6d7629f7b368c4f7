"""How a failure is told: four parts for a user's mistake, versions for a bug, and the exit status."""

from __future__ import annotations

import logging
import platform
import sys

import click

from lutc.errors import InputError, LutcError, TargetError

EXIT_OK, EXIT_CHECK_FAILED, EXIT_USAGE, EXIT_CANNOT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx")


def report_failure(error: Exception) -> int:
    """Tell the error on stderr and return the exit status."""
    if isinstance(error, LutcError):
        click.echo(f"error: {error}", err=True)
        _show_traceback_when_verbose(error)
        return EXIT_USAGE if isinstance(error, (InputError, TargetError)) else EXIT_CANNOT
    if isinstance(error, click.ClickException):
        click.echo(f"error: {_usage_text(error)}", err=True)
        return EXIT_USAGE
    click.echo(_internal_text(error), err=True)
    _show_traceback_when_verbose(error)
    return EXIT_CANNOT


def _usage_text(error: click.ClickException) -> str:
    """click's message in our form: "No such option --targt. Did you mean ..." and where the help is."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "lutc"
    first, *rest = message.strip().splitlines()
    lines = [first[:1].lower() + first[1:].removesuffix("."), *rest]
    return "\n  ".join([*lines, f"see {command} --help"])


def _internal_text(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return "\n".join(
        (
            f"internal error: {type(error).__name__}: {text[0] if text else ''}",
            "  where   " + _place(error),
            "  reason  this is a bug in lutc, not a mistake of yours",
            "  fix     report it with the command, the model and these lines; -v shows the traceback",
            "  with    " + ", ".join(f"{name} {number}" for name, number in versions().items()),
        )
    )


def _place(error: Exception) -> str:
    trace = error.__traceback__
    if trace is None:
        return "unknown"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}, line {trace.tb_lineno}"


def _show_traceback_when_verbose(error: Exception) -> None:
    if logging.getLogger("lutc").isEnabledFor(logging.DEBUG):
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True)


def versions() -> dict[str, str]:
    """Versions of lutc, what it runs on, and the machine; reads package metadata only."""
    from importlib.metadata import PackageNotFoundError, version

    from lutc import __version__

    found = {"lutc": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return {**found, sys.platform: platform.machine()}
