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

from rnnopt.distributed import mean_numbers
from rnnopt.optimizers.quasi_newton.flat_optimizer import FlatOptimizer
from rnnopt.optimizers.quasi_newton.flat_state import Entry, FlatState, working_type
from rnnopt.optimizers.quasi_newton.limited_memory import (
    Scaling,
    fisher_product,
    inner,
    inverse_hessian_product,
    norm,
    pair_products,
    products,
)
from rnnopt.optimizers.quasi_newton.options import COUNTERS, ASNAQOptions, check_group

Evaluate = Callable[[], Tensor]


class AveragedQuasiNewton(FlatOptimizer, ABC):
    """Keeps the memories and averages; subclasses take the step.

    Args:
        params: tensors to train, or torch parameter groups, which may differ in lr and
            weight_decay alone.
        defaults: every option of the group.
        process_group, keywords: as in `FlatOptimizer`.
    """

    counters: Mapping[str, Any] = COUNTERS

    @property
    @abstractmethod
    def vectors(self) -> dict[str, Entry]:
        """The vectors of a weight's state besides the memories and the averages."""

    def check_group(self, group: dict[str, Any], first: dict[str, Any]) -> None:
        """Raises ValueError that names the first option outside its range."""
        ASNAQOptions.drop_removed(dict(group))
        own = (*self.counters, "differentiable")  # the last is torch's, and in no group
        options = [name for name in self.defaults if name not in own]
        check_group(type(self).__name__, group, first, options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; ValueError for an option that is gone, unless it has the value all have."""
        for group in state_dict["param_groups"]:
            ASNAQOptions.drop_removed(dict(group))
        super().load_state_dict(state_dict)

    def make_state(self) -> FlatState:
        """The state of the weights that have had a gradient."""
        first = self.param_groups[0]
        count = first["count"]
        layout = {
            # As if it had been there from the start, without moving.
            "weight_sum": Entry(initial=lambda p: p.detach().to(working_type(p)) * count),
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

    def _direction(self, flat: FlatState, gradient: list[Tensor]) -> tuple[list[Tensor], float]:
        """H g, and the factor that makes it the direction: -1, or -1 / ‖H g‖ with `normalize`.

        If H g is lost, g and -1 / ‖g‖; zero for a zero gradient.
        """
        self.count(skipped_in_a_row=0)
        first = self.param_groups[0]
        count = first["pairs"]
        direction = inverse_hessian_product(
            gradient,
            flat.rows("weight_changes", count) if count else [],
            flat.rows("gradient_changes", count) if count else [],
            self._pair_products(flat),
            first["next_pair"] % max(1, count),
            self._scaling(flat),
            out=flat.scratch("direction"),
            joint=flat.joint,
        )
        length = norm(direction, flat.joint)
        lost = not 0 < length < math.inf  # in rounding, or the gradient is zero
        if lost:
            torch._foreach_copy_(direction, gradient)
            length = norm(direction, flat.joint)
            if length == 0:
                return direction, -1.0
            self._forget_pairs()
        if not (first["normalize"] or lost):
            return direction, -1.0
        if length < 1e-30:  # 1 / length may be beyond single precision
            torch._foreach_mul_(direction, 1e30)
            length *= 1e30
        return direction, -1 / length

    def _scaling(self, flat: FlatState) -> Scaling | None:
        """The diagonal of H0; None is the identity, as long as no gradient is stored."""
        first = self.param_groups[0]
        stored = {"history": "gradients_seen", "window": "gradients"}.get(first["scaling"])
        if stored is None or not first[stored]:  # the first in a state of an earlier version
            return None
        epsilon = first["scaling_epsilon"]
        if first["scaling"] == "history":
            squares = flat.buffers("squares")
            return lambda bucket, columns: squares[bucket][columns].add(epsilon).rsqrt_()
        rows = flat.rows("gradient_history", first["gradients"])
        types = [bucket.dtype for bucket in flat.buckets]

        def of_window(bucket: int, columns: slice) -> Tensor:
            block = rows[bucket][:, columns]
            lengths = torch.linalg.vector_norm(block, dim=0, dtype=types[bucket])
            return lengths.square_().add_(epsilon).rsqrt_()

        return of_window

    def _pair_products(self, flat: FlatState) -> Tensor:
        """s_i · y_j of the stored pairs, (pairs, pairs)."""
        first = self.param_groups[0]
        size = first["memory"]
        if not first["pairs"]:
            return torch.empty(0, 0, dtype=torch.float64)
        if self._pairs is None:
            device = flat.buckets[0].device
            every = torch.tensor(self._every_product(flat), dtype=torch.float64, device=device)
            self._pairs = every.view(-1, size)[: first["pairs"], : first["pairs"]]
        return self._pairs

    def _every_product(self, flat: FlatState) -> list[float]:
        """All s_i · y_j, row by row; computed where they are not at hand, as in an older file."""
        first = self.param_groups[0]
        size = first["memory"]
        if first["pair_products"] is None or len(first["pair_products"]) != size * size:
            changes = flat.rows("weight_changes", size)
            every = pair_products(changes, flat.rows("gradient_changes", size), flat.joint)
            self.count(pair_products=every.flatten().tolist())
        return list(first["pair_products"])

    def __repr__(self) -> str:
        lines = super().__repr__().splitlines()  # without memory² numbers that tell nobody anything
        return "\n".join(line for line in lines if "pair_products:" not in line)

    _pairs: Tensor | None = None  # the group's `pair_products` as a tensor

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
        pairs = ((change, difference), (difference, difference))
        sums = torch.stack([inner(*pair, flat.joint) for pair in pairs])
        curvature, squared = sums.tolist()
        threshold = first["curvature_epsilon"] * squared
        if not (curvature > 0 and threshold < curvature < math.inf) or not first["memory"]:
            return False
        row = first["next_pair"]
        for name, vectors in (("weight_changes", change), ("gradient_changes", difference)):
            for memory, vector in zip(flat.buffers(name), vectors, strict=True):
                memory[row].copy_(vector)
        size = first["memory"]
        count = min(size, first["pairs"] + 1)
        self._remember_products(flat, row, count, difference)
        self.count(next_pair=(row + 1) % size, pairs=count)
        return True

    def _remember_products(
        self,
        flat: FlatState,
        row: int,
        count: int,
        difference: Sequence[Tensor],
    ) -> None:
        """Renews the column of s_i · y_j that belongs to a new pair, the only one that is used.

        They are numbers of the group, so that a copy or a resumed run has the same to the bit.
        """
        size = self.param_groups[0]["memory"]
        every = self._every_product(flat)
        changes = flat.rows("weight_changes", count)
        column = products(changes, difference, flat.joint).tolist()
        for other in range(count):
            every[other * size + row] = column[other]
        self.count(pair_products=every)
        self._pairs = None

    def _sum_iterates(self, flat: FlatState, weights: list[Tensor]) -> None:
        torch._foreach_add_(flat.buffers("weight_sum"), weights)

    def _average(self, flat: FlatState, evaluate: Evaluate | None) -> None:
        """At every L-th step: compares the average with the last one, keeps a pair or goes back."""
        first = self.param_groups[0]
        if first["count"] < first["update_every"]:
            return
        # More than L after a closure that raised.
        average = torch._foreach_div(flat.buffers("weight_sum"), float(first["count"]))
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
                product = fisher_product(history, change, first["fisher_mean"], flat.joint)
                moves = self._remember_pair(flat, change, product) or moves
        if moves:
            self._move_anchor(flat, average)
        self._clear_sums(flat)
        self.count(averages=first["averages"] + 1)

    def _is_worse(self, flat: FlatState, average: Sequence[Tensor], evaluate: Evaluate) -> bool:
        """Whether E(w_n) > E(w_o) + (γ - 1) |E(w_o)|, or either is not a number."""
        weights = flat.weights("present")
        try:
            flat.set_weights(average)
            loss = self.loss_of(evaluate())
            flat.set_weights(flat.buffers("anchor"))
            before = self.loss_of(evaluate())
        finally:
            flat.set_weights(weights)
        loss, before = mean_numbers([loss, before], self.process_group)
        return not loss <= before + (self.param_groups[0]["tolerance"] - 1) * abs(before)

    def _reject(self, flat: FlatState) -> None:
        """Back to the last average, with empty memories."""
        flat.set_weights(flat.buffers("anchor"))
        self._forget_pairs()
        self.count(gradients=0, next_gradient=0)
        self._clear_sums(flat)
        self.count(rejections=self.param_groups[0]["rejections"] + 1)

    def _accept(self) -> None:
        """Called for every average that was not rejected, from the second on."""

    def _move_anchor(self, flat: FlatState, average: Sequence[Tensor]) -> None:
        torch._foreach_copy_(flat.buffers("anchor"), list(average))

    def _clear_sums(self, flat: FlatState) -> None:
        torch._foreach_zero_(flat.buffers("weight_sum"))
        self.count(count=0)

    def _skip(self, flat: FlatState) -> None:
        """A gradient that is not finite was left unused; at the second in a row, back to w_o."""
        first = self.param_groups[0]
        in_a_row = first["skipped_in_a_row"] + 1
        self.count(skipped=first["skipped"] + 1, skipped_in_a_row=in_a_row)
        if in_a_row > 1:
            self._reject(flat)


def decay_weights(flat: FlatState, weights: list[Tensor]) -> None:
    """Decoupled weight decay, where a group asks for it."""
    for bucket, w in zip(flat.buckets, weights, strict=True):
        if bucket.group["weight_decay"]:
            w.mul_(1 - float(bucket.group["lr"]) * bucket.group["weight_decay"])
