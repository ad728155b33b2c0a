"""The learnt ball's step by the compiled kernel: `learnt_ball.vertex` for tensors on the CPU.

One call gathers the gradient's columns, updates the ball and writes the step into each tensor. The
numbers are those of `vertex` but for rounding, and so is the state: a checkpoint of one path goes
on in the other. The first step, which has an eigenproblem to solve, is always torch's.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu
from rnnopt.optimizers.frank_wolfe import learnt_ball
from rnnopt.optimizers.frank_wolfe.learnt_ball import Ball

# The kernel has one thread. For a longer side torch's products are as fast, or in several threads
# faster.
LARGEST_SIDE, LARGEST_SIDE_OF_MANY = 512, 192
NAMES = ("left", "left_basis", "right", "right_basis", "mean", "squares", "size2", "log_radius")
Doubles = ctypes.c_double * 15


def can_step(ball: Ball, tensors: Sequence[Tensor | None]) -> bool:
    """Whether the kernel can take the ball's next step.

    Args:
        ball: as `learnt_ball.create_ball` made it.
        tensors: gradients and where the steps go.
    """
    largest = LARGEST_SIDE if torch.get_num_threads() == 1 else LARGEST_SIDE_OF_MANY
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        ball["t"] > 0
        and ball["mean"].numel() > 0
        and max(ball["mean"].shape[1:]) <= largest
        and cpu.all_usable(given)
        and _is_whole(ball, given[0].dtype)
    )


def _is_whole(ball: Ball, dtype: torch.dtype) -> bool:
    """Whether all of a ball has the shapes and the type that the kernel goes by."""
    gates, n, k = ball["mean"].shape
    shapes = ((gates, n, n),) * 2 + ((1, k, k),) * 2 + ((gates, n, k),) * 2 + ((gates, 1, 1),) * 2
    found = [ball.get(name) for name in NAMES]
    pairs = [found[0] is None, found[2] is None]  # a matrix and its basis
    return pairs == [found[1] is None, found[3] is None] and all(
        [
            value is None or (value.shape == shape and value.dtype == dtype and value.is_cpu)
            for value, shape in zip(found, shapes, strict=True)
        ]
    )


def take_step(
    ball: Ball,
    gradients: Sequence[Tensor | None],
    sizes: Sequence[int],
    steps: Sequence[Tensor | None],
    scale: float,
    group: dict[str, Any],
) -> None:
    """Updates the ball by a gradient; writes the step into `steps`.

    Args:
        ball: for which `can_step`.
        gradients: columns of the block from left to right, (gates n, …) each; None is zero.
        sizes: their numbers of columns.
        steps: of the same shapes, to be overwritten; None is left out. One more is a twin of the
            last one: each of the two gets half of its step.
        scale: factor of the steps.
        group: has `momentum`, `nesterov` and `adapt`.
    """
    gates, n, k = ball["mean"].shape
    ball["t"] += 1
    t, momentum = ball["t"], group["momentum"]
    weight = ball["mean_weight"] = momentum * ball["mean_weight"] + 1 - momentum
    due = learnt_ball.side_due(ball)
    numbers = Doubles(
        1 - learnt_ball.SIZE_BETA ** (t - 1),
        1 - learnt_ball.SIZE_BETA**t,
        learnt_ball.SIZE_BETA,
        learnt_ball.BETA**2,
        momentum,
        group["nesterov"],
        momentum * weight + 1 - momentum if group["nesterov"] else weight,
        group["adapt"] * min(1.0, learnt_ball.FADE / t),
        1 - learnt_ball.BETA**t,
        learnt_ball.BETA,
        learnt_ball.CLIP,
        learnt_ball.FLOOR,
        learnt_ball.LARGEST,
        learnt_ball.SHIFT,
        scale,
    )
    columns: list[Tensor | None] = []
    for i, gradient in enumerate(gradients):
        columns += [gradient, steps[i], None]
    if len(steps) > len(gradients):
        columns[-1] = steps[-1]
    cpu.call(
        "learnt_ball",
        ball["mean"].dtype,
        False,
        [
            *(gates, n, k, due == "left", due == "right", learnt_ball.turns(t)),
            *(len(sizes), *sizes),
        ],
        [*_matrices(ball), ctypes.addressof(numbers), *columns],
    )


def _matrices(ball: Ball) -> list[Tensor | None]:
    """The ball's tensors in the kernel's order, the bases transposed in memory as LAPACK does."""
    found = [ball.get(name) for name in NAMES]
    for i, (name, value) in enumerate(zip(NAMES, found, strict=True)):
        if value is None:
            continue
        if name.endswith("_basis"):
            size = value.shape[1]
            if value.stride() != (size * size, 1, size):
                found[i] = ball[name] = value.mT.clone(memory_format=torch.contiguous_format).mT
        elif not value.is_contiguous():
            found[i] = ball[name] = value.contiguous()
    return found
