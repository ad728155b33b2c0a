"""Directions of steps: pure functions, and `StepDirectionRecorder`, which records an optimizer's.

They measure the angle between the gradient g at the weights before a step and minus the change Δω,
and the ratio ‖g + Δω‖ / ‖Δω‖. Assumption A5 of Yue et al. bounds the ratio by √(1 - Lη). Their
signed mean angle has no meaning above two dimensions, so angles here are unsigned.
Yue, Li, Saligrama and Zhang, ICPR 2020, https://arxiv.org/abs/2010.05397.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe


def direction_angle(gradients: Sequence[Tensor | None], changes: Sequence[Tensor]) -> float:
    """Degrees in 0 … 180 between a gradient and minus a change, all tensors as one vector.

    A missing gradient counts as zero; the angle to or from zero is NaN. Unlike an arccos, it is
    accurate near 0 and 180.

    Example:
        >>> direction_angle([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])
        45.0
    """
    gradient, descent = _vector(gradients, changes), -_vector(changes, changes)
    lengths = gradient.norm(), descent.norm()
    if any(not 0 < float(length) < math.inf for length in lengths):
        return math.nan
    one, other = gradient / lengths[0], descent / lengths[1]
    return math.degrees(2 * math.atan2(float((one - other).norm()), float((one + other).norm())))


def direction_ratio(gradients: Sequence[Tensor | None], changes: Sequence[Tensor]) -> float:
    """‖g + Δω‖ / ‖Δω‖ over all tensors; NaN for no change."""
    gradient, change = _vector(gradients, changes), _vector(changes, changes)
    length = float(change.norm())
    return float((gradient + change).norm()) / length if length > 0 else math.nan


def _vector(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    pairs = zip(tensors, like, strict=True)
    filled = [torch.zeros_like(other) if one is None else one for one, other in pairs]
    return torch.cat([one.detach().flatten().cpu().double() for one in filled])


class StepDirectionRecorder:
    """Records the direction of an optimizer's steps relative to the gradient.

    For FrankWolfe a step is a commit of K inner steps. Its gradient is that of the first inner
    step, at the committed weights. Its change is Δω_K before any outer optimizer.
    For every other optimizer it is the actual change of the weights. Gradients are those that the
    optimizer gets; clipping their norm does not change the angle. Recording does not change the
    training.

    Args:
        optimizer: any torch optimizer, or one made of `parts` with disjoint weights. If its `step`
            is called with a closure, the first gradient counts. FrankWolfe's has none.
        every: record every `every`-th step; for FrankWolfe, every `every`-th commit.

    `records` has a dict per step: `step`, its number from 1; `angle` in degrees and `ratio`, see
    `direction_angle` and `direction_ratio`. For FrankWolfe with K = 1 and outer="plain", Δω is the
    rounded difference of two weights: in float32 angles below about 0.1° are rounding errors.

    Example:
        >>> with StepDirectionRecorder(optimizer) as directions:
        ...     train(model, optimizer)
        >>> directions.records[0]["angle"]
        17.3
    """

    def __init__(self, optimizer: Any, every: int = 1):
        if every < 1:
            raise ValueError(f"StepDirectionRecorder needs every >= 1, got every={every}.")
        self.optimizer, self.every = optimizer, every
        self.parts: list[Optimizer] = getattr(optimizer, "parts", [optimizer])
        self.records: list[dict[str, float]] = []
        self.steps = 0
        self._gradients: list[Tensor | None] | None = None
        self._weights: list[Tensor] = []
        self._pseudo_gradients: list[Tensor | None] | None = None
        self._handles: list[Any] = []
        self._outer_watched: Optimizer | None = None

    def attach(self) -> Self:
        """Starts recording; `with directions:` does the same."""
        self.detach()
        first, last = self.parts[0], self.parts[-1]
        self._handles.append(first.register_step_pre_hook(self._before))
        self._handles.append(last.register_step_post_hook(self._after))
        return self

    def detach(self) -> None:
        """Stops recording."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._gradients, self._outer_watched = None, None

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def _params(self) -> list[Tensor]:
        return [p for part in self.parts for group in part.param_groups for p in group["params"]]

    def _before(self, part: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        with_closure = any(callable(one) for one in (*args[1:], *kwargs.values()))
        if isinstance(part, FrankWolfe):
            if with_closure:
                raise ValueError(
                    "StepDirectionRecorder needs FrankWolfe's step() without a closure."
                )
            self._watch_outer(part)
            if part.inner_step > 0:
                return None
        self._gradients, self._pseudo_gradients = None, None
        if self.steps % self.every:
            return None
        self._weights = [p.detach().clone() for p in self._params()]
        if not with_closure:
            self._note_gradients()
            return None
        watched = [self._noting(one) if callable(one) else one for one in args[1:]]
        named = {name: self._noting(one) if callable(one) else one for name, one in kwargs.items()}
        return (args[0], *watched), named

    def _note_gradients(self) -> None:
        self._gradients = [None if p.grad is None else p.grad.clone() for p in self._params()]

    def _noting(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, which also notes the gradients of its first call."""

        def noting() -> Any:
            loss = closure()
            if self._gradients is None:
                self._note_gradients()
            return loss

        return noting

    def _watch_outer(self, part: FrankWolfe) -> None:
        """Hooks the outer optimizer's steps; loading a state replaces that optimizer."""
        if part.outer != "plain" and part.outer_optimizer is not self._outer_watched:
            self._outer_watched = part.outer_optimizer
            self._handles.append(self._outer_watched.register_step_pre_hook(self._outer))

    def _outer(self, outer: Optimizer, args: tuple, kwargs: dict) -> None:
        """Records -Δω_K/δ before the outer optimizer's step."""
        self._pseudo_gradients = [
            None if p.grad is None else p.grad.clone() for p in self._params()
        ]

    def _after(self, part: Optimizer, args: tuple, kwargs: dict) -> None:
        if isinstance(part, FrankWolfe) and part.inner_step > 0:
            return
        self.steps += 1
        if self._gradients is None:
            return
        changes = self._changes(part)
        record = dict(
            step=self.steps,
            angle=direction_angle(self._gradients, changes),
            ratio=direction_ratio(self._gradients, changes),
        )
        self.records.append(record)
        self._gradients, self._weights = None, []

    def _changes(self, part: Optimizer) -> list[Tensor]:
        """Δω_K of FrankWolfe, else the weights' change."""
        if not isinstance(part, FrankWolfe) or all(float(g["lr"]) == 0 for g in part.param_groups):
            pairs = zip(self._params(), self._weights, strict=True)
            return [p.detach().cpu().double() - before.cpu().double() for p, before in pairs]
        changes: list[Tensor] = []
        for group in part.param_groups:
            radius = group["probe_radius"]
            for p in group["params"]:
                number = len(changes)
                if self._pseudo_gradients is not None:
                    pseudo = self._pseudo_gradients[number]
                    changes.append(torch.zeros_like(p) if pseudo is None else -radius * pseudo)
                elif "displacement" in part.state[p]:
                    changes.append(radius * part.state[p]["displacement"])
                else:
                    before = self._weights[number]
                    changes.append(_plain_displacement(group, p.detach(), before))
        return changes


def _plain_displacement(group: dict[str, Any], now: Tensor, before: Tensor) -> Tensor:
    """Δω_1 of a plain outer step from the weights before and after it."""
    lr, radius = float(group["lr"]), group["probe_radius"]
    if group["weight_decay"] and group["decoupled_weight_decay"]:
        before = before * (1 - lr * group["weight_decay"])
    eta = group["eta"] if group["eta"] is not None else lr / radius if radius else 0.0
    change = now.cpu().double() - before.cpu().double()
    return change / eta if eta else torch.zeros_like(change)


# -- weights ---------------------------------------------------------------------------------------
