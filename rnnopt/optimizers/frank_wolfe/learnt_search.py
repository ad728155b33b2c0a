"""FrankWolfe's inner step in learnt balls: blocks of tensors in, displacements out.

learnt_ball.py has the mathematics, blocks.py says which tensors form a block. A ball is part of the
state of its block's first tensor that is trained.
"""

from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.frank_wolfe.blocks import Block, find_blocks
from rnnopt.optimizers.frank_wolfe.inner_loop import Search
from rnnopt.optimizers.frank_wolfe.learnt_ball import Ball, create_ball, vertex
from rnnopt.optimizers.frank_wolfe.tensor_state import create_state


def move_in_learnt_balls(search: Search) -> None:
    """Displacement ← its average with the newest point of the ball, for each block."""
    group = search.group
    index = {p: i for i, p in enumerate(search.owners) if search.gradients[i] is not None}
    targets: list[Tensor] = []
    new: list[Tensor] = []
    for block in blocks_of(group):
        tensors = [group["params"][i] for i in block.positions]
        if not any(p in index and p.numel() for p in tensors):
            continue
        columns = _step_of(search, block, index)
        # What counts is the sum of a bias and its twin: each of the two takes half of the step.
        if block.twin is not None:
            if all(p in index for p in tensors[-2:]):
                columns[-1] = columns[-1] / 2
            columns.append(columns[-1])
        for p, column in zip(tensors, columns, strict=True):
            if p in index:
                target = search.displacements[index[p]]
                targets.append(target)
                new.append(search.cut(index[p], column.reshape(p.shape)).to(target.dtype))
    search.average_in(targets, new)


def blocks_of(group: dict[str, Any]) -> tuple[Block, ...]:
    """The blocks of a parameter group."""
    shapes = tuple(p.shape for p in group["params"])
    gates = 1 if group["ball"] == "tensor" else group["gates"]
    return find_blocks(shapes, gates, tuple(group.get("param_names", ())))


def create_balls(search: Search) -> None:
    """Creates the missing balls, as a step with these gradients would; moves nothing."""
    index = {p: i for i, p in enumerate(search.owners) if search.gradients[i] is not None}
    params = search.group["params"]
    for block in blocks_of(search.group):
        if any(params[i] in index and params[i].numel() for i in block.positions):
            gradient = torch.cat(_gradients_of(search, block, index), 2)
            _ball_of(search, block, gradient.to(_wide(gradient)))


def _step_of(search: Search, block: Block, index: dict[Tensor, int]) -> list[Tensor]:
    """The newest point of a block's ball, cut into its tensors: (gates, rows, columns) each."""
    group = search.group
    gradients = _gradients_of(search, block, index)
    gradient = torch.cat(gradients, 2) if len(gradients) > 1 else gradients[0]
    gradient = gradient.to(_wide(gradient))
    ball = _ball_of(search, block, gradient)
    step = vertex(ball, gradient, group["momentum"], group["nesterov"], group["adapt"])
    return list(step.mul_(block.scale).split([g.shape[2] for g in gradients], 2))


def _gradients_of(search: Search, block: Block, index: dict[Tensor, int]) -> list[Tensor]:
    """The gradients of a block's members, (gates, rows, columns) each; zeros for a missing one."""
    params = search.group["params"]
    gradients = []
    for i in block.members:
        # The second of two biases has the first one's gradient, should the first one be frozen.
        either = (i, block.twin) if i == block.members[-1] else (i,)
        at = next((index[params[j]] for j in either if j is not None and params[j] in index), None)
        p = params[i]
        zeros = torch.zeros(p.shape, dtype=p.dtype, device=p.device)
        gradient = zeros if at is None else search.whole_gradient(at)
        gradients.append(_columns(gradient, block.gates))
    return gradients


def _ball_of(search: Search, block: Block, gradient: Tensor) -> Ball:
    """The ball of a block; a new one if there is none, or only that of other tensors.

    It is kept by the first tensor that is trained, for torch's distributed checkpoints pass over
    frozen ones, and moves when tensors are frozen or unfrozen.
    """
    tensors = [search.group["params"][i] for i in block.positions]
    keeper = next((p for p in tensors if p.requires_grad), tensors[0])
    state = search.every_state[keeper]
    create_state(keeper, state, search.group)
    for p in tensors:
        if p is not keeper and "ball" in search.every_state.get(p, ()):
            state["ball"] = search.every_state[p].pop("ball")
    if "ball" not in state or state["ball"]["mean"].shape != gradient.shape:
        state["ball"] = create_ball(gradient, bases=tensors[0].ndim > 1)
    return state["ball"]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _columns(x: Tensor, gates: int) -> Tensor:
    """(gates, rows of a gate, columns) of a tensor; a vector is one column."""
    rows = x.shape[0] if x.ndim else 1
    return x.reshape(gates, rows // gates, x.numel() // rows)
