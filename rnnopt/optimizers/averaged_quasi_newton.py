"""What AdaQN and ASNAQ share: curvature from averaged weights and stored gradients.

Every L steps the weights of the last L steps are averaged, w_n. If their loss is worse than γ times
that of the average before, w_o, the weights return there and the memories are emptied. Else

    s = w_n - w_o,      y = (1/|F|) Σ_i F_i (F_i · s)          F: the last m_F gradients

joins the pairs of the limited-memory inverse Hessian if s·y > ε y·y. Its H0 is diagonal,
1/√(Σ g² + ε), as in Adagrad. Sources and choices are in `asnaq` and `adaqn`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.curvature_memory import (
    fisher_product,
    inner,
    inverse_hessian_product,
    norm,
    pair_products,
)
from rnnopt.optimizers.flat_optimizer import FlatOptimizer
from rnnopt.optimizers.flat_state import Entry, FlatState
from rnnopt.optimizers.quasi_newton_options import COUNTERS, check_group

Evaluate = Callable[[], Tensor]


class AveragedQuasiNewton(FlatOptimizer, ABC):
    """Keeps the memories and averages; subclasses take the step.

    Args:
        params: tensors to train, or torch parameter groups, which may differ in lr and
            weight_decay alone.
        defaults: every option of the group.
    """

    steps_with_closure = True  # the training loop hands the closure over
    counters: Mapping[str, float] = COUNTERS

    @property
    @abstractmethod
    def vectors(self) -> dict[str, Entry]:
        """The vectors of a weight's state besides the memories and the averages."""

    def check_group(self, group: dict[str, Any], first: dict[str, Any]) -> None:
        """Raises ValueError that names the first option outside its range."""
        check_group(type(self).__name__, group, first)

    def make_state(self) -> FlatState:
        """The state of the weights that have had a gradient."""
        first = self.param_groups[0]
        count = first["count"]
        layout = {
            # As if it had been there from the start, without moving.
            "weight_sum": Entry(initial=lambda p: p.detach() * count),
            "anchor": Entry(initial=torch.Tensor.detach),
            **self.vectors,
        }
        if first["scaling"] == "history":
            layout["squares"] = Entry()
        if first["memory"]:
            layout["weight_changes"] = Entry(first["memory"])
            layout["gradient_changes"] = Entry(first["memory"])
        if first["fisher_memory"]:
            dtype = torch.bfloat16 if first["fisher_dtype"] == "bfloat16" else None
            layout["gradient_history"] = Entry(first["fisher_memory"], dtype)
        self._pairs = None
        return FlatState(self.state, self.param_groups, layout)

    def _all_rates_are_zero(self) -> bool:
        return all(float(group["lr"]) == 0 for group in self.param_groups)

    # -- parts of a step ---------------------------------------------------------------------------

    def _direction(self, flat: FlatState, gradient: list[Tensor]) -> list[Tensor]:
        """-H g, of length 1 with `normalize`; zero for a zero gradient."""
        first = self.param_groups[0]
        pairs = self._pair_products(flat)
        count, oldest = pairs.shape[0], first["next_pair"] % max(1, pairs.shape[0])
        direction = inverse_hessian_product(
            gradient,
            flat.rows("weight_changes", count) if count else [],
            flat.rows("gradient_changes", count) if count else [],
            pairs,
            oldest,
            self._scaling(flat),
        )
        length = float(norm(direction))
        if not 0 < length < math.inf and float(norm(gradient)) > 0:  # H g is lost in rounding
            self._forget_pairs()
            direction = [g.clone() for g in gradient]
            length = float(norm(direction))
        factor = -1 / length if first["normalize"] and length > 0 else -1.0
        for d in direction:
            d.mul_(factor)
        return direction

    def _scaling(self, flat: FlatState) -> list[Tensor] | None:
        """The diagonal of H0; None is the identity, as long as no gradient is stored."""
        first = self.param_groups[0]
        stored = {"history": "gradients_seen", "window": "gradients"}.get(first["scaling"])
        if stored is None or not first[stored]:
            return None
        if first["scaling"] == "history":
            return [s.add(first["scaling_epsilon"]).rsqrt_() for s in flat.buffers("squares")]
        rows = flat.rows("gradient_history", first["gradients"])
        lengths = [
            torch.linalg.vector_norm(r, dim=0, dtype=bucket.dtype)
            for bucket, r in zip(flat.buckets, rows, strict=True)
        ]
        return [n.square_().add_(first["scaling_epsilon"]).rsqrt_() for n in lengths]

    def _pair_products(self, flat: FlatState) -> Tensor:
        count = self.param_groups[0]["pairs"]
        if count == 0:
            return torch.empty(0, 0, dtype=torch.float64)
        if self._pairs is None:
            changes = flat.rows("weight_changes", count)
            self._pairs = pair_products(changes, flat.rows("gradient_changes", count))
        return self._pairs

    _pairs: Tensor | None = None  # products of the stored pairs, until another joins

    def _forget_pairs(self) -> None:
        self.count(pairs=0, next_pair=0)
        self._pairs = None

    def _remember_gradient(self, flat: FlatState, gradient: list[Tensor]) -> None:
        """Pushes a gradient into F, and its squares into H0's sum."""
        first = self.param_groups[0]
        size = first["fisher_memory"]
        if size:
            row = first["next_gradient"]
            for history, g in zip(flat.buffers("gradient_history"), gradient, strict=True):
                history[row].copy_(g)
            stored = min(size, first["gradients"] + 1)
            self.count(next_gradient=(row + 1) % size, gradients=stored)
        if first["scaling"] == "history":
            for squares, g in zip(flat.buffers("squares"), gradient, strict=True):
                squares.addcmul_(g, g)
        self.count(gradients_seen=first["gradients_seen"] + 1)

    def _remember_pair(
        self, flat: FlatState, change: Sequence[Tensor], difference: Sequence[Tensor]
    ) -> bool:
        """Pushes (s, y) if s·y > ε y·y and s·y > 0; returns whether it did."""
        first = self.param_groups[0]
        sums = torch.stack([inner(change, difference), inner(difference, difference)])
        curvature, squared = sums.tolist()
        threshold = first["curvature_epsilon"] * squared
        if not (curvature > 0 and threshold < curvature < math.inf) or not first["memory"]:
            return False
        row = first["next_pair"]
        for name, vectors in (("weight_changes", change), ("gradient_changes", difference)):
            for memory, vector in zip(flat.buffers(name), vectors, strict=True):
                memory[row].copy_(vector)
        size = first["memory"]
        self.count(next_pair=(row + 1) % size, pairs=min(size, first["pairs"] + 1))
        self._pairs = None
        return True

    def _sum_iterates(self, flat: FlatState, weights: list[Tensor]) -> None:
        torch._foreach_add_(flat.buffers("weight_sum"), weights)

    def _average(self, flat: FlatState, evaluate: Evaluate | None) -> None:
        """At every L-th step: compares the average with the last one, keeps a pair or goes back."""
        first = self.param_groups[0]
        if first["count"] < first["update_every"]:
            return
        average = torch._foreach_div(flat.buffers("weight_sum"), float(first["update_every"]))
        if not (first["averages"] and first["error_control"]):
            evaluate = None
        if evaluate is not None and self._is_worse(flat, average, evaluate):
            self._reject(flat)
            return
        moves = first["anchor_moves"] == "always" or not first["averages"]
        if first["averages"]:
            self._accept()
            if first["curvature"] == "fisher" and first["gradients"] and first["memory"]:
                change = torch._foreach_sub(average, flat.buffers("anchor"))
                history = flat.rows("gradient_history", first["gradients"])
                product = fisher_product(history, change, first["fisher_mean"])
                moves = self._remember_pair(flat, change, product) or moves
        if moves:
            self._move_anchor(flat, average)
        self._clear_sums(flat)
        self.count(averages=first["averages"] + 1)

    def _is_worse(self, flat: FlatState, average: Sequence[Tensor], evaluate: Evaluate) -> bool:
        """Whether E(w_n) > E(w_o) + (γ - 1) |E(w_o)|, or either is not a number."""
        weights = flat.weights()
        try:
            flat.set_weights(average)
            loss = _number(evaluate())
            flat.set_weights(flat.buffers("anchor"))
            before = _number(evaluate())
        finally:
            flat.set_weights(weights)
        return not loss <= before + (self.param_groups[0]["tolerance"] - 1) * abs(before)

    def _reject(self, flat: FlatState) -> None:
        """Back to the last average, with empty memories."""
        first = self.param_groups[0]
        flat.set_weights(flat.buffers("anchor"))
        if first["clear"] in ("all", "pairs"):
            self._forget_pairs()
        if first["clear"] == "all":
            self.count(gradients=0, next_gradient=0)
        self._clear_sums(flat)
        self.count(rejections=first["rejections"] + 1)

    def _accept(self) -> None:
        """Called for every average that was not rejected, from the second on."""

    def _move_anchor(self, flat: FlatState, average: Sequence[Tensor]) -> None:
        torch._foreach_copy_(flat.buffers("anchor"), list(average))

    def _clear_sums(self, flat: FlatState) -> None:
        torch._foreach_zero_(flat.buffers("weight_sum"))
        self.count(count=0)

    def _skip(self) -> None:
        """A gradient that is not finite was left unused."""
        self.count(skipped=self.param_groups[0]["skipped"] + 1)


def _number(loss: Tensor) -> float:
    return float(loss.detach())


def decayed(bucket_group: dict[str, Any]) -> float:
    """The factor of decoupled weight decay."""
    return 1 - float(bucket_group["lr"]) * bucket_group["weight_decay"]
