"""What an export needs of a run."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks.task import Loss
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers.several import sha256_of

Facts = tuple[tuple[str, str], ...]  # what and its figure, for the card


@dataclass(frozen=True)
class Source:
    """A run's network with everything needed to export it.

    Args:
        model: network in evaluation mode.
        settings: arguments of the network.
        preparation: preparation of its series; None for built-in tasks.
        loss: loss of its task.
        config: config of the run.
        result: result of the run.
        data: content of the run's data.json.
        folder: the run's folder.
    """

    model: SequenceModel
    settings: dict[str, Any]
    preparation: Preparation | None
    loss: Loss
    config: RunConfig
    result: dict[str, Any]
    data: dict[str, Any]
    folder: str = ""


def divide_outputs(read_out: nn.Module, temperature: float) -> None:
    """Divides what a linear read-out gives by a temperature, in place."""
    with torch.no_grad():
        for parameter in read_out.parameters():
            parameter.div_(temperature)


def calibrated_model(source: Source) -> SequenceModel:
    """A copy of the network whose softmax or sigmoid gives the run's own probabilities."""
    model = copy.deepcopy(source.model)
    if source.preparation is not None:
        divide_outputs(model.output, source.preparation.temperature)
    return model


def what_happened(source: Source) -> Literal["gone", "changed"] | None:
    """Whether the run's files are gone or have changed since; None if neither."""
    noted = source.data.get("sources", {})
    for role in ("data", "test", "labels"):
        text = getattr(source.config, role)
        if text is None:
            continue
        try:
            if sha256_of(text) != noted.get(role, {}).get("sha256"):
                return "changed"
        except (UserError, FileNotFoundError):
            return "gone"
    return None
