"""A network for ExecuTorch, which runs on phones and small boards: one series of one length.

ExecuTorch has no recurrent operators. So every step is written out, as torch's exporter does it,
and the program grows with the number of steps and so does the time that it takes to make it.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rnnopt.config.errors import UserError
from rnnopt.layers.plain import PlainIndRNNLayer
from rnnopt.runs.export.formats import Answer
from rnnopt.runs.export.plain_model import PlainModel, pooled

MOST = 256  # steps written out, in all layers and directions: a minute or two


class FixedSeries(nn.Module):
    """A `PlainModel` on series of one length.

    Args:
        model: network with its preparation.
    """

    def __init__(self, model: PlainModel):
        super().__init__()
        self.model = model
        for layer in model.modules():
            if isinstance(layer, PlainIndRNNLayer):
                layer.written_out = True  # ExecuTorch knows no scan

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs as of `PlainModel`, for inputs (batch, time, channel) without padding."""
        m = self.model
        states = (inputs - m.mean - m.mean_rest) / m.deviation
        if m.missing_filled:
            states = torch.where(torch.isnan(states), m.fill, states)
        if m.pool > 1:
            lengths = torch.full((inputs.shape[0],), inputs.shape[1])
            states = pooled(states, lengths, m.pool)[0]
        outputs = m.network(states.transpose(0, 1), None)
        if m.answer == "softmax":
            outputs = outputs.softmax(-1)
        elif m.answer == "sigmoid":
            outputs = outputs.sigmoid()
        else:
            outputs = outputs * m.target_deviation + m.target_mean_rest + m.target_mean
        return outputs.transpose(0, 1) if outputs.ndim == 3 else outputs


def executorch_file(model: PlainModel, lengths: Sequence[int]) -> tuple[bytes, Answer]:
    """An ExecuTorch program for one series, and a function that runs it.

    Args:
        model: network with its preparation.
        lengths: lengths of the series that it must take.

    Raises:
        UserError: the series differ in length, or the program would be too large.
    """
    steps = _steps(model, lengths)
    series = torch.zeros(1, steps, len(model.mean))
    with _silence():
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        exported = torch.export.export(FixedSeries(model).eval(), (series,))
        content = bytes(to_edge_transform_and_lower(exported).to_executorch().buffer)
        method = Runtime.get().load_program(content).load_method("forward")

    def answer(inputs: Tensor, lengths: Tensor) -> Tensor:
        rows = inputs.contiguous().split(1)
        return torch.cat([method.execute([one])[0] for one in rows])

    return content, answer


def _steps(model: PlainModel, lengths: Sequence[int]) -> int:
    """The length of all series."""
    shortest, steps = min(lengths), max(lengths)
    if shortest < steps:
        raise UserError(
            "--format executorch takes series of one length, the run's have"
            f" {shortest} to {steps} steps: take --format onnx or openvino, or train on windows."
        )
    network = model.network
    written = -(-steps // model.pool)
    strides: list[int] = [one.stride for one in network.stem]  # type: ignore[misc]
    for stride in strides:
        written = -(-written // stride)
    written *= len(network.recurrent) * (2 if network.bidirectional else 1)
    if written > MOST:
        raise UserError(
            f"--format executorch writes out every step of every layer, {written} here, where"
            f" {MOST} are allowed: take --format onnx or openvino, or train with --stem,"
            " --subsample or --window."
        )
    return steps


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps what the converter says of itself from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
