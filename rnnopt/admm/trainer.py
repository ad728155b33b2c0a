"""ADMM: trains a recurrent network from the equations of its own steps, without an autograd graph.

The network a_t = x_t uᵀ + s_{t-1} wᵀ + b, s_t = f(a_t), o_t = s_t vᵀ + c is unfolded, and each of
its equations becomes a constraint with penalty and multiplier in an augmented Lagrangian, which is
minimised block by block. Three variants:

- "exact" (default): the trajectory (a, s, o) is one block, the weights are the other. The network's
  equations and the minimiser over o hold exactly; the trajectory (`joint_sweep`) and the weights
  (`gauss_newton`) each take one step. For minibatches; Elman, LSTM and GRU layers, any depth.
- "blocks": the exact minimiser of each block o, (v, c), s, a, (u, w, b) and back, then the
  multipliers (`block_updates`).
- "paper": the same order with the paper's linearised-proximal updates, signs put right
  (`linearised_updates`).

"blocks" and "paper" keep a, s, o and the multipliers from step to step on one batch, the first
(`keep_batch`), or start each minibatch from a forward pass with zero multipliers.

Tang et al., "ADMMiRNN: Training RNN with Stable Convergence via An Efficient ADMM Approach", 2020.
The letters are those of `lagrangian`.

Departures from the paper:
1. Its updates ascend in three blocks and miss terms: corrected as listed in `linearised_updates`.
2. Loss and accuracy are those of the network run forward with its weights, never of the auxiliary
   o, which has seen the label.
3. "exact" holds s_t = f(a_t) within its block, where the paper relaxes all equations alike. Its
   steps are not minimisations: the first of a fixed-point iteration for the trajectory, a
   Gauss-Newton step with averaged curvature in a trust region for the weights. At the rates that
   learn fastest a minibatch's own objective often rises.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rnnopt.admm.block_step import Found, all_samples, block_report, block_step
from rnnopt.admm.gauss_newton import Moments, Step, follow
from rnnopt.admm.lagrangian import (
    Problem,
    Weights,
)
from rnnopt.admm.minibatch import problem_of
from rnnopt.admm.network import check_model, read_weights, write_weights
from rnnopt.admm.options import LOSSES, ADMMOptions, Variant, check_options, check_use
from rnnopt.admm.trajectory import forward, sample_losses, sweep
from rnnopt.config.options import parameters_of, with_moved
from rnnopt.distributed import Group, any_of, check_group, mean_numbers, processes
from rnnopt.layers.sequence_model import SequenceModel

DEFAULT = ADMMOptions()
PARTS = ("inputs", "targets", "lengths", "weights")  # of a batch


class ADMM:
    """Trains a `SequenceModel` by the alternating direction method of multipliers.

    It has the `param_groups`, `state_dict` and `load_state_dict` of a torch optimizer, but steps on
    a minibatch instead of on gradients.

    Args:
        model: a SequenceModel of cell "rnn" (tanh or relu), one layer or, for "exact", more, or of
            cell "lstm" or "gru"; no batch norm, no dropout; readout "last" or "every".
        loss: "cross-entropy", "mse" or "binary-mse", as a task names it.
        lr: length of the weights' step along the multipliers, of variant "exact"; 1/ρ would end at
            the minimiser of the weights' block. The other variants look at nothing but whether it
            is zero: then, as in all, a step moves nothing.
        variant: "exact", the trajectory and then the weights take one step each, every minibatch;
            "blocks", each block of the trajectory and of the weights is minimised in turn; "paper",
            the same order with the paper's linearised updates.
        proximal_weight: r, which holds the weights where the data say nothing; None is 0.1,
            against the mean over samples of Σ_t M_tᵀM_t for "exact", times the batch for "blocks";
            for "paper" the paper's r, times the batch for weights, and None takes for each block
            the least that cannot raise the Lagrangian.
        penalty: "exact": ρ; from twice the largest weight of a sample on, the minimiser over o is
            found ten times as fast.
        max_change: "exact": trust region; the most by which a step may change pre-activations and
            outputs, to first order, root mean square over the last minibatches (`gauss_newton`).
            With a rate of 1 and more most steps are of this length, whatever the rate.
        memory: "exact": weight of the minibatches before, in [0, 1).
        keep_batch: any variant: work on the first batch alone, all steps. The training loop makes
            that batch the whole data, unless a batch size was given.
        process_group: "exact", "blocks": the processes whose minibatches make one, whatever their
            sizes; None is torch.distributed's default group, where one is up. All must start from
            the same weights (`rnnopt.distributed.copy_from_first`).
        options: the rest, such as ADMMOptions(sweeps=3).
        keywords: for one release, with a warning, what is in `options` now.

    Raises:
        ValueError: for an option outside its range or without use in the variant, or a model that
            this does not cover.

    Example:
        >>> trainer = ADMM(model, "cross-entropy")
        >>> loss = trainer.step(batch)  # the network's own loss before the step
    """

    # What the training loop asks (rnnopt.training.learner.Learner).
    needs_closure = needs_own_sequences = True
    refuses_gradient_options = "takes no gradients"
    local_steps = None
    committed = staticmethod(nullcontext)

    def __init__(
        self,
        model: SequenceModel,
        loss: str,
        lr: float = 1.0,
        variant: Variant = "exact",
        *,
        proximal_weight: float | None = None,
        penalty: float = 3.0,
        max_change: float = 0.01,
        memory: float = 0.95,
        keep_batch: bool = False,
        process_group: Group = None,
        options: ADMMOptions = DEFAULT,
        **keywords: Any,
    ):
        options = with_moved(ADMMOptions, options, keywords)
        for name in keywords:
            raise TypeError(f"ADMM.__init__() got an unexpected keyword argument {name!r}")
        check_group(process_group)
        if variant == "paper" and processes(process_group) > 1:
            raise ValueError(
                f"variant='paper' works in one process, got {processes(process_group)}: take"
                " variant='exact' or 'blocks' for more."
            )
        if loss not in LOSSES:
            raise ValueError(f"ADMM needs a loss of {', '.join(LOSSES)}, got {loss!r}.")
        group: dict[str, Any] = dict(
            lr=lr, variant=variant, proximal_weight=proximal_weight, penalty=penalty,
            max_change=max_change, memory=memory, keep_batch=keep_batch, **options,
            steps=0, averaged=0, rejections=0,
        )  # fmt: skip
        check_options(group)
        check_model(model, variant)
        defaults = {name: p.default for name, p in parameters_of(ADMM).items()}
        check_use(variant, group, {n: d for n, d in defaults.items() if n not in ("lr", "variant")})
        if options.identity_for_tanh and model.recurrent[0].nonlinearity != "tanh":
            raise ValueError("identity_for_tanh=True needs the nonlinearity 'tanh', got 'relu'.")
        self.model, self.loss, self.process_group = model, loss, process_group
        self.param_groups = [group]
        self.state: dict[str, Any] = {}

    # -- what training needs -----------------------------------------------------------------------

    @property
    def evaluations_per_step(self) -> int:
        """Passes forward and backward, or what takes their place, that a step costs."""
        group = self.param_groups[0]
        return 1 if group["variant"] == "exact" else group["sweeps"]

    @property
    def full_batch(self) -> bool:
        """Whether the first batch, which is kept, should be all the data."""
        return bool(self.param_groups[0]["keep_batch"])

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights, which are the model's."""
        return dict(state=dict(self.state), param_groups=[dict(g) for g in self.param_groups])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken; copies its tensors.

        Raises:
            ValueError: for a state of another version or of a model of other sizes; nothing is
                changed then.
        """
        device = next(self.model.parameters()).device
        groups = state_dict["param_groups"]
        if len(groups) != 1 or "penalty" not in groups[0]:
            raise ValueError("ADMM cannot load a state that another optimizer or version saved.")
        saved = dict(groups[0])
        ADMMOptions.drop_removed(saved)
        group = self.param_groups[0] | saved
        check_options(group)
        check_model(self.model, group["variant"])
        state = {k: v.clone().to(device) for k, v in state_dict["state"].items()}
        wanted = [sum(layer.input.shape[1:] + layer.recurrent.shape[1:]) + 1
                  for layer in read_weights(self.model)]  # fmt: skip
        got = [len(state[name]) for name in sorted(state) if name.startswith("moments_")]
        if got and got != wanted:
            raise ValueError(
                f"ADMM cannot load the state of another model: needs moments of sizes {wanted}, got"
                f" {got}."
            )
        self.param_groups, self.state = [group], state

    @torch.no_grad()
    def step(self, batch: Any) -> Tensor:
        """One minibatch.

        Args:
            batch: has inputs (time, batch, features), targets, lengths (batch,) or None, and maybe
                weights (batch,); these two for variant "exact" alone. Or what has it as `batch`.

        Returns:
            The loss of the network on it before the step, as the task computes it; with several
            processes that of all their minibatches together.
        """
        if not hasattr(batch, "inputs"):
            batch = batch.batch
        group = self.param_groups[0]
        problem, divisor = self._problem(batch)
        weights = read_weights(self.model)
        if float(group["lr"]) == 0:
            _, outputs = forward(problem, weights[-1], len(problem.targets), weights[:-1])
            return self._agreed(sample_losses(problem, outputs).sum(), divisor)[0]
        if group["variant"] == "exact":
            new, kept, loss = self._exact(problem, weights)
        else:
            given = (problem, weights, self.state, group, self.process_group)
            new, kept, loss = block_step(*given)
        group["steps"] += 1
        numbers = (*(t for layer in new for t in layer), *kept.values())
        finite = bool(torch.stack([t.isfinite().all() for t in numbers]).all())
        loss, broken = self._agreed(loss, divisor, not finite)
        if not broken:
            write_weights(self.model, new)
            self.state.update(kept)
            if group["keep_batch"] and "inputs" not in self.state:
                parts = {name: getattr(batch, name, None) for name in PARTS}
                self.state.update({n: p.clone() for n, p in parts.items() if p is not None})
            group["averaged"] += group["variant"] == "exact"
        else:
            group["rejections"] += 1
        return loss

    def _agreed(
        self, loss: Tensor, divisor: Tensor | float, broken: bool = False
    ) -> tuple[Tensor, bool]:
        """The mean loss over all processes, and whether a step is broken in one of them."""
        if processes(self.process_group) == 1:
            return loss / divisor, broken
        numbers = [float(loss), float(divisor), float(broken)]
        total, count, some = mean_numbers(numbers, self.process_group)
        return loss.new_tensor(total / count), some > 0

    def fit(self, batches: Iterable[Any], tolerance: float = 0.0) -> list[float]:
        """`step` on each of `batches`; their losses.

        Args:
            tolerance: where variables are kept, stops as soon as no relative primal or dual
                residual (`report`) is above it; 0 takes all batches.

        Raises:
            ValueError: for a tolerance where no variables are kept.

        Example:
            >>> losses = trainer.fit(batch for _ in range(3) for batch in data)  # three epochs
        """
        group = self.param_groups[0]
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
            raise ValueError(f"a tolerance must be a number, got {tolerance!r}.")
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"a tolerance must be finite and >= 0, got {tolerance}.")
        if tolerance and (group["variant"] == "exact" or not group["keep_batch"]):
            raise ValueError(
                "a tolerance needs variant 'blocks' or 'paper' and keep_batch=True, got"
                f" variant={group['variant']!r} and keep_batch={group['keep_batch']}."
            )
        losses = []
        for batch in batches:
            lost = group["rejections"]
            losses.append(self.step(batch))
            if tolerance and group["rejections"] == lost:
                worst = float(self.state["relative_residuals"].max())
                if not any_of(not worst <= tolerance, self.process_group):
                    break
        return torch.stack(losses).tolist() if losses else []

    def _problem(self, batch: Any) -> tuple[Problem, Tensor | float]:
        """The batch, or the one that is kept, as `problem_of`."""
        group = self.param_groups[0]
        if group["variant"] != "exact":
            for name in ("lengths", "weights"):
                if getattr(batch, name, None) is not None:
                    raise ValueError(
                        f"variant={group['variant']!r} needs sequences of one length that count"
                        f" alike, got {name}: take variant='exact'."
                    )
        if group["keep_batch"] and "inputs" in self.state:
            return self._kept_problem()
        return self._with_decay(*problem_of(self.model, batch, self.loss))

    def _kept_problem(self) -> tuple[Problem, Tensor | float]:
        kept = SimpleNamespace(**{n: self.state.get(n) for n in PARTS})
        return self._with_decay(*problem_of(self.model, kept, self.loss))

    def _with_decay(
        self, problem: Problem, divisor: Tensor | float
    ) -> tuple[Problem, Tensor | float]:
        decay = self.param_groups[0]["recurrent_decay"]
        if decay:
            decay *= all_samples(problem, self.process_group)
        return problem._replace(recurrent_decay=decay), divisor

    # -- variants ----------------------------------------------------------------------------------

    def _exact(self, problem: Problem, weights: list[Weights]) -> Found:
        group = self.param_groups[0]
        *below, top = weights
        found = sweep(problem, top, group["penalty"], group["limit"], below)
        names = [f"moments_{i}" for i in range(len(weights))]
        moments = None
        if group["averaged"]:
            seen = tuple(self.state[name] for name in names)
            moments = Moments(seen, self.state["output_moments"])
        damping = group["proximal_weight"]
        step = Step(
            length=float(group["lr"]) * group["penalty"],
            proximal_weight=0.1 if damping is None else damping,
            max_change=group["max_change"],
            memory=group["memory"],
            number=group["averaged"] + 1,
        )
        new, now = follow(problem, weights, found, moments, step, self.process_group)
        kept = dict(zip(names, now.layers, strict=True), output_moments=now.output)
        return new, kept, sample_losses(problem, found.outputs).sum()

    # -- looking at it -----------------------------------------------------------------------------

    @property
    def keeps_variables(self) -> bool:
        """Whether there are a, s, o and multipliers to report on."""
        return "preactivation" in self.state

    def metrics(self) -> dict[str, float]:
        """`report` without the loss where variables are kept, else nothing."""
        if not self.keeps_variables:
            return {}
        report = self.report()
        del report["loss"]
        return report

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """Lagrangian, relative residuals of the kept batch, and the network's loss.

        Of the batches of all processes, which must ask together.

        Returns:
            lagrangian; loss, of the network; auxiliary_loss, of o; with the names of `Variables`,
            residual_…, how far their equations are broken, and dual_…, penalty times what the last
            iteration changed, both over the size of the variable (times penalty).

        Raises:
            ValueError: unless variables are kept (`keep_batch`, variant "blocks" or "paper").
        """
        if not self.keeps_variables:
            raise ValueError("ADMM keeps no variables here: it needs keep_batch=True and a step.")
        problem, divisor = self._kept_problem()
        (weights,) = read_weights(self.model)
        given = (self.state, self.param_groups[0], self.process_group)
        return block_report(problem, divisor, weights, *given)
