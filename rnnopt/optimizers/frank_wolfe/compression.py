"""Vectors in one byte or one bit per entry, and their mean over processes in one byte.

A vector consists of several tensors, each with its own scale. "int8" rounds x to a whole multiple
of max|x| / 127. "sign" keeps the sign and the mean size of an entry; one bit cannot hold 0, which
counts as positive. The mean over processes is rounded to 127ths of the mean scale, which bounds it,
so that it also takes a byte per entry. The caller adds both rounding errors to the next vector: the
error of the mean, times the number of processes, to the vector of one process.
"""

import torch
from torch import Tensor

COMPRESSIONS = ("none", "int8", "sign")
LEVELS = 127


def encode(vector: Tensor, sizes: list[int], kind: str) -> tuple[Tensor, Tensor]:
    """Codes (size,) int8, and the value of code 1 for each tensor (tensors,).

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
    steps = vector / of_entries(torch.where(scales > 0, scales, 1.0), sizes)
    return steps.round().nan_to_num(0.0, 0.0, 0.0).to(torch.int8), scales


def decode(codes: Tensor, scales: Tensor, sizes: list[int]) -> Tensor:
    """The vector of codes and scales; not finite where a scale is not."""
    return codes.to(scales.dtype) * of_entries(scales, sizes)


def mean_scales(scales: Tensor, kind: str) -> Tensor:
    """Scales (tensors,) for rounding the mean, from those of all processes (n, tensors).

    No entry of the mean is larger than 127 scales.
    """
    return scales.mean(0) / LEVELS if kind == "sign" else scales.mean(0)


def round_mean(mean: Tensor, scales: Tensor) -> Tensor:
    """Codes (size,) int8 of a mean, for scales (size,) of its entries."""
    steps = (mean / torch.where(scales > 0, scales, 1.0)).round()
    return steps.nan_to_num(0.0, 0.0, 0.0).clamp(-LEVELS, LEVELS).to(torch.int8)


def chunk_size(size: int, count: int) -> int:
    """Entries that each of `count` processes averages, padded to whole bytes of signs."""
    return 8 * -(-size // (8 * count))


def pack(codes: Tensor) -> Tensor:
    """Signs as bits, (size / 8,) uint8; the size must be a multiple of 8."""
    weights = (2 ** torch.arange(8, device=codes.device)).to(torch.uint8)
    bits = (codes > 0).to(torch.uint8).view(-1, 8) * weights
    return bits.sum(1, dtype=torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """The signs (int8) that `pack` packed."""
    places = torch.arange(8, device=packed.device)
    bits = (packed[:, None] >> places) & 1
    return (2 * bits.to(torch.int8) - 1).flatten()


def of_entries(scales: Tensor, sizes: list[int]) -> Tensor:
    """The scale of each entry, (size,)."""
    return scales.repeat_interleave(torch.tensor(sizes, device=scales.device))
