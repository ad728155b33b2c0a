"""A convolutional stem: what stands before the recurrent layers and shortens their sequences.

    x ← relu(BN(W * x))        W * x a convolution over `width` steps, taken at every `stride`-th

Output step j stands for the input steps j · stride … (j + 1) · stride - 1 and sees `width` steps
around them; beyond the ends of a sequence there are zeros. A sequence of T steps leaves with
⌈T / stride⌉, so that a network on long sequences takes a fraction of the time, and what averaging
steps would lose is kept in the channels.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnopt.layers.kernels.portable import true_steps

Shape = tuple[int, int]  # width and stride of a convolution
# Batch normalisation of (time, batch, channel), the true steps, and the total stride so far.
Normalize = Callable[[nn.Module, Tensor, Tensor | None, int], Tensor]


class ConvolutionalStem(nn.Module):
    """Convolutions over time, each with batch normalisation and relu.

    Args:
        input_size: features of each step.
        channels: features of each step after every convolution.
        shapes: width and stride of each convolution, 1 ≤ stride ≤ width.

    Raises:
        ValueError: no convolution, or a width or stride outside its range.
    """

    def __init__(self, input_size: int, channels: int, shapes: Sequence[Shape]):
        super().__init__()
        check_shapes(shapes)
        self.shapes = [(int(width), int(stride)) for width, stride in shapes]
        self.stride = math.prod(stride for _, stride in self.shapes)  # of all together
        sizes = [input_size] + [channels] * (len(shapes) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, channels, width, stride, bias=False)
            for size, (width, stride) in zip(sizes, self.shapes, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in shapes)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None, normalize: Normalize
    ) -> tuple[Tensor, Tensor | None]:
        """Shortened sequences (time, batch, channel) and their lengths.

        Args:
            inputs: (time, batch, input), zero in the padding.
            lengths: (batch,) true steps, or None.
            normalize: how to normalise.
        """
        states, total = inputs, 1
        for (width, stride), layer, norm in zip(
            self.shapes, self.convolutions, self.norms, strict=True
        ):
            padded = functional.pad(states.permute(1, 2, 0), padding_of(width, stride))
            states = layer(padded).permute(2, 0, 1).contiguous()
            total *= stride
            valid = None
            if lengths is not None:
                lengths = shortened(lengths, stride)
                valid = true_steps(states.shape[0], lengths)
            states = normalize(norm, states, valid, total).relu()
            if valid is not None:
                states = torch.where(valid, states, 0)
        return states, lengths


def check_shapes(shapes: Sequence[Shape]) -> None:
    """Raises ValueError for convolutions that cannot be."""
    if not shapes:
        raise ValueError("a stem needs at least one convolution (width, stride), got none.")
    for shape in shapes:
        if len(shape) != 2 or not 1 <= shape[1] <= shape[0]:
            raise ValueError(
                f"a convolution of the stem needs 1 <= stride <= width, got {tuple(shape)}."
            )


def padding_of(width: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a sequence, with which T steps become ⌈T / stride⌉."""
    before = (width - stride) // 2
    return before, width - 1 - before


def shortened(lengths: Tensor, stride: int) -> Tensor:
    """Lengths after a convolution."""
    return (lengths + stride - 1).div(stride, rounding_mode="floor")


def steps_after(steps: int, shapes: Sequence[Shape]) -> int:
    """Steps of a sequence after a stem."""
    for _, stride in shapes:
        steps = -(-steps // stride)
    return steps


def parse_stem(text: str) -> list[Shape]:
    """The convolutions of a text such as 8/4 or 8/2,5/2: width/stride each.

    Raises:
        ValueError: the text does not read like that.
    """
    try:
        shapes = [tuple(map(int, part.split("/"))) for part in text.split(",")]
        check_shapes(shapes)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(
            f"a stem must read like 8/4 or 8/2,5/2, the width and stride of each convolution with"
            f" 1 <= stride <= width, got {text!r}."
        ) from None
    return shapes  # type: ignore[return-value]
