"""A plain commit by the compiled kernel: `Search`'s decay, step and mean of weights in one pass.

For each tensor ω with displacement d, of size s at the start, and mean x,

    ω ← (1 - min(1/2, γ (‖d‖/‖ω‖)²) max(0, 1 - s²/‖ω‖²)) (1 - lr λ) ω + η d
    x ← x + a (ω - x)

`Search.decay_weights`, `plain_step` and `average_weights` are the plain twin.
"""

import ctypes

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu
from rnnopt.optimizers.frank_wolfe.inner_loop import Search

Doubles = ctypes.c_double * 5
SMALL = 1 << 20  # entries; beyond them torch's threads are faster


def commit_at_once(search: Search) -> bool:
    """Takes a search's commit once `commits` counts it; False, with nothing done, if it cannot."""
    group, indices = search.group, search.with_gradient()
    if not indices or type(search) is not Search or group["norm"] != "learnt":
        return False
    lr, t = float(group["lr"]), group["commits"]
    mean = group["average"] is not None
    columns: list[Tensor | None] = []
    sizes = []
    for i in indices:
        p, state = search.params[i], search.states[i]
        average = state["average"] if mean else None
        start, size = state.get("start_size"), p.numel()
        alike = [p, search.displacements[i], average, state.get("written")]
        if any([t is not None and t.numel() != size for t in alike]):
            return False
        columns += [*alike, None if start is None or start.numel() != 1 else start]
        sizes.append(size)
    tensors = [c for c in columns if c is not None]
    if sum(sizes) > SMALL or not cpu.all_usable(tensors):
        return False
    newest = search.newest_of_mean()
    shrink = group["weight_decay"] if group["decoupled_weight_decay"] else 0.0
    numbers = Doubles(
        search.growth_factor(),
        1 - lr * shrink,
        search.step_length(),
        newest,
        mean and t == 1,
    )
    cpu.call(
        "commit",
        tensors[0].dtype,
        False,
        [len(sizes), *sizes],
        [ctypes.addressof(numbers), *columns],
    )
    moved = [search.params[i] for i in indices]
    torch.autograd.graph.increment_version(moved)
    search.written = len(moved) == len(search.params)
    return True
