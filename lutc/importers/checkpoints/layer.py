"""What an importer finds out about one layer, and what it may need to be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lutc.errors import ModelImportError
from lutc.nn.levels import Levels

State = dict[str, Tensor]


@dataclass(frozen=True)
class QuantizedParts:
    """A layer as its training code runs it in evaluation.

    weight float32, already quantized, or None where it stays the float weight; input thresholds and levels, or None for
    float inputs.
    """

    weight: Tensor | None = None
    input: Levels | None = None


@dataclass(frozen=True)
class Settings:
    """What some checkpoints do not say.

    Parameters
    ----------
    bits : of weights and activations.
    level_set, biases : Quantization Networks: the integer levels of the weights, and for each quantized layer, in the
        order of the modules, the biases of its steps.
    input_ranges : largest input of layers whose training code takes it from each batch: qualified name -> value.
    """

    bits: int | None = None
    level_set: Sequence[float] | None = None
    biases: Sequence[Sequence[float]] | None = None
    input_ranges: Mapping[str, float] = field(default_factory=dict)

    def known_bits(self, why: str) -> int:
        """bits, or an error that says why they are needed."""
        if self.bits is None:
            raise ModelImportError(
                "the checkpoint does not say its bit width",
                where="bits",
                reason=why,
                fix="give it: --bits N, or import_checkpoint(..., bits=N)",
            )
        if not 1 <= self.bits <= 8:
            raise ModelImportError(
                "cannot import with this bit width", where="bits", reason=f"it is {self.bits}", fix="give 1 to 8"
            )
        return self.bits


def scalar(value: Tensor) -> Tensor:
    """A parameter of one element, of any shape, as float32 []."""
    return value.detach().float().reshape(())
