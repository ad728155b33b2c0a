"""Exports a run's network to a file for other programs, and checks it on the run's own data."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rnnopt.config.errors import UserError
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.c_file import c_file
from rnnopt.runs.export.executorch_file import executorch_file
from rnnopt.runs.export.formats import (
    EXTRAS,
    INT8,
    Answer,
    Format,
    Weights,
    onnx_file,
    safetensors_file,
    torchscript_file,
)
from rnnopt.runs.export.int8 import with_int8_weights
from rnnopt.runs.export.openvino_file import openvino_file
from rnnopt.runs.export.plain_model import PlainModel, double
from rnnopt.runs.export.source import Facts, Source, what_happened
from rnnopt.runs.export.streaming import refuse_streaming, streaming_file
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks.pieces import together, width
from rnnopt.tasks.task import LOSSES
from rnnopt.tasks.user_data.load import read_parts
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.series import cut_padding
from rnnopt.training.build import model_settings, task_of
from rnnopt.training.resolve import resolve

ALLOWED = 1e-4  # largest difference between the outputs of the exported network and the run's
COARSE = 1e-2  # largest difference from rounding raw series and outputs to float32
SERIES = 256  # largest number of series compared


@dataclass(frozen=True)
class Checked:
    """An exported file and the difference between its outputs and the run's network.

    Args:
        content: bytes of the file.
        difference: largest difference of probabilities, or of numbers in units of the targets'
            deviation; None if it was not compared, for there is no C compiler.
        series: number of series compared.
        on: description of these series.
        rounding: largest change of an output by float32 series and outputs; same units.
        facts: more about it, for the card, by name.
        weights: bytes of a second file, which the first one needs beside it; None for none.
    """

    content: bytes
    difference: float | None
    series: int
    on: str
    rounding: float = 0.0
    facts: Facts = ()
    weights: bytes | None = None


def open_run(path: Path) -> tuple[Source, tuple[Tensor, Tensor], str]:
    """The network of a run folder, raw series (inputs, lengths) to check it, and their description.

    Series of the user's own data are float64, as they were read.

    Raises:
        UserError: not a run folder, or the run is not finished.
    """
    folder = RunFolder.open(path)
    config, result = folder.read_config(), folder.read_result()
    if config.data is not None:
        trained = TrainedModel.open(path)
        p = trained.preparation
        loss = LOSSES[p.kind]
        data = folder.read_data()
        source = Source(trained.model, trained.settings, p, loss, config, result, data, str(path))
        return source, *_own_series(source, p)
    task = task_of(config)
    settings = model_settings(resolve(config), task)
    model = SequenceModel(**settings)
    model.load_state_dict(folder.read_weights())
    source = Source(model.eval(), settings, None, task.loss, config, result, {}, str(path))
    lengths = task.test.lengths
    if lengths is None:
        lengths = torch.full((len(task.test),), task.test.steps)
    lengths = lengths[: _some(source, lengths)]
    inputs = task.test.batch(slice(len(lengths))).inputs.transpose(0, 1)
    return source, (inputs.contiguous(), lengths), "test series of the run"


def _some(source: Source, lengths: Tensor) -> int:
    """How many series of these lengths to compare: at most as many as fit into one piece."""
    wide = width(source.model, source.settings["input_size"])
    return min(SERIES, together(lengths.cummax(0).values, wide))


def _own_series(source: Source, p: Preparation) -> tuple[tuple[Tensor, Tensor], str]:
    """Series of the run's own files, or random series if the files have changed."""
    happened = what_happened(source)
    if happened:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.full((64,), p.longest)
        lengths = lengths[: _some(source, lengths)]
        raw = torch.randn(len(lengths), p.longest, len(p.channels), generator=generator)
        raw = raw * double(p.deviation) + double(p.mean)
        return (raw, lengths), f"random series, for the run's files have {happened}"
    data, test = read_parts(source.config)
    part = p.shaped(test or data)
    part = part.select(range(_some(source, torch.tensor([len(one) for one in part.series]))))
    # An exported graph cannot interpolate, nor does it know the outputs before the first step.
    if p.missing == "interpolate" or p.lags:
        series = p.ragged(part)
    else:
        series = list(cut_padding(part.series) if p.padded else part.series)
    inputs = pad_sequence(
        [torch.from_numpy(np.array(one, np.float64)) for one in series], batch_first=True
    )
    lengths = torch.tensor([len(one) for one in series])
    return (inputs, lengths), "test series of the run" if test else "series of the run's file"


def reference(source: Source, raw: tuple[Tensor, Tensor]) -> Tensor:
    """Outputs of the run's own network, with kernels, for raw series prepared as in training."""
    return _answers(source, _outputs(source, source.model, raw))


def stepwise_reference(source: Source, raw: tuple[Tensor, Tensor]) -> Tensor:
    """The same after each step, (batch, time, output): what the network knows by then."""
    model = copy.deepcopy(source.model)
    model.readout = "every"
    outputs = _outputs(source, model, raw)
    if source.model.readout == "mean":  # the read-out of a mean is the mean of the read-outs
        counts = torch.arange(1, outputs.shape[1] + 1)[:, None]
        outputs = (outputs.double().cumsum(1) / counts).float()
    return _answers(source, outputs)


