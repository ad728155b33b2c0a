"""What FrankWolfe keeps of each tensor."""

from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.sharding import is_sharded

# State that is kept in at least float32, whatever the weights' type.
WIDE = frozenset(("average", "log_radius", "unsent", "outer", "ball", "start_size"))


def create_state(p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Adds the missing entries to the state of a tensor."""
    if p.grad is not None and p.grad.is_sparse:
        raise ValueError("FrankWolfe needs dense gradients, got a sparse one.")
    if not state:
        state["has_gradient"] = False  # whether it had a gradient in this cycle
        state["at_rest"] = False  # whether the last step left it alone
        state["shown"] = False  # see eval_weights
        state["outer"] = {}
    if group["inner_steps"] > 1 and "anchor" not in state:
        state["anchor"] = torch.clone(p, memory_format=torch.preserve_format).detach()
        state["displacement"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    if group["norm"] == "learnt":
        if group["growth_decay"] and p.ndim > 1 and "start_size" not in state:
            state["start_size"] = start_size(p)
    elif group["momentum"] and "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    adapts = group["norm"] != "learnt" and group["momentum"] and group["adapt"]
    if adapts and "log_radius" not in state:
        state["log_radius"] = torch.zeros((), dtype=torch.float32, device=p.device)
    if group["average"] is not None and "average" not in state:
        committed = state.get("anchor", p) if group["inner_step"] else p
        wide = torch.promote_types(p.dtype, torch.float32)
        state["average"] = committed.detach().to(wide, copy=True)
    if (group["average"] is not None or group["inner_steps"] > 1) and "written" not in state:
        state["written"] = torch.clone(p, memory_format=torch.preserve_format).detach()


def start_size(p: Tensor) -> Tensor:
    """Norm from which growth counts: a tensor's first norm, or √(rows/3) if that is far less.

    √(rows/3) is the norm of weights drawn evenly from ±1/√columns. Weights that begin at zero or
    near it are free to grow to that.
    """
    size = torch.linalg.vector_norm(p.detach().to(torch.promote_types(p.dtype, torch.float32)))
    size = size.full_tensor() if is_sharded(size) else size
    usual = torch.full_like(size, (p.shape[0] / 3) ** 0.5)
    return torch.where(size < 0.1 * usual, usual, size)


def rest(p: Tensor, state: dict[str, Any]) -> None:
    """Records that the step left a tensor alone."""
    if not rests(state):
        state["at_rest"], state["has_gradient"] = True, False
        for name in ("average", "written"):
            if name in state:
                state[name].copy_(p)


def rests(state: dict[str, Any]) -> bool:
    """Whether the last step left a tensor alone."""
    return "at_rest" in state and state["at_rest"]
