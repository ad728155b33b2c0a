"""Vectors in one byte or one bit an entry, and their mean over processes in one byte.

A vector of several tensors, each with a scale of its own: "int8" rounds x to a whole multiple of
max|x| / 127, "sign" keeps the sign and the mean size of an entry. What was lost is the caller's to
add to the next vector. The mean over processes is rounded to 127ths of the mean scale, which bounds
it, so that it travels in a byte an entry, too.
"""

import torch
from torch import Tensor

COMPRESSIONS = ("none", "int8", "sign")
LEVELS = 127


def encode(vector: Tensor, sizes: list[int], kind: str) -> tuple[Tensor, Tensor]:
    """Codes (size,) int8 and a scale of each tensor (tensors,), by which a code of 1 counts.

    Args:
        vector: (size,), the tensors one after another.
        sizes: entries of each tensor.
        kind: "int8" or "sign".
    """
    parts = vector.split(sizes)
    if kind == "sign":
        scales = torch.stack([part.abs().sum() / max(1, part.numel()) for part in parts])
        return torch.where(vector < 0, -1, 1).to(torch.int8), scales
    largest = torch.stack([part.abs().amax() if part.numel() else part.sum() for part in parts])
    scales = largest / LEVELS
    steps = vector / _each(torch.where(scales > 0, scales, 1.0), sizes)
    return steps.round().nan_to_num(0.0, 0.0, 0.0).to(torch.int8), scales


def decode(codes: Tensor, scales: Tensor, sizes: list[int]) -> Tensor:
    """The vector that codes and scales stand for; not finite where a scale is not."""
    return codes.to(scales.dtype) * _each(scales, sizes)


def mean_scales(scales: Tensor, kind: str) -> Tensor:
    """The scales (tensors,) in which the mean is rounded, from those of all processes (n, tensors).

    No entry of the mean is larger than 127 of them.
    """
    return scales.mean(0) / LEVELS if kind == "sign" else scales.mean(0)


def round_mean(mean: Tensor, scales: Tensor) -> Tensor:
    """Codes (size,) int8 of a mean whose entries have these scales (size,)."""
    steps = (mean / torch.where(scales > 0, scales, 1.0)).round()
    return steps.nan_to_num(0.0, 0.0, 0.0).clamp(-LEVELS, LEVELS).to(torch.int8)


def pack(codes: Tensor) -> Tensor:
    """Signs as bits, (size / 8,) uint8; the size must be a multiple of 8."""
    weights = (2 ** torch.arange(8, device=codes.device)).to(torch.uint8)
    bits = (codes > 0).to(torch.uint8).view(-1, 8) * weights
    return bits.sum(1, dtype=torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """The signs, int8, that `pack` was given."""
    places = torch.arange(8, device=packed.device)
    bits = (packed[:, None] >> places) & 1
    return (2 * bits.to(torch.int8) - 1).flatten()


def mean_in_one_process(
    vectors: list[Tensor], sizes: list[int], kind: str
) -> tuple[Tensor, list[Tensor]]:
    """What processes with these vectors would agree on, and what each of them lost."""
    coded = [encode(vector, sizes, kind) for vector in vectors]
    sent = [decode(codes, scales, sizes) for codes, scales in coded]
    scales = _each(mean_scales(torch.stack([scale for _, scale in coded]), kind), sizes)
    codes = round_mean(torch.stack(sent).mean(0), scales)
    lost = [vector - s for vector, s in zip(vectors, sent, strict=True)]
    return codes.to(scales.dtype) * scales, lost


def _each(scales: Tensor, sizes: list[int]) -> Tensor:
    """The scale of each entry."""
    return scales.repeat_interleave(torch.tensor(sizes, device=scales.device))
