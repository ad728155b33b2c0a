"""What BFGS, NAQ and their limited-memory forms share: one step with a line search.

From weights w with velocity v, on the loss E of the whole data:

    x = w + μ v,   g = ∇E(x)
    d = -H g                                    -g where that is no descent direction
    α: E(x + α d) low enough                    the line search
    w⁺ = x + α d,   v⁺ = w⁺ - w = μ v + α d
    s = w⁺ - x = α d,   y = ∇E(w⁺) - g          join H if s·y > ε y·y

μ = 0 is BFGS. H is a matrix, updated by H ← (I - s yᵀ/yᵀs) H (I - y sᵀ/yᵀs) + s sᵀ/yᵀs, or the last
`memory` pairs. Before its first pair it is the identity, and the first step is at most 1 long in
the sum of its entries; the first pair (the last one, with pairs) scales H0 = s·y/y·y, as in
Nocedal and Wright, "Numerical Optimization", sections 6.1 and 7.2.

A step that finds no lower loss than E(x) puts w back, and empties v and H.

The search goes below E(x), which may lie above E(w): the momentum carries w out of a minimum that
it found, further at each step. So, with `restart`, if E(w⁺) > E(w), w stays and v = 0, while the
pair joins H. That is the restart by function value of O'Donoghue and Candès, "Adaptive Restart for
Accelerated Gradient Schemes", Foundations of Computational Mathematics 15, 2015, with the step
taken back; the papers of NAQ have none. Their restart by gradient, where g·v⁺ > 0, does not keep w.
"""

import math
from abc import ABC
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

from rnnopt.distributed import mean_numbers
from rnnopt.optimizers.quasi_newton.flat_optimizer import FlatOptimizer
from rnnopt.optimizers.quasi_newton.flat_state import (
    Bucket,
    Entry,
    FlatState,
    tracked,
    working_type,
)
from rnnopt.optimizers.quasi_newton.limited_memory import inverse_hessian_product, pair_products
from rnnopt.optimizers.quasi_newton.options import check_count, check_number
from rnnopt.optimizers.sharding import is_sharded

Point = tuple[float, Tensor]  # loss and gradient
SUFFICIENT_DECREASE = 1e-4
LINE_SEARCHES = ("strong-wolfe", "armijo", "fixed")


