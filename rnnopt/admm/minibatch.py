"""A minibatch as ADMM's problem: which steps are true, and what each one's loss counts."""

from typing import Any

import torch
from torch import Tensor

from rnnopt.admm.lagrangian import Problem
from rnnopt.admm.network import CELLS
from rnnopt.admm.options import LOSSES
from rnnopt.admm.prox import free_to_ask
from rnnopt.layers.recurrent import check_lengths
from rnnopt.layers.sequence_model import SequenceModel


def problem_of(model: SequenceModel, batch: Any, loss: str) -> tuple[Problem, Tensor | float]:
    """The batch as a problem, and by what the sum of its losses is divided for the task's mean.

    Args:
        model: what reads the batch.
        batch: has inputs (time, batch, features), targets, lengths (batch,) or None, and maybe
            weights (batch,).
        loss: as a task names it.

    Raises:
        ValueError: for shapes or types that do not go together.
    """
    classes = LOSSES[loss] == "cross_entropy"
    check_batch(model, batch, classes)
    inputs, targets, lengths = batch.inputs, batch.targets, batch.lengths
    weights: Tensor | None = getattr(batch, "weights", None)
    if lengths is not None:
        lengths = check_lengths(lengths, inputs)
    time, count = inputs.shape[:2]
    every = model.readout == "every"
    scored = time if every or lengths is not None else 1
    if targets.ndim == (2 if classes else 3):  # one a step, sequences first
        targets = targets.transpose(0, 1)
    else:
        targets = targets.expand(scored, *targets.shape)
    if not classes:
        targets = targets.to(inputs.dtype)
    valid = counted = None
    if lengths is not None:
        steps = torch.arange(time, device=inputs.device)[:, None]
        valid = steps < lengths
        counted = valid if every else steps == lengths - 1
        inputs = torch.where(valid[:, :, None], inputs, 0)
        targets = torch.where(counted if classes else counted[:, :, None], targets, 0)
    loss_weight: Tensor | float = 1.0
    bound: float | None = 1.0
    if counted is not None or weights is not None:
        loss_weight = inputs.new_ones((scored, count)) if counted is None else counted.to(inputs)
        if weights is not None:
            loss_weight = loss_weight * weights.to(inputs)
            bound = float(weights.max()) if free_to_ask(weights) else None
    layer: Any = model.recurrent[0]
    problem = Problem(
        inputs, targets, inputs.new_zeros(count, layer.hidden_size),
        getattr(layer, "nonlinearity", "tanh"),
        LOSSES[loss],  # type: ignore[arg-type]
        loss_weight, cell=CELLS[type(layer)], valid=valid, counted=counted,
        weight_bound=bound,
    )  # fmt: skip
    answers = scored * count if counted is None else counted.sum()
    return problem, answers if classes else answers * targets.shape[-1] / 2


def check_batch(model: SequenceModel, batch: Any, classes: bool) -> None:
    """Raises ValueError unless the batch is of the shapes and types that `step` needs."""
    inputs, targets = batch.inputs, batch.targets
    features, outputs = model.recurrent[0].input_size, model.output.out_features
    if inputs.ndim != 3 or not inputs.numel() or inputs.shape[2] != features:
        raise ValueError(
            f"ADMM needs inputs (time, batch, {features}), none of them 0, got"
            f" {tuple(inputs.shape)}."
        )
    if inputs.dtype != model.output.weight.dtype:
        raise ValueError(
            f"ADMM needs inputs of the weights' type {model.output.weight.dtype}, got"
            f" {inputs.dtype}."
        )
    if classes != (targets.dtype == torch.int64):
        wanted = "class numbers of type int64" if classes else "targets that are no class numbers"
        raise ValueError(f"ADMM needs {wanted}, got {targets.dtype}.")
    time, count = inputs.shape[:2]
    last = () if classes else (outputs,)
    once, each = (count, *last), (count, time, *last)
    if tuple(targets.shape) == each and tuple(targets.shape) != once:
        if model.readout != "every":
            raise ValueError(f"targets at every step need readout 'every', got {model.readout!r}.")
    elif tuple(targets.shape) != once:
        raise ValueError(
            f"ADMM needs targets {once} or, one a step, {each}, got {tuple(targets.shape)}."
        )
    weights = getattr(batch, "weights", None)
    if weights is not None and tuple(weights.shape) != (count,):
        raise ValueError(f"ADMM needs weights ({count},), got {tuple(weights.shape)}.")
    if not free_to_ask(inputs):
        return
    if weights is not None and not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("ADMM needs weights that are finite and not negative.")
    if classes and batch.lengths is None and not bool(((targets >= 0) & (targets < outputs)).all()):
        low, high = int(targets.min()), int(targets.max())
        raise ValueError(f"ADMM needs classes in 0 … {outputs - 1}, got {low} … {high}.")
