"""A run's network as a file for other programs, checked on the run's own data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.formats import Format, onnx_file, safetensors_file, torchscript_file
from rnnopt.runs.export.plain_model import PlainModel, double
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks.pieces import together, width
from rnnopt.tasks.task import Loss
from rnnopt.tasks.user_data.load import read_parts
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers import sha256
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.series import cut_padding
from rnnopt.training.build import model_settings, task_of
from rnnopt.training.resolve import resolve

ALLOWED = 1e-4  # of difference between the exported network's answers and ours
COARSE = 1e-2  # of difference that rounding raw series and answers to float32 may make
SERIES = 256  # that are compared at most


@dataclass(frozen=True)
class Source:
    """A run's network with all that is needed to export it.

    Args:
        model: in evaluation mode.
        settings: what it was built with.
        preparation: of its series; None for tasks on board.
        loss: of its task.
        config: of the run.
        result: of the run.
        data: what is known of its data.
    """

    model: SequenceModel
    settings: dict[str, Any]
    preparation: Preparation | None
    loss: Loss
    config: RunConfig
    result: dict[str, Any]
    data: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """An exported file and how far its answers are from ours.

    Args:
        content: of the file.
        difference: the largest, of probabilities or of numbers in units of the targets' deviation.
        series: how many were compared.
        on: what they were.
        rounding: how far float32, of raw series and of answers, can move an answer; same units.
    """

    content: bytes
    difference: float
    series: int
    on: str
    rounding: float = 0.0


def open_run(path: Path) -> tuple[Source, tuple[Tensor, Tensor], str]:
    """The network of a run folder, raw series (inputs, lengths) to check it on, and what they are.

    Series of a user's own are float64, as they were read.

    Raises:
        UserError: no run folder, or not over.
    """
    folder = RunFolder.open(path)
    config, result = folder.read_config(), folder.read_result()
    if config.data is not None:
        trained = TrainedModel.open(path)
        p = trained.preparation
        loss: Loss = "cross-entropy" if p.kind == "classification" else "mse"
        source = Source(
            trained.model, trained.settings, p, loss, config, result, folder.read_data()
        )
        return source, *_own_series(source, p)
    task = task_of(config)
    settings = model_settings(resolve(config), task)
    model = SequenceModel(**settings)
    model.load_state_dict(folder.read_weights())
    source = Source(model.eval(), settings, None, task.loss, config, result, {})
    lengths = task.test.lengths
    if lengths is None:
        lengths = torch.full((len(task.test),), task.test.steps)
    lengths = lengths[: _some(source, lengths)]
    inputs = task.test.batch(slice(len(lengths))).inputs.transpose(0, 1)
    return source, (inputs.contiguous(), lengths), "test series of the run"


def _some(source: Source, lengths: Tensor) -> int:
    """How many series to compare, of those with such lengths: no more than are answered at once."""
    wide = width(source.model, source.settings["input_size"])
    return min(SERIES, together(lengths.cummax(0).values, wide))


def _own_series(source: Source, p: Preparation) -> tuple[tuple[Tensor, Tensor], str]:
    """Series of the run's own files, or random ones where these are not what they were."""
    happened = _what_happened(source)
    if happened:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.full((64,), p.longest)
        lengths = lengths[: _some(source, lengths)]
        raw = torch.randn(len(lengths), p.longest, len(p.channels), generator=generator)
        raw = raw * double(p.deviation) + double(p.mean)
        return (raw, lengths), f"random series, for the run's files have {happened}"
    data, test = read_parts(source.config)
    part = test or data
    part = part.select(range(_some(source, torch.tensor([len(one) for one in part.series]))))
    if p.missing == "interpolate":  # which no graph does
        series = p.ragged(part)
    else:
        series = list(cut_padding(part.series) if p.padded else part.series)
    inputs = pad_sequence([torch.from_numpy(one) for one in series], batch_first=True)
    lengths = torch.tensor([len(one) for one in series])
    return (inputs, lengths), "test series of the run" if test else "series of the run's file"


def _what_happened(source: Source) -> Literal["gone", "changed"] | None:
    """What the run's files have done since, if anything."""
    noted = source.data.get("sources", {})
    for role, path in (("data", source.config.data), ("test", source.config.test)):
        if path is None:
            continue
        if not Path(path).exists():
            return "gone"
        if sha256(Path(path)) != noted.get(role, {}).get("sha256"):
            return "changed"
    return None


def reference(source: Source, raw: tuple[Tensor, Tensor]) -> Tensor:
    """What the run's own network answers to raw series prepared as in training, kernels and all."""
    inputs, lengths = raw
    p, model = source.preparation, source.model
    given: Tensor | None = lengths
    if p is not None:
        series = tuple(
            one[:n].double().numpy() for one, n in zip(inputs, lengths.tolist(), strict=True)
        )
        inputs, given = p.inputs(Recordings(series, None, p.channels))
    with torch.no_grad():
        outputs = model(inputs.transpose(0, 1), given)
    if outputs.ndim == 3:
        outputs = outputs.transpose(0, 1)
    if source.loss == "cross-entropy":
        return outputs.softmax(-1)
    return outputs.sigmoid() if source.loss == "binary-cross-entropy" else outputs


def export(source: Source, form: Format, raw: tuple[Tensor, Tensor], on: str) -> Checked:
    """The file, checked.

    Raises:
        UserError: it does not answer as the run's network does; float32 is too coarse for the raw
            data; a package is missing.
    """
    inputs, lengths = raw
    p = source.preparation
    note: dict[str, Any] = {"task": source.config.task}
    if p is not None:
        note["preparation"] = p.to_dict()
    narrow = (inputs.float(), lengths)  # as the file takes them
    expected = reference(source, narrow)
    allowed, rounding = ALLOWED, 0.0
    try:
        if form == "safetensors":
            content, twin = safetensors_file(source.model, source.settings, note)
            found = reference(replace(source, model=twin), narrow)
        else:
            plain = PlainModel(source.model, p, source.loss)
            content, answer = (onnx_file if form == "onnx" else torchscript_file)(plain, note)
            found = answer(*narrow)
            if p is not None and p.kind == "regression":
                # float32 knows a number to this part of its size alone.
                size = double(p.target_mean).abs() / double(p.target_deviation)
                rounding = torch.finfo(torch.float32).eps * float(size.max())
                allowed += rounding
                found = (found.double() - double(p.target_mean)) / double(p.target_deviation)
            rounding += _difference(source, reference(source, raw), expected, lengths)
    except ModuleNotFoundError as error:
        raise UserError(
            f'--format {form} needs {error.name}: pip install "rnnopt[export]".'
        ) from error
    if not rounding <= COARSE:
        raise UserError(
            f"{form} files take and give float32, which is too coarse for these data: rounding"
            f" moves answers by up to {rounding:.2g}, where {COARSE:g} is allowed. Nothing was"
            " written. Take a large offset off the data before training, or say --format"
            " safetensors."
        )
    difference = _difference(source, found, expected, lengths)
    if not difference <= allowed:
        raise UserError(
            f"the exported network's answers differ from the run's by {difference:.2g}, where"
            f" {allowed:.2g} is allowed: nothing was written."
        )
    return Checked(content, difference, len(inputs), on, rounding)


def _difference(source: Source, one: Tensor, other: Tensor, lengths: Tensor) -> float:
    """The largest between two sets of answers; those of padding do not count."""
    if one.ndim == 3:
        p = source.preparation
        seen = lengths if p is None else -(-lengths // p.subsample)
        valid = torch.arange(one.shape[1])[None] < seen[:, None]
        one, other = one[valid], other[valid]
    return float((one - other).abs().max())
