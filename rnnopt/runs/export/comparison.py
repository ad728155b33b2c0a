"""All formats of a run, measured here: sizes, times of one thread, the metric on the test data.

Not ExecuTorch, whose conversion takes long and is for series of one length.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.runs.environment import processor_name
from rnnopt.runs.export.c_file import c_file
from rnnopt.runs.export.export import Checked, export
from rnnopt.runs.export.formats import Format, Weights
from rnnopt.runs.export.int8 import with_int8_weights
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.runners import (
    Exported,
    Runner,
    network_times,
    one_thread,
    onnx_runner,
    onnx_step_runner,
    openvino_runner,
    torchscript_runner,
)
from rnnopt.runs.export.source import Source, calibrated_model, what_happened
from rnnopt.tasks import Task
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.training.build import task_of

CPU = torch.device("cpu")


class Variant(NamedTuple):
    """A way to export."""

    name: str
    form: Format
    streaming: bool = False
    weights: Weights = "float32"


VARIANTS = (
    Variant("safetensors", "safetensors"),
    Variant("torchscript", "torchscript"),
    Variant("onnx", "onnx"),
    Variant("onnx int8", "onnx", weights="int8"),
    Variant("onnx step", "onnx", True),
    Variant("onnx step int8", "onnx", True, "int8"),
    Variant("openvino", "openvino"),
    Variant("c", "c"),
    Variant("c int8", "c", weights="int8"),
)


@dataclass(frozen=True)
class Row:
    """What was measured of a format.

    Args:
        name: the format.
        bytes: of the file; of a C header, of its weights in memory.
        series: seconds of a whole series at batch 1; None if it was not measured.
        step: the same of one step.
        metric: on the run's test data.
    """

    name: str
    bytes: int | None
    series: float | None
    step: float | None
    metric: float | None


@dataclass(frozen=True)
class Comparison:
    """All formats of a run.

    Args:
        rows: the run's own network, and the formats that it can have.
        refused: the others, together if they have the same reason, and the reason.
        steps: steps of the series whose time was taken.
        metric: name of the metric.
    """

    rows: tuple[Row, ...]
    refused: tuple[tuple[str, str], ...]
    steps: int
    metric: str


def compare_formats(
    source: Source, raw: tuple[Tensor, Tensor], on: str, begins: Callable[[str], object]
) -> Comparison:
    """Exports a run in every format, and measures each with one thread.

    Args:
        source: network.
        raw: series (inputs, lengths) to check the files on; the first is timed.
        on: description of these series.
        begins: called with the name of each format before it is measured.
    """
    first = raw[0][0, : int(raw[1][0])].float()
    task, p = _task(source), source.preparation
    # A file that takes past outputs as inputs cannot run free by itself.
    of_files = None if p is not None and p.lags else task
    refused: dict[str, list[str]] = {}
    with one_thread():
        begins("torch")
        times = network_times(source.model, _prepared(source, first))
        own = None if task is None else task.evaluate(calibrated_model(source), task.test, CPU)[1]
        rows = [Row("torch", None, *times, own)]
        for variant in VARIANTS:
            begins(variant.name)
            try:
                checked = export(source, variant.form, raw, on, variant.streaming, variant.weights)
            except UserError as error:
                refused.setdefault(str(error), []).append(variant.name)
                continue
            if variant.form == "safetensors":  # loaded, it is the network itself
                rows.append(replace(rows[0], name=variant.name, bytes=len(checked.content)))
            else:
                rows.append(_measured(source, variant, checked, first, of_files))
    metric = source.result.get("metric", "metric") if task is None else task.metric
    return Comparison(
        tuple(rows),
        tuple((", ".join(names), why) for why, names in refused.items()),
        len(first),
        metric,
    )


def _task(source: Source) -> Task | None:
    """The run's task; None if its files are not what they were."""
    return None if what_happened(source) else task_of(source.config)


def _prepared(source: Source, series: Tensor) -> Tensor:
    """A raw series (time, channel), prepared."""
    p = source.preparation
    if p is None:
        return series
    return p.inputs(Recordings((series.double().numpy(),), None, p.channels, shaped=True))[0][0]


def _measured(
    source: Source, variant: Variant, checked: Checked, first: Tensor, task: Task | None
) -> Row:
    """The row of a file that is no network of ours."""
    if variant.weights == "int8":
        source = replace(source, model=with_int8_weights(source.model))
    plain = PlainModel(source.model, source.preparation, source.loss)
    if variant.form != "c":
        content, beside = checked.content, checked.weights or b""
        if variant.form == "openvino":
            runner = openvino_runner(content, beside, first)
        elif variant.form == "torchscript":
            runner = torchscript_runner(content, first)
        elif variant.streaming:
            runner = onnx_step_runner(content, plain, first)
        else:
            runner = onnx_runner(content, first)
        return _row(variant, len(content) + len(beside), runner, plain, task)
    header = c_file(source, plain, "model", variant.weights)
    if header.program is None:
        return Row(variant.name, header.bytes, None, None, None)
    with header.program() as program:
        seconds = program.seconds(first)
        runner = Runner(program, seconds, seconds / len(first))
        return _row(variant, header.bytes, runner, plain, task)


def _row(variant: Variant, size: int, runner: Runner, plain: PlainModel, task: Task | None) -> Row:
    file = Exported(runner.answer, plain)
    metric = None if task is None else task.evaluate(file, task.test, CPU)[1]
    return Row(variant.name, size, runner.series, runner.step, metric)


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of a table."""
    own = comparison.rows[0].metric
    headings = ["format", "bytes", f"{comparison.steps} steps, µs", "a step, µs"]
    headings += [f"test {comparison.metric}", "change"]
    lines = []
    for row in comparison.rows:
        lost = None if row.metric is None or own is None else row.metric - own
        size = "–" if row.bytes is None else str(row.bytes)
        times = [_micro(row.series), _micro(row.step)]
        metrics = [_figure(row.metric, ".4g"), _figure(lost, "+.2g")]
        lines.append([row.name, size, *times, *metrics])
    return headings, lines


def caption(comparison: Comparison) -> str:
    """How the figures were measured."""
    return (
        f"Medians with one thread of {processor_name()}, at batch 1. torch is rnnopt's own network,"
        " which gets prepared series, and safetensors is loaded into it. The bytes of c are those"
        " of its weights in memory. The change is that of the metric against torch."
    )


def _micro(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return format(1e6 * seconds, ".3g" if seconds < 1e-3 else ".0f")


def _figure(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return format(value, form) if value else "0"
