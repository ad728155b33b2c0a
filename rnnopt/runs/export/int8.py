"""Weights in eight bits: the rows of each matrix as whole numbers times a scale of the row.

    w_ij ≈ s_i q_ij     s_i = max_j |w_ij| / 127     q_ij = round(w_ij / s_i)

Biases, normalisation and IndRNN's recurrent weights, one number a unit, stay float32.
"""

import copy

import torch
from torch import Tensor

from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.source import Facts, Source, calibrated_model, what_happened
from rnnopt.training.build import task_of

LARGEST = 127


def rows_in_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (rows, columns), int8, and scales (rows,) whose product is about `weight`.

    A row of zeros has zeros and the least positive scale.
    """
    rows = weight.detach().flatten(1)
    scales = rows.abs().amax(1) / LARGEST
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny)
    whole = (rows / scales[:, None]).round().clamp(-LARGEST, LARGEST)
    return whole.to(torch.int8), scales


def with_int8_weights(model: SequenceModel) -> SequenceModel:
    """The network with each matrix of weights as int8 and scales say it.

    `rows_in_int8` of its weights finds the same whole numbers.
    """
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.ndim > 1:
                whole, scales = rows_in_int8(weight)
                weight.copy_((whole * scales[:, None]).view_as(weight))
    return twin


def metric_of_int8(source: Source) -> Facts:
    """The metric of the run's answers on its test data, and with int8 weights; for a card."""
    if what_happened(source):
        return (("loss of int8 weights", "not measured: the run's files are not what they were"),)
    task = task_of(source.config)
    cpu, model = torch.device("cpu"), calibrated_model(source)
    before, after = (
        task.evaluate(one, task.test, cpu)[1] for one in (model, with_int8_weights(model))
    )
    return (
        (f"test {task.metric} with float32 weights", f"{before:.6g}"),
        (f"test {task.metric} with int8 weights", f"{after:.6g}"),
    )
