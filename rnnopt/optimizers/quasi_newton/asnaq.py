"""aSNAQ: stochastic quasi-Newton with look-ahead and curvature from stored gradients.

One step on a minibatch X, from weights w with velocity v, both of all tensors as one vector:

    1  g  = ∇E_X(w + μ v)                              the look-ahead
    2  d  = -H g / ‖H g‖₂                              H: `curvature_memory`, over all weights
    3  w_s += w;  v_s += v
    4  v  ← μ v + α d;   w ← w + v
    5  g⁺ = ∇E_X(w) joins the history F of m_F gradients, and its squares the sum in H0
    6  every L steps, with w_n = w_s / L, v_n = v_s / L and those of the time before, w_o, v_o:
         E_X(w_n) > γ E_X(w_o):  w ← w_o, v ← v_o, memories emptied, μ ← max(μ/φ, μ_min)
         otherwise:              μ ← min(μ φ, μ_max);  s = w_n - w_o, y = Σ_i F_i (F_i · s) / |F|
                                 join the m_L pairs of H if s·y > ε y·y

so a step takes two gradients on the same minibatch (one by default here, see 9), and two losses
more every L steps. α is a length in the space of all weights, not a rate of each: a step moves by
at most α / (1 - μ).

| paper | here | | paper | here |
|---|---|---|---|---|
| w, v | weights, `velocity` | | S, Y; m_L | `weight_changes`, `gradient_changes`; `memory` |
| α, μ | `lr`, `current_momentum` | | F (aFIM); m_F | `gradient_history`; `fisher_memory` |
| (μ_min, μ_max) | `momentum_range` | | w_s, v_s | `weight_sum`, `velocity_sum` |
| φ | `momentum_factor` | | | |
| L, γ | `update_every`, `tolerance` | | w_o, v_o | `anchor`, `anchor_velocity` |
| ε of the pairs | `curvature_epsilon` | | H0, its ε | 1/√(`squares` + `scaling_epsilon`) |

Indrapriyadarsini, Mahboubi, Ninomiya and Asai, "An Adaptive Stochastic Nesterov Accelerated Quasi
Newton Method for Training RNNs", NOLTA 2019, https://arxiv.org/abs/1909.03620, Algorithm 2.

Departures from the paper:
1. The second loop of its Algorithm 1 adds; the printed minus gives an H that is not positive.
2. The first average is taken after L steps, over L iterates. As printed it is w_0 / L, at once.
3. A rejection starts the next sum at zero; as printed it goes on with one iterate too few.
4. H0 sums the squares of all g⁺; the paper does not say of which gradient. While there are none it
   is the identity. A rejection leaves the sum.
5. A loss that is not a number is rejected too. For losses below zero the test is
   E(w_n) > E(w_o) + (γ - 1) |E(w_o)|, the same where E ≥ 0.
6. If H g is zero or overflows while g does not, the pairs are forgotten and d = -g / ‖g‖.
7. A g that is not finite leaves everything as it was, but for the count `skipped` of the group;
   the second in a row is a rejection without velocity, or the same point would be asked for ever.
   A g⁺ that is not finite is a rejection.
8. ε is not given: 1e-4 for both, as in the authors' code.
9. g⁺ is not asked for unless `second_gradient`: g joins the history in its place. A step then
   costs one gradient. L is 20, where the paper has 5: a mean of more iterates is tested by a less
   noisy comparison. At equal gradients both together are better on counting, MNIST by rows and
   activity windows, and level on adding, which nothing of this kind learns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from rnnopt.config.options import with_moved
from rnnopt.distributed import Group
from rnnopt.optimizers.quasi_newton.flat_state import Entry, FlatState
from rnnopt.optimizers.quasi_newton.limited_memory import norm
from rnnopt.optimizers.quasi_newton.options import (
    COUNTERS,
    DIFFERENCE_SHIFT,
    PRESETS,
    ASNAQOptions,
)
from rnnopt.optimizers.quasi_newton.stochastic import AveragedQuasiNewton, decay_weights

__all__ = ["ASNAQ", "PRESETS", "ASNAQOptions"]
DEFAULT = ASNAQOptions()


class ASNAQ(AveragedQuasiNewton):
    """Quasi-Newton for minibatches with look-ahead, curvature from the last gradients.

    Suits small recurrent networks whose minibatches cost more than a few hundred passes over their
    weights: it keeps 2·memory + fisher_memory + 6 numbers a weight. All weights are one vector to
    it, so give it all that are trained.

    `step(closure)` needs the closure to use the same minibatch, and the same dropout masks, every
    time it is called in a step. Without a closure, `loss.backward(); optimizer.step()`, the
    gradient in place plays both parts, without look-ahead and without the loss test, which is
    worth much.
    torch.amp.GradScaler works without a closure alone. With several processes the gradients must be
    those of all of them, as DistributedDataParallel's are; each closure and monitor returns its own
    loss, and the mean decides for all. Without a monitor a test leaves the gradient of the last
    point that it asked for in `.grad`. Batch norm in training mode counts every one of these passes
    into its running statistics.

    Args:
        params: tensors to train, or torch parameter groups, which may differ in lr and
            weight_decay alone.
        lr: α, the length of a step before momentum (with normalize).
        memory: m_L, pairs kept; 0 leaves the diagonal H0.
        fisher_memory: m_F, gradients kept; 0 means that no pair is ever found.
        tolerance: γ ≥ 1, how much worse the loss of an average may be than that of the last.
        weight_decay: decoupled, lr · weight_decay of the weights a step.
        maximize: climb what the closure and the monitor return, and the gradients, instead.
        process_group: the processes whose mean loss decides; None is torch.distributed's default
            group, where one is up. A copy of the optimizer has None.
        options: the rest, such as ASNAQOptions(update_every=50); PRESETS has the paper's.
        keywords: foreach, capturable, differentiable and fused, as long as they ask for nothing;
            for one release, with a warning, what is in `options` now.

    Raises:
        ValueError: for an option outside its range, complex tensors or sparse gradients.

    Example:
        >>> optimizer = ASNAQ(model.parameters(), lr=0.03)
        >>> loss = optimizer.step(closure)  # closure: zero_grad, forward, backward, return loss
    """

    counters: Mapping[str, Any] = COUNTERS | dict(current_momentum=0.0)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.03,
        memory: int = 10,
        fisher_memory: int = 100,
        *,
        tolerance: float = 1.01,
        weight_decay: float = 0.0,
        maximize: bool = False,
        process_group: Group = None,
        options: ASNAQOptions = DEFAULT,
        **keywords: Any,
    ):
        options = with_moved(ASNAQOptions, options, keywords)
        defaults = dict(
            lr=lr, memory=memory, fisher_memory=fisher_memory, tolerance=tolerance,
            weight_decay=weight_decay, maximize=maximize, **options,
        )  # fmt: skip
        super().__init__(params, defaults, process_group, keywords)

    def starting_counters(self, group: dict[str, Any]) -> Mapping[str, Any]:
        """Momentum starts at μ_min."""
        return {**self.counters, "current_momentum": float(group["momentum_range"][0])}

    @property
    def vectors(self) -> dict[str, Entry]:
        """The vectors of a weight's state besides the memories and the averages."""
        return dict(velocity=Entry(), velocity_sum=Entry(), anchor_velocity=Entry())

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        monitor: Callable[[], Tensor] | None = None,
    ) -> Tensor | None:
        """One step on one minibatch; with the gradients in place if no closure.

        A step with lr = 0 in every group creates the state and moves nothing, not even the phase.

        Args:
            closure: clears the gradients, leaves new ones, returns the loss; called once, or twice
                with second_gradient.
            monitor: returns the loss of the same minibatch, without gradients; called twice every
                update_every steps, in place of the closure. None means `closure.loss`, if there is
                one.

        Returns:
            The closure's first loss, which is that of the look-ahead point.
        """
        if closure is None:
            self._streaming_step()
            return None
        monitor = monitor or getattr(closure, "loss", None)
        loss, start = self._look_ahead(closure)
        flat = self.flat()
        if not flat.buckets or self._all_rates_are_zero():
            return loss
        gradient, weights = flat.gradients("gradient"), start or flat.weights("weights")
        if not math.isfinite(norm(gradient, flat.joint)):
            flat.set_weights(weights)
            self._skip(flat)
            return loss
        change = self._move(flat, weights, gradient)
        after = gradient
        if self.param_groups[0]["second_gradient"]:
            with torch.enable_grad():
                closure()
            after = flat.gradients("after")
        if after is not gradient and not math.isfinite(norm(after, flat.joint)):
            self._reject(flat)
            return loss
        self._learn(flat, change, gradient, after)
        self._average(flat, monitor or torch.enable_grad()(closure))
        return loss

    def _look_ahead(self, closure: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss and the gradient at w + μ v, where the weights are left, and w.

        Empty instead of w where the weights never left it, as in the first step, and where another
        weight has got its first gradient, so that the state must be made anew.
        """
        first = self.param_groups[0]
        flat = self.flat()
        if not first["lookahead"] or self._all_rates_are_zero():
            with torch.enable_grad():
                return closure(), []
        weights = flat.weights("weights")
        arrived = False
        try:
            for bucket in flat.buckets:
                bucket.add_to_weights("velocity", first["current_momentum"])
            with torch.enable_grad():
                loss = closure()
            arrived = flat.is_current(self.state, self.param_groups)
        finally:
            if not arrived:
                flat.set_weights(weights)
        return loss, weights if arrived else []

    def _streaming_step(self) -> None:
        """The step with one gradient for both parts, on a loss that cannot be asked for again."""
        flat = self.flat()
        if not flat.buckets or self._all_rates_are_zero():
            return
        gradient = flat.gradients("gradient")
        if not math.isfinite(norm(gradient, flat.joint)):
            self._skip(flat)
            return
        change = self._move(flat, flat.weights("weights"), gradient)
        self._learn(flat, change, gradient, gradient)
        self._average(flat, None)

    def _move(
        self, flat: FlatState, weights: list[Tensor], gradient: list[Tensor]
    ) -> tuple[list[Tensor], list[float]]:
        """Sums the iterates and takes the step from `weights`, which change.

        Returns:
            α d as vectors and the factor of each.
        """
        first = self.param_groups[0]
        direction, factor = self._direction(flat, gradient)
        factors = [rate * factor for rate in flat.rates()]
        velocity = flat.buffers("velocity")
        if first["average_of"] == "before":
            self._sum(flat, weights)
        torch._foreach_mul_(velocity, first["current_momentum"])
        for v, d, alpha in zip(velocity, direction, factors, strict=True):
            v.add_(d, alpha=alpha)
        decay_weights(flat, weights)
        torch._foreach_add_(weights, velocity)
        flat.set_weights(weights)
        if first["average_of"] == "after":
            self._sum(flat, weights)
        self.count(count=first["count"] + 1)
        return direction, factors

    def _sum(self, flat: FlatState, weights: list[Tensor]) -> None:
        self._sum_iterates(flat, weights)
        torch._foreach_add_(flat.buffers("velocity_sum"), flat.buffers("velocity"))

    def _learn(
        self,
        flat: FlatState,
        change: tuple[list[Tensor], list[float]],
        gradient: list[Tensor],
        after: list[Tensor],
    ) -> None:
        """Stores what the second gradient tells."""
        first = self.param_groups[0]
        self._remember_gradient(flat, after)
        # Without a closure there is one gradient, which has no difference to itself.
        if first["curvature"] == "difference" and first["memory"] and after is not gradient:
            taken = [d * alpha for d, alpha in zip(*change, strict=True)]
            difference = torch._foreach_sub(after, gradient)
            torch._foreach_add_(difference, taken, alpha=DIFFERENCE_SHIFT)
            self._remember_pair(flat, taken, difference)

    def _accept(self) -> None:
        first = self.param_groups[0]
        high = first["momentum_range"][1]
        self.count(current_momentum=min(first["current_momentum"] * first["momentum_factor"], high))

    def _skip(self, flat: FlatState) -> None:
        super()._skip(flat)
        if self.param_groups[0]["skipped_in_a_row"] > 1:
            torch._foreach_zero_(flat.buffers("velocity"))

    def _reject(self, flat: FlatState) -> None:
        super()._reject(flat)
        first = self.param_groups[0]
        torch._foreach_copy_(flat.buffers("velocity"), flat.buffers("anchor_velocity"))
        low = first["momentum_range"][0]
        self.count(current_momentum=max(first["current_momentum"] / first["momentum_factor"], low))

    def _move_anchor(self, flat: FlatState, average: Sequence[Tensor]) -> None:
        super()._move_anchor(flat, average)
        count = float(self.param_groups[0]["count"])
        velocity = torch._foreach_div(flat.buffers("velocity_sum"), count)
        torch._foreach_copy_(flat.buffers("anchor_velocity"), velocity)

    def _clear_sums(self, flat: FlatState) -> None:
        super()._clear_sums(flat)
        torch._foreach_zero_(flat.buffers("velocity_sum"))
