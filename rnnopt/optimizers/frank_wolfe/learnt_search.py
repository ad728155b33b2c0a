"""FrankWolfe's inner step in learnt balls: blocks of tensors in, displacements out.

learnt_ball.py has the mathematics, blocks.py says which tensors form a block. A ball is part of the
state of its block's first tensor.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.frank_wolfe import learnt_kernel
from rnnopt.optimizers.frank_wolfe.blocks import Block, find_blocks
from rnnopt.optimizers.frank_wolfe.inner_loop import Search
from rnnopt.optimizers.frank_wolfe.learnt_ball import Ball, create_ball, vertex
from rnnopt.optimizers.frank_wolfe.tensor_state import create_state


def move_in_learnt_balls(search: Search) -> None:
    """Displacement ← its average with the newest point of the ball, for each block."""
    params = search.group["params"]
    index = {p: i for i, p in enumerate(search.owners) if search.gradients[i] is not None}
    targets: list[Tensor] = []
    new: list[Tensor] = []
    for block in blocks_of(search.group):
        moving = [index.get(params[i]) for i in block.positions]  # None: a tensor that stays
        if not any(i is not None and search.owners[i].numel() for i in moving):
            continue
        gradients = _gradients(search, block, moving)
        ball = _ball_of(search, block, gradients)
        if _step_by_kernel(search, block, ball, gradients, moving):
            continue
        columns = _step_by_torch(search, block, ball, gradients)
        for i, column in zip(moving, columns, strict=True):
            if i is not None:
                target, owner = search.displacements[i], search.owners[i]
                targets.append(target)
                new.append(search.cut(i, column.reshape(owner.shape)).to(target.dtype))
    search.average_in(targets, new)


def blocks_of(group: dict[str, Any]) -> tuple[Block, ...]:
    """The blocks of a parameter group."""
    shapes = tuple([p.shape for p in group["params"]])
    gates = 1 if group["ball"] == "tensor" else group["gates"]
    return find_blocks(shapes, gates, tuple(group.get("param_names", ())))


def _gradients(
    search: Search, block: Block, moving: Sequence[int | None]
) -> list[Tensor | None]:
    """Gradients of a block's members; None is zero."""
    moving = list(moving)
    # The second of two biases has the first one's gradient, should the first one be frozen.
    if block.twin is not None:
        twin = moving.pop()
        moving[-1] = twin if moving[-1] is None else moving[-1]
    return [None if i is None else search.whole_gradient(i) for i in moving]


def _ball_of(search: Search, block: Block, gradients: Sequence[Tensor | None]) -> Ball:
    """The ball of a block, created if it has none."""
    first = search.group["params"][block.members[0]]
    state = search.every_state[first]
    if "ball" not in state:
        create_state(first, state, search.group)
        gradient = _matrices(search, block, gradients)
        state["ball"] = create_ball(gradient, bases=first.ndim > 1)
    return state["ball"]


def _step_by_kernel(
    search: Search,
    block: Block,
    ball: Ball,
    gradients: Sequence[Tensor | None],
    moving: Sequence[int | None],
) -> bool:
    """Writes the newest point of a block's ball into the displacements, unless it has to be cut."""
    if not search.newest_alone() or type(search) is not Search:
        return False
    steps = [None if i is None else search.displacements[i] for i in moving]
    if not learnt_kernel.can_step(ball, (*gradients, *steps)):
        return False
    shares = block.twin is not None
    sizes = _sizes(search, block, ball["mean"])
    learnt_kernel.take_step(ball, gradients, sizes, steps, shares, block.scale, search.group)
    return True


def _step_by_torch(
    search: Search, block: Block, ball: Ball, gradients: Sequence[Tensor | None]
) -> list[Tensor]:
    """The newest point of a block's ball, cut into its tensors: (gates, rows, columns) each."""
    group = search.group
    gradient = _matrices(search, block, gradients)
    step = vertex(ball, gradient, group["momentum"], group["nesterov"], group["adapt"])
    columns = list(step.mul_(block.scale).split(_sizes(search, block, gradient), 2))
    # A twin takes the same step as the bias before it, and each of the two takes half of it.
    if block.twin is not None:
        columns[-1] = columns[-1] / 2
        columns.append(columns[-1])
    return columns


def _sizes(search: Search, block: Block, matrices: Tensor) -> list[int]:
    """How many columns of a block's matrices each member is."""
    params, rows = search.group["params"], matrices.shape[0] * matrices.shape[1]
    return [params[i].numel() // rows for i in block.members]


def _matrices(search: Search, block: Block, gradients: Sequence[Tensor | None]) -> Tensor:
    """The gradient of a block, (gates, rows, columns), in at least float32."""
    columns = []
    for i, gradient in zip(block.members, gradients, strict=True):
        if gradient is None:
            p = search.group["params"][i]
            gradient = torch.zeros(p.shape, dtype=p.dtype, device=p.device)
        columns.append(_columns(gradient, block.gates))
    gradient = torch.cat(columns, 2) if len(columns) > 1 else columns[0]
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def _columns(x: Tensor, gates: int) -> Tensor:
    """(gates, rows of a gate, columns) of a tensor; a vector is one column."""
    rows = x.shape[0] if x.ndim else 1
    return x.reshape(gates, rows // gates, -1)
