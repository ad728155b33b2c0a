"""adaQN: stochastic quasi-Newton with curvature from averaged weights and stored gradients.

One step on a minibatch X, from weights w:

    1  g = ∇E_X(w) joins the history F of m_F gradients, and its squares the sum in H0
    2  w_s += w;   w ← w - α H g                       H: `curvature_memory`, over all weights
    3  every L steps, with w_n = w_s / L and that of the time before, w_o:
         E_M(w_n) > γ E_M(w_o):  w ← w_o, memories emptied       M: a monitoring set
         otherwise:              s = w_n - w_o, y = Σ_i F_i (F_i · s) / |F|
                                 join the m_L pairs of H if s·y > ε y·y

So a step takes one gradient, and the monitoring set is passed through twice every L steps.

Letters and names are those of `asnaq`. Keskar and Berahas, "adaQN: An Adaptive Quasi-Newton
Algorithm for Training RNNs", 2016, https://arxiv.org/abs/1511.01169, as described in section 2.2 of
https://arxiv.org/abs/1909.03620.

Departures: those numbered 1 to 3, 5 and 8 in `asnaq`, and
1. H0 includes the present gradient, so that it is never without one.
2. If H g is zero or overflows while g does not, the pairs are forgotten and the direction is
   -g / ‖g‖.
3. A g that is not finite leaves everything as it was, but for the count `skipped` of the group; the
   second in a row is a rejection.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from rnnopt.config.options import with_moved
from rnnopt.distributed import Group
from rnnopt.optimizers.quasi_newton.flat_state import Entry, FlatState
from rnnopt.optimizers.quasi_newton.limited_memory import norm
from rnnopt.optimizers.quasi_newton.options import AdaQNOptions
from rnnopt.optimizers.quasi_newton.stochastic import AveragedQuasiNewton, decay_weights

DEFAULT = AdaQNOptions()


class AdaQN(AveragedQuasiNewton):
    """Quasi-Newton for minibatches: one gradient a step, curvature from the last gradients.

    Suits small recurrent networks; it keeps 2·memory + fisher_memory + 3 numbers a weight. Without
    a closure and without a monitor the loss test is left out. With several processes the gradients
    must be those of all of them, as DistributedDataParallel's are; each monitor returns its own
    loss, and the mean decides for all.

    Args:
        params: tensors to train, or torch parameter groups, which may differ in lr and
            weight_decay alone.
        lr: α, which multiplies H g; H0 makes the first step about lr in every weight whose
            gradient is well above √ε = 0.01, as Adagrad.
        memory: m_L, pairs kept; 0 makes it Adagrad.
        fisher_memory: m_F, gradients kept; 0 means that no pair is ever found.
        tolerance: γ ≥ 1, how much worse the loss of an average may be than that of the last.
        weight_decay: decoupled, lr · weight_decay of the weights a step.
        maximize: climb what the closure and the monitor return, and the gradients, instead.
        process_group: the processes whose mean loss decides; None is torch.distributed's default
            group, where one is up. A copy of the optimizer has None.
        options: the rest, such as AdaQNOptions(update_every=20).
        keywords: foreach, capturable, differentiable and fused, as long as they ask for nothing;
            for one release, with a warning, what is in `options` now.

    Raises:
        ValueError: for an option outside its range, complex tensors or sparse gradients.

    Example:
        >>> optimizer = AdaQN(model.parameters(), lr=0.01)
        >>> loss = optimizer.step(closure, monitor)  # monitor: loss of a fixed set of sequences
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        memory: int = 10,
        fisher_memory: int = 100,
        *,
        tolerance: float = 1.01,
        weight_decay: float = 0.0,
        maximize: bool = False,
        process_group: Group = None,
        options: AdaQNOptions = DEFAULT,
        **keywords: Any,
    ):
        options = with_moved(AdaQNOptions, options, keywords)
        defaults = dict(
            lr=lr, memory=memory, fisher_memory=fisher_memory, tolerance=tolerance,
            weight_decay=weight_decay, maximize=maximize, curvature="fisher", **options,
        )  # fmt: skip
        super().__init__(params, defaults, process_group, keywords)

    @property
    def vectors(self) -> dict[str, Entry]:
        """The vectors of a weight's state besides the memories and the averages."""
        return {}

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        monitor: Callable[[], Tensor] | None = None,
    ) -> Tensor | None:
        """One step, with the gradients in place if no closure.

        A step with lr = 0 in every group creates the state and moves nothing, not even the phase.

        Args:
            closure: clears the gradients, leaves new ones, returns the loss.
            monitor: returns the loss of the monitoring set at the present weights; called twice
                every update_every steps. None means `closure.monitored_loss`, if there is one,
                else the closure.

        Returns:
            The closure's first loss.
        """
        loss = None
        monitor = monitor or getattr(closure, "monitored_loss", None)
        if closure is not None:
            closure = torch.enable_grad()(closure)
            loss = closure()
        flat = self.flat()
        if not flat.buckets or self._all_rates_are_zero():
            return loss
        gradient = flat.gradients("gradient")
        if not math.isfinite(norm(gradient, flat.joint)):
            self._skip(flat)
            return loss
        self._remember_gradient(flat, gradient)
        self._move(flat, gradient)
        self._average(flat, monitor or closure)
        return loss

    def _move(self, flat: FlatState, gradient: list[Tensor]) -> None:
        """Sums the iterates and takes the step."""
        first = self.param_groups[0]
        direction, factor = self._direction(flat, gradient)
        weights = flat.weights("weights")
        if first["average_of"] == "before":
            self._sum_iterates(flat, weights)
        decay_weights(flat, weights)
        for w, d, rate in zip(weights, direction, flat.rates(), strict=True):
            w.add_(d, alpha=rate * factor)
        flat.set_weights(weights)
        if first["average_of"] == "after":
            self._sum_iterates(flat, weights)
        self.count(count=first["count"] + 1)