def _outputs(source: Source, model: SequenceModel, raw: tuple[Tensor, Tensor]) -> Tensor:
    """Outputs (batch, …) of a network for raw series prepared as in training."""
    inputs, lengths = raw
    p = source.preparation
    given: Tensor | None = lengths
    if p is not None:
        series = tuple(
            one[:n].double().numpy() for one, n in zip(inputs, lengths.tolist(), strict=True)
        )
        inputs, given = p.inputs(Recordings(series, None, p.channels, shaped=True))
    with torch.no_grad():
        outputs = model(inputs.transpose(0, 1), given)
    return outputs.transpose(0, 1) if outputs.ndim == 3 else outputs


def _answers(source: Source, outputs: Tensor) -> Tensor:
    if source.preparation is not None and source.loss != "mse":
        outputs = outputs / source.preparation.temperature
    if source.loss == "cross-entropy":
        return outputs.softmax(-1)
    return outputs.sigmoid() if source.loss == "binary-cross-entropy" else outputs


def export(
    source: Source,
    form: Format,
    raw: tuple[Tensor, Tensor],
    on: str,
    streaming: bool = False,
    weights: Weights = "float32",
    name: str = "model",
) -> Checked:
    """The exported file, after a check.

    Args:
        source: network.
        form: format of the file.
        raw: series (inputs, lengths) to check it on.
        on: description of these series.
        streaming: whether the file takes one step at a time; its answers are checked at each. A C
            header always does.
        weights: type that the matrices of weights are stored in; the file is compared with the
            network that has the weights that int8 can say.
        name: beginning of the names in a C header.

    Raises:
        UserError: its outputs differ from those of the run's network; float32 is too coarse for the
            raw data; a package is missing; the run cannot be exported in this way.
    """
    steps = streaming or form == "c"
    if steps:
        refuse_streaming(source.model, source.preparation, form)
    elif source.preparation is not None and source.preparation.lags and form != "safetensors":
        raise UserError(
            "a run with --feedback needs its own past outputs at each step: export it with"
            " --streaming or --format c, whose inputs they then are."
        )
    if weights == "int8":
        if form not in INT8:
            raise UserError(f"--weights int8 needs --format {' or '.join(INT8)}, got {form}.")
        source = replace(source, model=with_int8_weights(source.model))
    refer = stepwise_reference if steps else reference
    inputs, lengths = raw
    p = source.preparation
    narrow = (inputs.float(), lengths)  # the file takes float32
    expected = refer(source, narrow)
    allowed, rounding = ALLOWED, 0.0
    try:
        made = _file(source, form, streaming, weights, name, lengths)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format {form} needs {error.name}: pip install"
            f' "rnnopt[{EXTRAS.get(form, "export")}]".'
        ) from error
    found = None if made.answer is None else made.answer(*narrow)
    if form != "safetensors":
        if p is not None and p.kind == "regression":
            # The relative precision of float32.
            size = double(p.target_mean).abs() / double(p.target_deviation)
            rounding = torch.finfo(torch.float32).eps * float(size.max())
            allowed += rounding
            if found is not None:
                found = (found.double() - double(p.target_mean)) / double(p.target_deviation)
        rounding += _difference(source, refer(source, raw), expected, lengths)
    if not rounding <= COARSE:
        raise UserError(
            f"{form} files take and give float32, which is too coarse for these data: rounding"
            f" moves answers by up to {rounding:.2g}, where {COARSE:g} is allowed. Nothing was"
            " written. Take a large offset off the data before training, or pass --format"
            " safetensors."
        )
    difference = None if found is None else _difference(source, found, expected, lengths)
    if difference is not None and not difference <= allowed:
        raise UserError(
            f"the exported network's answers differ from the run's by {difference:.2g}, where"
            f" {allowed:.2g} is allowed: nothing was written."
        )
    return Checked(made.content, difference, len(inputs), on, rounding, made.facts, made.weights)


@dataclass(frozen=True)
class _File:
    """A file in memory: its content, a function that runs it, None if nothing here can, its sizes,
    and the content of a second file."""

    content: bytes
    answer: Answer | None
    facts: Facts = ()
    weights: bytes | None = None


def _file(
    source: Source, form: Format, streaming: bool, weights: Weights, name: str, lengths: Tensor
) -> _File:
    """The file of a format."""
    p = source.preparation
    note: dict[str, Any] = {"task": source.config.task}
    if p is not None:
        note["preparation"] = p.to_dict()
    if form == "safetensors":
        content, twin = safetensors_file(source.model, source.settings, note)
        rebuilt = replace(source, model=twin)
        return _File(content, lambda *raw: reference(rebuilt, raw))
    plain = PlainModel(source.model, p, source.loss)
    if form == "c":
        header = c_file(source, plain, name, weights)
        return _File(header.content, header.answer if header.program else None, header.sizes)
    if form == "torchscript":
        return _File(*torchscript_file(plain, note))
    if form == "executorch":
        known = [] if p is None else [p.shortest, p.longest]
        return _File(*executorch_file(plain, [*known, *lengths.tolist()]))
    if form == "openvino":
        content, beside, answer = openvino_file(plain, note)
        return _File(content, answer, weights=beside)
    return _File(*(streaming_file if streaming else onnx_file)(plain, note, weights == "int8"))


def _difference(source: Source, one: Tensor, other: Tensor, lengths: Tensor) -> float:
    """The largest difference between two sets of outputs, without padding."""
    if one.ndim == 3:
        p = source.preparation
        seen = lengths if p is None else -(-lengths // p.subsample)
        valid = torch.arange(one.shape[1])[None] < seen[:, None]
        one, other = one[valid], other[valid]
    return float((one - other).abs().max())
