"""A trained network as a graph of one step, for programs that get their inputs one after another.

The caller keeps the states: zeros at the beginning of a sequence, then what the step before gave.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.formats import Answer, Format
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.step_states import StepState, states_of
from rnnopt.tasks.user_data.preparation import Preparation


def refuse_streaming(model: SequenceModel, preparation: Preparation | None, form: Format) -> None:
    """Refuses what cannot be computed step by step.

    Raises:
        UserError: another format than ONNX or C, a network that needs more than one step at a
            time, or a preparation that does.
    """
    if form not in ("onnx", "c"):
        raise UserError(f"--streaming needs --format onnx or c, got --format {form}.")
    what = "--streaming" if form == "onnx" else "--format c"
    if model.bidirectional:
        raise UserError(
            f"{what} needs a network of one direction, got a bidirectional one, which begins"
            " at the end of the series."
        )
    if model.stem is not None:
        raise UserError(
            f"{what} needs a network without a stem, got one whose convolutions see several"
            " steps at once."
        )
    if preparation is None:
        return
    if preparation.subsample > 1 and form == "onnx":
        raise UserError(
            "--streaming needs a run that keeps every step, got one with --subsample"
            f" {preparation.subsample}: a mean of several steps is no single step, except with"
            " --format c."
        )
    if preparation.missing == "interpolate":
        raise UserError(
            f"{what} needs a run with --missing error, zero or mean, got interpolate: what"
            " comes after a missing value is not known when it is missing."
        )


def streaming_file(
    model: PlainModel, note: Mapping[str, Any], int8: bool = False
) -> tuple[bytes, Answer]:
    """An ONNX file of one step, and a function that runs it on whole series with onnxruntime.

    That function answers (batch, time, output): the answers after each step.
    """
    import onnxruntime

    from rnnopt.runs.export.onnx_step import to_onnx_step

    states = states_of(model)
    built = to_onnx_step(model, states, int8)
    for key, value in {**note, "states": [asdict(state) for state in states]}.items():
        entry = built.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    content = built.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, step_by_step(session, states)


def step_by_step(session: Any, states: list[StepState]) -> Answer:
    """Runs a loaded graph of one step on whole series: the answers (batch, time, output)."""

    def answer(inputs: Tensor, lengths: Tensor) -> Tensor:
        kept = {s.name: np.zeros((len(inputs), s.width), np.float32) for s in states}
        answers = []
        for step in inputs.unbind(1):
            found = session.run(None, {"inputs": step.numpy(), **kept})
            answers.append(torch.from_numpy(found[0]))
            kept = dict(zip(kept, found[1:], strict=True))
        return torch.stack(answers, 1)

    return answer