class LineSearchQuasiNewton(FlatOptimizer, ABC):
    """Keeps H and takes the step.

    The options of its one group:
        lr: first length that the line search tries; the length itself with line_search="fixed". As
            long as there is no pair it is divided by the sum of the gradient's entries, if that is
            above 1.
        momentum: μ, in [0, 1); without one it is 0.
        restart: whether w stays, without velocity, where w⁺ is worse; without one it is false.
        memory: pairs kept; None keeps the matrix H.
        line_search: "strong-wolfe" (torch's), "armijo" (halving), "fixed".
        max_evaluations: at most so many losses a line search.
        curvature_epsilon: ε of the test s·y > ε y·y.
        maximize: climb the loss.
    """

    full_batch = True
    refuses_gradient_options = "searches a line, where the loss must be that of the gradient"
    counters: Mapping[str, Any] = MappingProxyType(
        dict(
            pairs=0, next_pair=0, rejections=0, skipped=0, restarts=0,
            loss=None,  # E(w), where there is a velocity
        )
    )  # fmt: skip

    def check_group(self, group: dict[str, Any], first: dict[str, Any]) -> None:
        """Raises ValueError that names the first option outside its range."""
        who = type(self).__name__
        if group is not first:
            raise ValueError(f"{who} takes one group of parameters, got a second.")
        for name in ("lr", "curvature_epsilon", "momentum"):
            if name in group:
                check_number(who, name, group[name])
        if not group.get("momentum", 0) < 1:
            raise ValueError(f"{who} needs 0 <= momentum < 1, got momentum={group['momentum']}.")
        if group["memory"] is not None:
            check_count(who, "memory", group["memory"], 0)
        check_count(who, "max_evaluations", group["max_evaluations"], 1)
        if group["line_search"] not in LINE_SEARCHES:
            wanted = ", ".join(repr(choice) for choice in LINE_SEARCHES)
            got = f"line_search={group['line_search']!r}"
            raise ValueError(f"line_search must be one of {wanted}, got {got}.")
        if not isinstance(group.get("restart", False), bool):
            raise ValueError(f"restart must be true or false, got restart={group['restart']!r}.")
        if any(p.is_complex() for p in group["params"]):
            raise ValueError(f"{who} needs real tensors, got a complex one.")
        _check_kinds(who, [p for p in group["params"] if p.requires_grad])
        if any(map(is_sharded, group["params"])):
            raise ValueError(f"{who} needs plain tensors, got a DTensor: take ASNAQ or AdaQN.")

    def make_state(self) -> FlatState:
        """The state of every weight that requires a gradient."""
        group = self.param_groups[0]
        layout = {"velocity": Entry()}
        if group["memory"] is None:
            params = tracked(self.state, self.param_groups, every=True)
            size = sum(p.numel() for p in params)
            layout["inverse_hessian"] = Entry(size)
            kept = [self.state.get(p, {}).get("inverse_hessian") for p in params]
            if any(h is not None and len(h) != size for h in kept):  # weights frozen or thawed
                for p in group["params"]:
                    self.state.get(p, {}).pop("inverse_hessian", None)
                self.count(pairs=0)
        elif group["memory"]:
            layout["weight_changes"] = Entry(group["memory"])
            layout["gradient_changes"] = Entry(group["memory"])
        _check_kinds(type(self).__name__, tracked(self.state, self.param_groups, every=True))
        return FlatState(self.state, self.param_groups, layout, every=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """One step; the closure must give the loss of the same data at every call.

        Args:
            closure: clears the gradients, leaves new ones, returns the loss; called once, and once
                for each length that the line search tries.

        Returns:
            The closure's first loss, at w + μ v.

        Raises:
            ValueError: without a closure, unless lr = 0, which only creates the state.
        """
        group = self.param_groups[0]
        flat = self.flat()
        if closure is None:
            if float(group["lr"]) == 0:
                return torch.zeros(())
            raise ValueError(f"{type(self).__name__} needs step(closure): it searches a line.")
        closure = torch.enable_grad()(closure)
        if not flat.buckets or float(group["lr"]) == 0:
            return closure()
        bucket = flat.buckets[0]
        start = bucket.weights()
        origin = start.add(bucket.buffers["velocity"], alpha=group.get("momentum", 0))
        kept = False
        try:
            bucket.set_weights(origin)
            first_loss = closure()
            here = self._point(first_loss, bucket)
            if not _is_finite(here):
                self._restart(bucket)
                self.count(skipped=group["skipped"] + 1)
                return first_loss
            before = here[0] if group["loss"] is None else group["loss"]  # without v, x is w
            change, there = self._search(bucket, closure, origin, here)
            worse = there[0] > here[0] and group["line_search"] != "fixed"
            stuck = there is not here and not change.any()
            if worse or stuck or not _is_finite(there):
                self._restart(bucket)
                self.count(rejections=group["rejections"] + 1)
                return first_loss
            self._remember(bucket, change, there[1] - here[1])
            kept = self._move(bucket, origin, change, there[0], before)
            return first_loss
        finally:
            if not kept:
                bucket.set_weights(start)

    def _move(
        self, bucket: Bucket, origin: Tensor, change: Tensor, loss: float, before: float
    ) -> bool:
        """Moves to w⁺, whose loss is given; False where w stays, as that of w was lower."""
        group, velocity = self.param_groups[0], bucket.buffers["velocity"]
        restart = group.get("restart", False) and group["line_search"] != "fixed"
        if restart and loss > before:
            velocity.zero_()
            self.count(loss=None, restarts=group["restarts"] + 1)
            return False
        bucket.set_weights(origin + change)
        velocity.mul_(group.get("momentum", 0)).add_(change)
        self.count(loss=loss if restart else None)
        return True

    def _search(
        self, bucket: Bucket, closure: Callable[[], Tensor], origin: Tensor, here: Point
    ) -> tuple[Tensor, Point]:
        """The change from `origin`, and loss and gradient there."""
        group = self.param_groups[0]
        loss, gradient = here
        if not gradient.any():
            return gradient, here
        direction = self._direction(bucket, gradient)
        slope = torch.dot(gradient, direction)
        if not slope < 0:  # rounding, or H is no longer positive
            self._restart(bucket)
            direction = gradient.neg()
            slope = torch.dot(gradient, direction)
        rate = float(group["lr"])
        if not group["pairs"]:
            rate *= min(1.0, 1 / max(float(gradient.abs().sum()), 1e-30))

        def at(x: Tensor, length: float, direction: Tensor) -> Point:
            bucket.set_weights(x + direction * float(length))  # to the bit where w⁺ will be
            return self._point(closure(), bucket)

        def at_or_high(x: Tensor, length: float, direction: Tensor) -> Point:
            found = at(x, length, direction)  # torch's search cannot do with NaN
            return found if _is_finite(found) else (high, torch.zeros_like(gradient))

        high = 1e10 * max(1.0, abs(loss))
        if float(slope) == 0:  # lost in rounding
            return torch.zeros_like(direction), here
        if group["line_search"] == "strong-wolfe":
            found, there, length, _ = _strong_wolfe(
                at_or_high, origin, rate, direction, loss, gradient, slope,
                max_ls=group["max_evaluations"] - 1,
            )  # fmt: skip
            return direction * float(length), (float(found), there)
        for _ in range(group["max_evaluations"]):
            length = rate
            found, there = at(origin, length, direction)
            enough = found <= loss + SUFFICIENT_DECREASE * length * float(slope)
            if enough or group["line_search"] == "fixed":
                break
            rate /= 2
        return direction * length, (found, there)

    def _point(self, loss: Any, bucket: Bucket) -> Point:
        """The loss of all processes, and the gradient in place."""
        (number,) = mean_numbers([self.loss_of(loss)], self.process_group)
        return number, bucket.gradients()

    def _direction(self, bucket: Bucket, gradient: Tensor) -> Tensor:
        """-H g."""
        group = self.param_groups[0]
        count, buffers = group["pairs"], bucket.buffers
        if not count:
            return gradient.neg()
        if group["memory"] is None:
            return (buffers["inverse_hessian"] @ gradient).neg_()
        changes = [buffers["weight_changes"][:count]]
        differences = [buffers["gradient_changes"][:count]]
        newest = (group["next_pair"] - 1) % count
        y = differences[0][newest]
        scale = torch.dot(changes[0][newest], y) / torch.dot(y, y)
        return inverse_hessian_product(
            [gradient],
            changes,
            differences,
            pair_products(changes, differences),
            group["next_pair"] % count,
            lambda _, columns: scale.expand_as(gradient[columns]),
        )[0].neg_()

    def _remember(self, bucket: Bucket, change: Tensor, difference: Tensor) -> None:
        """Updates H with a pair, if its curvature is positive enough."""
        group, buffers = self.param_groups[0], bucket.buffers
        curvature, squared = (float(torch.dot(difference, v)) for v in (change, difference))
        threshold = group["curvature_epsilon"] * squared
        if not (curvature > 0 and threshold < curvature < math.inf) or group["memory"] == 0:
            return
        if group["memory"] is None:
            inverse = buffers["inverse_hessian"]
            if not group["pairs"]:
                inverse.zero_().diagonal().fill_(curvature / squared)
            bfgs_update_(inverse, change, difference)
            self.count(pairs=group["pairs"] + 1)
            return
        row, size = group["next_pair"], group["memory"]
        buffers["weight_changes"][row].copy_(change)
        buffers["gradient_changes"][row].copy_(difference)
        self.count(next_pair=(row + 1) % size, pairs=min(size, group["pairs"] + 1))

    def _restart(self, bucket: Bucket) -> None:
        """Forgets velocity and curvature."""
        bucket.buffers["velocity"].zero_()
        self.count(pairs=0, next_pair=0, loss=None)


def bfgs_update_(inverse: Tensor, change: Tensor, difference: Tensor) -> None:
    """H ← (I - s yᵀ/yᵀs) H (I - y sᵀ/yᵀs) + s sᵀ/yᵀs, in place.

    Args:
        inverse: H, (n, n), symmetric.
        change, difference: s and y, (n,), with s·y > 0.
    """
    rho = 1 / torch.dot(change, difference)
    image = inverse @ difference
    factor = rho * (1 + rho * torch.dot(difference, image))
    inverse.addr_(change, image, alpha=-float(rho))
    inverse.addr_(image, change, alpha=-float(rho))
    inverse.addr_(change, change, alpha=float(factor))


def _check_kinds(who: str, params: list[Tensor]) -> None:
    """Raises ValueError unless one vector can hold the tensors."""
    kinds = list(dict.fromkeys((working_type(p), p.device) for p in params))
    if len(kinds) > 1:
        got = ", ".join(f"{dtype} on {device}" for dtype, device in kinds)
        raise ValueError(f"{who} needs tensors of one type on one device, got {got}.")


def _is_finite(point: Point) -> bool:
    """Whether loss and gradient are numbers."""
    return math.isfinite(point[0]) and bool(point[1].isfinite().all())
