"""Time warping: training series that are stretched or shrunk in time, anew in every minibatch.

    x'(t) = x(c + (t - c) / f),   f = exp(u), u uniform in -spread … spread

with linear interpolation between steps. Series of one length keep it: c is a random step, and where
t leaves the series, its first or last step stays. Series of T steps of different lengths become
those of about f T steps, with c = 0.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rnnopt.tasks.examples import Batch


def warped(batch: Batch, spread: float, generator: torch.Generator) -> Batch:
    """The batch with each series at a random speed; its targets stay.

    Args:
        batch: sequences with one target each.
        spread: largest |log f|; 0 changes nothing.
        generator: source of the random numbers, on the CPU.
    """
    if spread == 0:
        return batch
    device, (steps, count) = batch.inputs.device, batch.inputs.shape[:2]
    factors = torch.exp((2 * torch.rand(count, generator=generator) - 1) * spread).to(device)
    if batch.lengths is None:
        centres = (torch.rand(count, generator=generator) * (steps - 1)).to(device)
        times = torch.arange(steps, device=device)[:, None]
        places = ((times - centres) / factors + centres).clamp(0, steps - 1)
        return replace(batch, inputs=interpolated(batch.inputs, places))
    lengths = (batch.lengths * factors).round().clamp(min=1).long()
    times = torch.arange(int(lengths.max()), device=device)[:, None]
    ends = (batch.lengths - 1).float()
    places = torch.minimum(times * (ends / (lengths - 1).clamp(min=1)), ends)
    inputs = interpolated(batch.inputs, places)
    return replace(
        batch, inputs=inputs.masked_fill((times >= lengths)[..., None], 0), lengths=lengths
    )


def interpolated(inputs: Tensor, places: Tensor) -> Tensor:
    """Values (new time, batch, feature) of `inputs` (time, batch, feature) between its steps.

    Args:
        inputs: sequences.
        places: (new time, batch) in 0 … time - 1.
    """
    before = places.floor().long()
    after = (before + 1).clamp(max=inputs.shape[0] - 1)
    rows = torch.arange(inputs.shape[1], device=inputs.device)[None]
    return torch.lerp(inputs[before, rows], inputs[after, rows], (places - before)[..., None])
