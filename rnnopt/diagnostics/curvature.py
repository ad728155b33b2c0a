"""Curvature inside the ball that Frank-Wolfe searches.

    M_F = sup 2/γ² (F(y) - F(x) - ⟨y - x, ∇F(x)⟩)   over y = x + γ(s - x), x and s in the ball

evaluated at the points x = Δ_{k-1}, y = Δ_k and γ = 1/k of the inner steps. Each value is a lower
bound of M_F, which determines the convergence rate of the inner loop.

Yue, Li, Saligrama and Zhang, "RNN Training along Locally Optimal Trajectories via Frank-Wolfe
Algorithm", ICPR 2020, https://arxiv.org/abs/2010.05397, Eq. 2.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from rnnopt.config.options import call_flat
from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe

ROUNDING = 1000  # rounding errors of the loss that a difference of two losses must exceed


def ball_curvature(
    loss: Callable[[], Tensor], params: ParamsT, steps: int = 5, **options: Any
) -> list[dict[str, float]]:
    """Curvature at each of `steps` inner steps of FrankWolfe on the same loss.

    With Δ_k the displacement, F_k = loss at weights + Δ_k and γ_k = 1/k, `curvature` is
    2/γ_k² (F_k - F_{k-1} - ⟨Δ_k - Δ_{k-1}, ∇F_{k-1}⟩), a lower bound of M_F. `directional` divides
    by ‖Δ_k - Δ_{k-1}‖² instead of γ_k², so that balls of different sizes can be compared. Both are
    NaN where rounding errors dominate, as for small balls in float32: use double precision.

    Args:
        loss: returns the loss at the current weights, to be differentiated here; deterministic.
        params: tensors or groups for FrankWolfe, which define the ball. Weights and their .grad are
            restored afterwards.
        steps: number of inner steps.
        options: arguments of FrankWolfe and fields of its options, such as lr, norm, radius.
    """
    fixed = dict(momentum=0.0, weight_decay=0.0, nesterov=False, inner_steps=steps + 1)
    search = call_flat(FrankWolfe, params, **(options | fixed), outer="plain")
    for group in search.param_groups:  # the groups' own options override `options`
        group.update(fixed, inner_weights="uniform", inner_iterate="paper")
    weights = [p for group in search.param_groups for p in group["params"]]
    kept = [(p.detach().clone(), p.grad) for p in weights]
    found = []
    try:
        value = loss()
        for k in range(1, steps + 1):
            gradients = torch.autograd.grad(value, weights, materialize_grads=True)
            for p, gradient in zip(weights, gradients, strict=True):
                p.grad = gradient
            before = [p.detach().clone() for p in weights]
            search.step()
            new = loss()  # may clip weights: the points used are the evaluated ones
            moved = [p.detach() - other for p, other in zip(weights, before, strict=True)]
            slope = sum(float((m * g).sum()) for m, g in zip(moved, gradients, strict=True))
            excess = 2 * (float(new.detach()) - float(value.detach()) - slope)
            length = sum(float(m.square().sum()) for m in moved)
            rounding = ROUNDING * torch.finfo(value.dtype).eps * abs(float(value.detach()))
            directional = excess / length if abs(excess) > rounding else math.nan
            found.append(dict(curvature=excess * k**2, directional=directional))
            value = new
    finally:
        with torch.no_grad():
            for p, (weight, gradient) in zip(weights, kept, strict=True):
                p.copy_(weight)
                p.grad = gradient
    return found
