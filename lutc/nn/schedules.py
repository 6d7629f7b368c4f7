"""Temperatures that are not learned: fixed, or annealed. LUT-NN learns them; these are for comparison."""

from __future__ import annotations

import math

from torch import nn

from lutc.nn.layer import LUTLayer


class AnnealTemperature:
    """Sets every layer's temperature from `start` to `end`, log-linear in the progress of training.

    The temperatures stop being trained. start == end keeps them fixed. Call it with the part of training done, 0..1.
    """

    def __init__(self, model: nn.Module, start: float = 1.0, end: float = 0.1) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, LUTLayer)]
        self._start, self._end = math.log(start), math.log(end)
        for layer in self._layers:
            layer.log_temperature.requires_grad_(False)
        self(0.0)

    def __call__(self, done: float) -> None:
        value = self._start + (self._end - self._start) * min(max(done, 0.0), 1.0)
        for layer in self._layers:
            layer.log_temperature.data.fill_(value)
