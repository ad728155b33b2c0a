"""Loads an exported file with one thread and measures it: times of a series and a step, answers."""

import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.formats import Answer, whole_series
from rnnopt.runs.export.openvino_file import loaded
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.step_states import states_of
from rnnopt.runs.export.streaming import step_by_step

LONGEST, LEAST, MOST = 0.4, 20, 1000  # seconds of a measurement, and its calls


@dataclass(frozen=True)
class Runner:
    """A loaded file, measured at batch 1.

    Args:
        answer: answers to raw series: (batch, output), or (batch, time, output).
        series: seconds of a whole series; None if it takes none.
        step: seconds of one step; None if it takes none.
    """

    answer: Answer
    series: float | None
    step: float | None


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_seconds(call: Callable[[], object]) -> float:
    """Median time of many calls, after some that do not count."""
    for _ in range(5):
        call()
    times: list[float] = []
    end = time.perf_counter() + LONGEST
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


@torch.no_grad()
def network_times(model: SequenceModel, prepared: Tensor) -> tuple[float, float | None]:
    """Seconds of a prepared series (time, channel) and of a step by rnnopt's own network."""
    series = median_seconds(partial(model, prepared[:, None]))
    if model.bidirectional or model.stem is not None:
        return series, None
    return series, median_seconds(partial(model.stream().push, prepared[0].contiguous()))


def onnx_runner(content: bytes, raw: Tensor) -> Runner:
    """An ONNX file of whole series; `raw` is one (time, channel)."""
    answer, length = whole_series(_session(content)), torch.tensor([len(raw)])
    return Runner(answer, median_seconds(partial(answer, raw[None], length)), None)


def onnx_step_runner(content: bytes, model: PlainModel, raw: Tensor) -> Runner:
    """An ONNX file of one step."""
    session, states = _session(content), states_of(model)
    answer = step_by_step(session, states)
    given = {"inputs": raw[:1].numpy()}
    given |= {s.name: np.zeros((1, s.width), np.float32) for s in states}
    length = torch.tensor([len(raw)])
    series = median_seconds(partial(answer, raw[None], length))
    return Runner(answer, series, median_seconds(partial(session.run, None, given)))


def openvino_runner(operators: bytes, weights: bytes, raw: Tensor) -> Runner:
    """The two files of OpenVINO."""
    answer = loaded(operators, weights, INFERENCE_NUM_THREADS=1)
    call = partial(answer, raw[None], torch.tensor([len(raw)]))
    return Runner(answer, median_seconds(call), None)


def torchscript_runner(content: bytes, raw: Tensor) -> Runner:
    """A TorchScript file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.*deprecated")
        script = torch.jit.load(io.BytesIO(content))
    call = partial(script, raw[None], torch.tensor([len(raw)]))
    with torch.no_grad():
        return Runner(script, median_seconds(call), None)


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Exported(nn.Module):
    """A file as a network that `Task.evaluate` takes: prepared series in, outputs out.

    Args:
        answer: answers to raw series.
        model: the run's network with its preparation.
    """

    def __init__(self, answer: Answer, model: PlainModel):
        super().__init__()
        self.answer = answer
        self.whole: tuple[PlainModel] = (model,)  # a tuple: its weights are not this module's

    @torch.no_grad()
    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (batch, output), or (time, batch, output) with the read-out "every".

        Args:
            inputs: (time, batch, channel), prepared.
            lengths: (batch,) true steps; None when all are true.
        """
        (model,) = self.whole
        time, batch = inputs.shape[:2]
        lengths = torch.full((batch,), time) if lengths is None else lengths
        deviation, mean = model.get_buffer("deviation"), model.mean.double() + model.mean_rest
        raw = (inputs.transpose(0, 1).double() * deviation + mean).float()
        raw = raw.repeat_interleave(model.pool, 1)  # each mean of some steps is their mean
        answers = self.answer(raw.contiguous(), lengths * model.pool)
        if answers.ndim == 3 and model.network.readout != "every":
            answers = answers[torch.arange(batch), lengths - 1]
        outputs = _outputs(answers, model)
        return outputs.transpose(0, 1) if outputs.ndim == 3 else outputs


def _outputs(answers: Tensor, model: PlainModel) -> Tensor:
    """The network's outputs, up to a constant for softmax, from a file's answers."""
    if model.answer == "softmax":
        return answers.clamp(min=1e-30).log()
    if model.answer == "sigmoid":
        return answers.double().clamp(1e-12, 1 - 1e-12).logit().float()
    target = model.target_mean.double() + model.target_mean_rest
    return ((answers.double() - target) / model.target_deviation).float()
