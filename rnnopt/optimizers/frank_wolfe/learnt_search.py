"""FrankWolfe's inner step in learnt balls: blocks of tensors in, displacements out.

learnt_ball.py has the mathematics, blocks.py says which tensors form a block. A ball is part of the
state of its block's first tensor that is trained. learnt_kernel.py takes the steps where it can.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rnnopt.optimizers.frank_wolfe import learnt_kernel
from rnnopt.optimizers.frank_wolfe.blocks import Block, find_blocks
from rnnopt.optimizers.frank_wolfe.inner_loop import Search
from rnnopt.optimizers.frank_wolfe.learnt_ball import Ball, create_ball, vertex
from rnnopt.optimizers.frank_wolfe.tensor_state import create_state
from rnnopt.optimizers.sharding import is_sharded

Moving = list[int | None]  # for each tensor of a block its index in the search; None: it stays
Columns = list[Tensor | None]
ALIKE = 0.1  # relative difference up to which the gradients of two biases are one


def move_in_learnt_balls(search: Search) -> None:
    """Displacement ← its average with the newest point of the ball, for each block."""
    targets: list[Tensor] = []
    new: list[Tensor] = []
    for block, moving in _moving_blocks(search):
        gradients = _gradients_of(search, block, moving)
        ball = _ball_of(search, block, gradients)
        # What counts is the sum of a bias and its twin: each of the two takes half of the step.
        shares = block.twin is not None and None not in moving[-2:]
        if block.twin is not None and not shares:
            twin = moving.pop()
            moving[-1] = twin if moving[-1] is None else moving[-1]
        if _step_by_kernel(search, block, ball, gradients, moving):
            continue
        columns = _step_by_torch(search, block, ball, gradients)
        if shares:
            columns[-1] = columns[-1] / 2
            columns.append(columns[-1])
        for i, column in zip(moving, columns, strict=True):
            if i is not None:
                target, shape = search.displacements[i], search.owners[i].shape
                targets.append(target)
                new.append(search.cut(i, column.reshape(shape)).to(target.dtype))
    search.average_in(targets, new)


def _blocks_of(search: Search) -> tuple[Block, ...]:
    """The blocks of a parameter group."""
    group = search.group
    shapes = tuple([p.shape for p in group["params"]])
    gates = 1 if group["ball"] == "tensor" else group["gates"]
    names = tuple(group.get("param_names", ()))
    blocks = find_blocks(shapes, gates, names)
    no_twins = () if names else tuple([b.twin for b in blocks if not _has_twin(search, b)])
    return find_blocks(shapes, gates, names, no_twins) if no_twins else blocks


def _has_twin(search: Search, block: Block) -> bool:
    """Whether the second bias that a block's shapes promise is one, if they promise one.

    Two linear layers without biases and a normalisation have the shapes of a recurrent layer. But
    two biases of one layer have one gradient, up to rounding. The first gradients decide.
    """
    if block.twin is None:
        return True
    first, second = (search.group["params"][i] for i in (block.members[-1], block.twin))
    state = search.every_state.get(second, {})
    if "twin" not in state and first.grad is not None and second.grad is not None:
        one, other = (_norm_of(p.grad) for p in (first, second))
        apart = _norm_of(first.grad - second.grad)
        if 0 < one + other < math.inf:
            state["twin"] = apart <= ALIKE * (one + other)
    return state.get("twin", True)


def _norm_of(gradient: Tensor) -> float:
    size = torch.linalg.vector_norm(gradient.to(torch.promote_types(gradient.dtype, torch.float32)))
    return float(size.full_tensor() if is_sharded(size) else size)


def create_balls(search: Search) -> None:
    """Creates the missing balls, as a step with these gradients would; moves nothing."""
    for block, moving in _moving_blocks(search):
        _ball_of(search, block, _gradients_of(search, block, moving))


def _moving_blocks(search: Search) -> list[tuple[Block, Moving]]:
    """The blocks with a gradient."""
    index = {p: i for i, p in enumerate(search.owners) if search.gradients[i] is not None}
    params = search.group["params"]
    found = []
    for block in _blocks_of(search):
        moving = [index.get(params[i]) for i in block.positions]
        if any(i is not None and search.owners[i].numel() for i in moving):
            found.append((block, moving))
    return found


def _gradients_of(search: Search, block: Block, moving: Moving) -> Columns:
    """The gradients of a block's members; None is zero."""
    indices = list(moving)
    # The second of two biases has the first one's gradient, should the first one be frozen.
    if block.twin is not None:
        twin = indices.pop()
        indices[-1] = twin if indices[-1] is None else indices[-1]
    return [None if i is None else search.whole_gradient(i) for i in indices]


def _ball_of(search: Search, block: Block, gradients: Columns) -> Ball:
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
    rows = tensors[0].shape[0] if tensors[0].ndim else 1
    shape = (block.gates, rows // block.gates, sum(_sizes(search, block)))
    if "ball" not in state or state["ball"]["mean"].shape != shape:
        gradient = _matrices(search, block, gradients)
        state["ball"] = create_ball(gradient, bases=tensors[0].ndim > 1)
    return state["ball"]


def _step_by_kernel(
    search: Search, block: Block, ball: Ball, gradients: Columns, moving: Moving
) -> bool:
    """Writes the newest point of a ball into the displacements; False if the kernel cannot."""
    if not search.newest_alone() or type(search) is not Search:
        return False
    steps = [None if i is None else search.displacements[i] for i in moving]
    sizes, rows = _sizes(search, block), ball["mean"].shape[0] * ball["mean"].shape[1]
    pairs = zip(gradients, sizes, strict=True)
    # A tensor whose `.data` was replaced may have a gradient of another size: torch's error.
    if not all([g is None or g.numel() == rows * size for g, size in pairs]):
        return False
    if not learnt_kernel.can_step(ball, (*gradients, *steps)):
        return False
    learnt_kernel.take_step(ball, gradients, sizes, steps, block.scale, search.group)
    return True


def _step_by_torch(search: Search, block: Block, ball: Ball, gradients: Columns) -> list[Tensor]:
    """The newest point of a block's ball, cut into its members: (gates, rows, columns) each."""
    group = search.group
    gradient = _matrices(search, block, gradients)
    step = vertex(ball, gradient, group["momentum"], group["nesterov"], group["adapt"])
    return list(step.mul_(block.scale).split(_sizes(search, block), 2))


def _sizes(search: Search, block: Block) -> list[int]:
    """How many columns of a block's matrices each member is."""
    members = [search.group["params"][i] for i in block.members]
    rows = members[0].shape[0] if members[0].ndim else 1
    return [p.numel() // rows for p in members]


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
    return x.reshape(gates, rows // gates, x.numel() // rows)
