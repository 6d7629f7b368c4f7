"""The one family of errors a user can meet, each told in four parts: what, where, why, and what to do."""

from __future__ import annotations


class LutcError(Exception):
    """A mistake or limit that the user can act on.

    Parameters
    ----------
    message : what could not be done, in one line, lower case, no full stop.
    where : the file, layer, argument or path it happened at.
    reason : the fact that made it fail, with the offending value.
    fix : what to type or change.
    """

    def __init__(self, message: str, *, where: str, reason: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.where, self.reason, self.fix = message, where, reason, fix

    def __str__(self) -> str:
        parts = (("where", self.where), ("reason", self.reason), ("fix", self.fix))
        body = (f"\n  {label:<8}{_indent(text)}" for label, text in parts)
        return self.message + "".join(body)


def _indent(text: str) -> str:
    return text.replace("\n", "\n" + " " * 10)


class ModelImportError(LutcError):
    """The model or codebook file cannot be read, or holds what cannot be imported."""


class LoweringError(LutcError):
    """The model was read but cannot be turned into code."""


class TargetError(LutcError):
    """The target is unknown, or this machine cannot run what was asked."""


class LinkError(LutcError):
    """No linker for the target, or the linker failed."""


class ArtifactError(LutcError):
    """An artifact is missing, damaged, from the future, for another machine, or cannot be written."""


class VerifyError(LutcError):
    """A verification or run could not be carried out (not: its result was bad)."""


class InputError(LutcError):
    """Inputs given at run time do not fit the model."""
