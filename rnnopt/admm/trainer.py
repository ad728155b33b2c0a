"""ADMM: trains an Elman network from the equations of its own steps, without an autograd graph.

The network a_t = x_t uᵀ + s_{t-1} wᵀ + b, s_t = f(a_t), o_t = s_t vᵀ + c is unfolded, and each of
its equations becomes a constraint with penalty and multiplier in an augmented Lagrangian, which is
minimised block by block. Three variants:

- "exact" (default): the trajectory (a, s, o) is one block, the weights are the other
  (`joint_sweep`). For minibatches.
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
3. "exact" holds s_t = f(a_t) within its block; the paper relaxes all equations alike.
4. `balance` adapts the penalties to the residuals, which the paper leaves for the future.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rnnopt.admm.iterations import block_iteration, paper_iteration
from rnnopt.admm.joint_sweep import Moments, follow, forward, sample_losses, sweep
from rnnopt.admm.lagrangian import (
    Multipliers,
    Penalties,
    Problem,
    Variables,
    Weights,
    augmented_lagrangian,
    multiplier_step,
    penalties,
    per_step,
    residuals,
)
from rnnopt.admm.options import LOSSES, Variant, check_options
from rnnopt.layers.elman import ElmanRNN
from rnnopt.layers.sequence_model import SequenceModel


class ADMM:
    """Trains a `SequenceModel` of Elman layers by the alternating direction method.

    It has the `param_groups`, `state_dict` and `load_state_dict` of a torch optimizer, but steps on
    a minibatch instead of on gradients.

    Args:
        model: of cell "rnn" (tanh or relu), one layer or, for "exact", more; no batch norm, no
            dropout; readout "last" or "every".
        loss: "cross-entropy", "mse" or "binary-mse", as a task names it.
        lr: 1/ρ of variant "exact": a stiffer penalty is a smaller step.
        variant: "exact", "blocks" or "paper"; see the module.
        proximal_weight: r, which holds the weights where the data say nothing; against the mean
            over samples of Σ_t M_tᵀM_t for "exact", times the batch for "blocks".
        memory: "exact": weight of the minibatches before, in [0, 1).
        limit: "exact": how many times the length of the farthest possible minimiser the change of
            a sample's trajectory may have.
        sweeps: "blocks", "paper": iterations a step.
        penalty_a, penalty_s, penalty_o: ρ1, ρ2, ρ3, of the equations of a_T, s_T, o_T.
        inner_penalty: ν, the penalty of all equations at t < T.
        multipliers: "last" step, as in the paper, or "all" steps.
        order: "blocks": all s_t, then all a_t ("parallel"), or t = T … 1, s_t then a_t
            ("backward"), which takes the signal through all steps in one sweep.
        coupling: whether s_t feels a_{t+1}; the paper drops that.
        identity_for_tanh: the paper's tanh(a) ≈ a in the a-block.
        recurrent_decay: ω of ω/2 ‖w‖².
        relaxation: over-relaxation of the multiplier steps, in (0, 2); 1 is none.
        balance: double or halve all penalties when primal and dual residuals differ tenfold.
        keep_batch: "blocks", "paper": work on the first batch alone, all steps.

    Raises:
        ValueError: for an option outside its range or a model that this does not cover.

    Example:
        >>> trainer = ADMM(model, "cross-entropy")
        >>> loss = trainer.step(batch)  # the network's own loss before the step
    """

    steps_with_closure = True  # the training loop hands the minibatch over

    def __init__(
        self,
        model: SequenceModel,
        loss: str,
        lr: float = 0.3,
        variant: Variant = "exact",
        *,
        proximal_weight: float = 0.1,
        memory: float = 0.95,
        limit: float = 100.0,
        sweeps: int = 1,
        penalty_a: float = 1.0,
        penalty_s: float = 1.0,
        penalty_o: float = 1.0,
        inner_penalty: float = 1.0,
        multipliers: Literal["last", "all"] = "last",
        order: Literal["parallel", "backward"] = "backward",
        coupling: bool = True,
        identity_for_tanh: bool = False,
        recurrent_decay: float = 0.0,
        relaxation: float = 1.0,
        balance: bool = False,
        keep_batch: bool = False,
    ):
        check_model(model, variant)
        if loss not in LOSSES:
            raise ValueError(f"ADMM needs a loss of {', '.join(LOSSES)}, got {loss!r}.")
        group: dict[str, Any] = dict(
            lr=lr, variant=variant, proximal_weight=proximal_weight, memory=memory, limit=limit,
            sweeps=sweeps, penalty_a=penalty_a, penalty_s=penalty_s, penalty_o=penalty_o,
            inner_penalty=inner_penalty,
            multipliers=multipliers, order=order, coupling=coupling,
            identity_for_tanh=identity_for_tanh, recurrent_decay=recurrent_decay,
            relaxation=relaxation, balance=balance, keep_batch=keep_batch,
            steps=0, rejections=0, scale=1.0,
        )  # fmt: skip
        check_options(group)
        if identity_for_tanh and model.recurrent[0].nonlinearity != "tanh":
            raise ValueError("identity_for_tanh=True needs the nonlinearity 'tanh', got 'relu'.")
        self.model, self.loss = model, loss
        self.param_groups = [group]
        self.state: dict[str, Any] = {}

    # -- what training needs -----------------------------------------------------------------------

    @property
    def price(self) -> int:
        """Passes forward and backward, or what takes their place, that a step costs."""
        group = self.param_groups[0]
        return 1 if group["variant"] == "exact" else group["sweeps"]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights, which are the model's."""
        return dict(state=dict(self.state), param_groups=[dict(g) for g in self.param_groups])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken; copies its tensors."""
        device = next(self.model.parameters()).device
        self.param_groups = [self.param_groups[0] | dict(g) for g in state_dict["param_groups"]]
        check_options(self.param_groups[0])
        self.state = {k: v.clone().to(device) for k, v in state_dict["state"].items()}

    @torch.no_grad()
    def step(self, batch: Any) -> Tensor:
        """One minibatch.

        Args:
            batch: has inputs (time, batch, features), targets, and no lengths.

        Returns:
            The loss of the network on it before the step, as the task computes it.
        """
        group = self.param_groups[0]
        problem, divisor = self._problem(batch)
        weights = read_weights(self.model)
        if group["variant"] == "exact":
            new, loss = self._exact(problem, weights)
        else:
            top, loss = self._by_blocks(problem, weights[-1])
            new = [top]
        group["steps"] += 1
        if all(t.isfinite().all() for layer in new for t in layer):
            write_weights(self.model, new)
        else:
            group["rejections"] += 1
        return loss / divisor

    def fit(self, batches: Iterable[Any]) -> list[float]:
        """`step` on each of `batches`; their losses.

        Example:
            >>> losses = trainer.fit(batch for _ in range(3) for batch in data)  # three epochs
        """
        losses = [self.step(batch) for batch in batches]
        return torch.stack(losses).tolist() if losses else []

    def _problem(self, batch: Any) -> tuple[Problem, float]:
        """The batch as a problem, and by what the sum of its losses is divided for the mean."""
        if batch.lengths is not None:
            raise ValueError("ADMM needs sequences of one length, got lengths.")
        group, inputs = self.param_groups[0], batch.inputs
        if group["keep_batch"]:
            self.state.setdefault("inputs", inputs.clone())
            self.state.setdefault("targets", batch.targets.clone())
            inputs, targets = self.state["inputs"], self.state["targets"]
        else:
            targets = batch.targets
        readout = self.model.readout
        every = readout == "every"
        classes = LOSSES[self.loss] == "cross_entropy"
        if targets.ndim == (2 if classes else 3):  # one a step, sequences first
            if not every:
                raise ValueError(f"targets at every step need readout 'every', got {readout!r}.")
            targets = targets.transpose(0, 1)
        else:
            targets = targets.expand(len(inputs) if every else 1, *targets.shape)
        if not classes:
            targets = targets.to(inputs.dtype)
        start = inputs.new_zeros(inputs.shape[1], self.model.recurrent[0].hidden_size)
        kind: Any = "relu" if self.model.recurrent[0].nonlinearity == "relu" else "tanh"
        problem = Problem(
            inputs, targets, start, kind, LOSSES[self.loss],  # type: ignore[arg-type]
            recurrent_decay=group["recurrent_decay"] * inputs.shape[1],
        )  # fmt: skip
        divisor = targets.numel() if classes else targets.numel() / 2
        return problem, float(divisor)

    # -- variants ----------------------------------------------------------------------------------

    def _exact(self, problem: Problem, weights: list[Weights]) -> tuple[list[Weights], Tensor]:
        group = self.param_groups[0]
        *below, top = weights
        if float(group["lr"]) == 0:
            _, outputs = forward(problem, top, len(problem.targets), below)
            return weights, sample_losses(problem, outputs).sum()
        found = sweep(problem, top, 1 / float(group["lr"]), group["limit"], below)
        names = [f"moments_{i}" for i in range(len(weights))]
        moments = None
        if "output_moments" in self.state:
            seen = tuple(self.state[name] for name in names)
            moments = Moments(seen, self.state["output_moments"])
        new, now = follow(
            weights, found, moments, group["memory"], group["steps"] + 1, group["proximal_weight"]
        )
        if all(m.isfinite().all() for m in (*now.layers, now.output)):
            self.state.update(zip(names, now.layers, strict=True))
            self.state["output_moments"] = now.output
        return new, sample_losses(problem, found.outputs).sum()

    def _by_blocks(self, problem: Problem, weights: Weights) -> tuple[Weights, Tensor]:
        group = self.param_groups[0]
        scored = len(problem.targets)
        (states,), outputs = forward(problem, weights, scored)
        loss = sample_losses(problem, outputs).sum()
        if group["keep_batch"] and "preactivation" in self.state:
            variables = Variables(*(self.state[n] for n in Variables._fields))
            multipliers = Multipliers(*(self.state[f"multiplier_{n}"] for n in Variables._fields))
        else:
            drive = problem.inputs @ weights.input.t() + weights.bias
            before = states[:-1] @ weights.recurrent.t()
            variables = Variables(drive + before, states[1:].clone(), outputs.clone())
            last = slice(-1, None) if group["multipliers"] == "last" else slice(None)
            multipliers = Multipliers(*(torch.zeros_like(v[last]) for v in variables))
        for _ in range(group["sweeps"]):
            numbers = self._penalties(len(problem.inputs))
            before_it = variables
            iterate = paper_iteration if group["variant"] == "paper" else block_iteration
            weights, variables = iterate(problem, weights, variables, multipliers, numbers, group)
            broken = residuals(problem, weights, variables)
            scaled = Variables(*(group["relaxation"] * r for r in broken))
            multipliers = multiplier_step(multipliers, scaled, numbers)
            if group["balance"]:
                self._balance(broken, before_it, variables, numbers)
        if group["keep_batch"]:
            for name, v, m in zip(Variables._fields, variables, multipliers, strict=True):
                self.state[name], self.state[f"multiplier_{name}"] = v, m
        return weights, loss

    def _penalties(self, steps: int) -> Penalties:
        group = self.param_groups[0]
        scale = group["scale"]
        a, s, o = (scale * group[f"penalty_{name}"] for name in "aso")
        return penalties(steps, (a, s, o), scale * group["inner_penalty"])

    def _balance(
        self, broken: Variables, before: Variables, after: Variables, numbers: Penalties
    ) -> None:
        """Residual balancing: penalties follow the larger of primal and dual residual."""
        group = self.param_groups[0]
        primal = sum(float(r.square().sum()) for r in broken) ** 0.5
        moved = zip(before, after, numbers, strict=True)
        pulls = (per_step(rho, a) * (a - b) for a, b, rho in moved)
        dual = sum(float(pull.square().sum()) for pull in pulls) ** 0.5
        if primal > 10 * dual:
            group["scale"] *= 2.0
        elif dual > 10 * primal:
            group["scale"] /= 2.0

    # -- looking at it -----------------------------------------------------------------------------

    @torch.no_grad()
    def report(self, batch: Any) -> dict[str, float]:
        """Lagrangian and relative primal residuals of the kept batch, and the network's loss.

        Raises:
            ValueError: unless variables are kept (`keep_batch`, variant "blocks" or "paper").
        """
        if "preactivation" not in self.state:
            raise ValueError("ADMM keeps no variables here: it needs keep_batch=True and a step.")
        problem, divisor = self._problem(batch)
        (weights,) = read_weights(self.model)
        variables = Variables(*(self.state[n] for n in Variables._fields))
        multipliers = Multipliers(*(self.state[f"multiplier_{n}"] for n in Variables._fields))
        numbers = self._penalties(len(problem.inputs))
        value = augmented_lagrangian(problem, weights, variables, multipliers, numbers)
        broken = residuals(problem, weights, variables)
        _, outputs = forward(problem, weights, len(problem.targets))
        result = dict(
            lagrangian=float(value),
            loss=float(sample_losses(problem, outputs).sum()) / divisor,
            auxiliary_loss=float(sample_losses(problem, variables.output).sum()) / divisor,
        )
        for name, r, v in zip(Variables._fields, broken, variables, strict=True):
            result[f"residual_{name}"] = float(r.norm() / v.norm().clamp(min=1e-30))
        return result


# -- the model -------------------------------------------------------------------------------------


def check_model(model: nn.Module, variant: str) -> None:
    """Raises ValueError unless the model is one that the variant covers."""
    if not isinstance(model, SequenceModel):
        raise ValueError(f"ADMM trains a SequenceModel, got a {type(model).__name__}.")
    if len(model.recurrent) > 1 and variant != "exact":
        raise ValueError(
            f"variant={variant!r} trains one layer, got layers={len(model.recurrent)}: take"
            " variant='exact' for more."
        )
    if not isinstance(model.recurrent[0], ElmanRNN):
        kind = type(model.recurrent[0]).__name__
        raise ValueError(f"ADMM needs the cell 'rnn', got a layer of {kind}.")
    if len(model.norms) or model.dropout:
        raise ValueError("ADMM needs a model without batch norm and without dropout.")
    if model.readout == "mean":
        raise ValueError("ADMM needs readout 'last' or 'every', got readout='mean'.")


def read_weights(model: SequenceModel) -> list[Weights]:
    """Each layer's weights, one bias a layer, lowest first; all have the model's read-out."""
    layers: list[Any] = list(model.recurrent)
    return [
        Weights(
            layer.weight_ih_l0.detach(),
            layer.weight_hh_l0.detach(),
            layer.bias_ih_l0.detach() + layer.bias_hh_l0.detach(),
            model.output.weight.detach(),
            model.output.bias.detach(),
        )
        for layer in layers
    ]


def write_weights(model: SequenceModel, weights: list[Weights]) -> None:
    """Puts weights into the model; the second bias of torch's layers stays as it is."""
    layers: list[Any] = list(model.recurrent)
    for layer, new in zip(layers, weights, strict=True):
        layer.weight_ih_l0.copy_(new.input)
        layer.weight_hh_l0.copy_(new.recurrent)
        layer.bias_ih_l0.add_(new.bias - (layer.bias_ih_l0 + layer.bias_hh_l0))
    model.output.weight.copy_(weights[-1].output)
    model.output.bias.copy_(weights[-1].output_bias)
