"""Simulation with a network that has past outputs among its inputs: its own are fed back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FreeRun:
    """How a network runs free.

    The last `lags` · outputs channels are the outputs of the steps t-1, t-2, …, each scaled as the
    network's answers are. Those of the first `start` steps stay as measured.

    Args:
        lags: past outputs that are inputs, ≥ 1.
        start: first step whose output is the network's own.
    """

    lags: int
    start: int

    @torch.no_grad()
    def __call__(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """A network's outputs (time, batch, output), in which inputs depend on outputs before.

        Args:
            model: a `SequenceModel` in evaluation mode, of one direction, with an output at every
                step.
            inputs: (time, batch, channel) with the measured outputs.
        """
        advance: Any = model.advance
        known = min(self.start + 1, len(inputs))  # steps whose inputs were all measured
        outputs, state = advance(inputs[:known])
        found: list[Tensor] = list(outputs)
        for t in range(known, len(inputs)):
            step = self._fed_back(inputs[t], found, t)
            outputs, state = advance(step[None], state)
            found.append(outputs[0])
        return torch.stack(found)

    def _fed_back(self, measured: Tensor, found: Sequence[Tensor], t: int) -> Tensor:
        """The inputs (batch, channel) of step t, with the network's own outputs."""
        width = found[0].shape[1]
        first = measured.shape[1] - self.lags * width
        step = measured.clone()
        for lag in range(1, min(self.lags, t - self.start) + 1):
            place = first + (lag - 1) * width
            step[:, place : place + width] = found[t - lag]
        return step
