"""The model card of an exported network: its use, training data, quality and limits."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rnnopt.config.metric_names import is_error
from rnnopt.config.specs import is_import_path, parse
from rnnopt.config.version import VERSION
from rnnopt.runs.calibration import line_of
from rnnopt.runs.export.c_comment import identifier, usage
from rnnopt.runs.export.comparison import Comparison, caption, cells
from rnnopt.runs.export.export import ALLOWED, Checked
from rnnopt.runs.export.formats import Format, Weights
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.source import Source
from rnnopt.runs.export.step_states import states_of
from rnnopt.tasks.names import for_markdown
from rnnopt.training.registry import lr_of
from rnnopt.training.resolve import resolve

LOAD: dict[str, str] = {
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
series = np.zeros((1, {steps}, {width}), np.float32)  # (batch, time, channel), raw
lengths = np.array([{steps}])  # true steps of each
(answers,) = session.run(None, {{"inputs": series, "lengths": lengths}})""",
    "openvino": """import numpy as np
import openvino

core = openvino.Core()  # {file} needs its .bin file beside it
# Without the hint it computes in bfloat16 where the processor has it.
model = core.compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
series = np.zeros((1, {steps}, {width}), np.float32)  # (batch, time, channel), raw
lengths = np.array([{steps}])  # true steps of each
answers = model({{"inputs": series, "lengths": lengths}})["answers"]""",
    "executorch": """import torch
from executorch.runtime import Runtime

method = Runtime.get().load_program("{file}").load_method("forward")
series = torch.zeros(1, {steps}, {width})  # (1, time, channel), raw; always of {steps} steps
(answers,) = method.execute([series])""",
    "torchscript": """import torch

model = torch.jit.load("{file}")
series = torch.zeros(1, {steps}, {width})  # (batch, time, channel), raw
answers = model(series, torch.tensor([{steps}]))  # and the true steps of each""",
    "safetensors": """import json

import torch
from rnnopt import SequenceModel
from safetensors import safe_open

with safe_open("{file}", "pt") as file:
    note = {{name: json.loads(text) for name, text in file.metadata().items()}}
    model = SequenceModel(**note["model"])
    model.load_state_dict({{name: file.get_tensor(name) for name in file.keys()}})
model.eval()
# (time, batch, channel), prepared as note["preparation"] says
series = torch.zeros({steps}, 1, {width})
outputs = model(series)  # before softmax, standardised""",
}
LOAD_STREAMING = """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
# One state for each input but the first; zeros at the beginning of a sequence.
sizes = {{state.name: state.shape[1] for state in session.get_inputs()[1:]}}
states = {{name: np.zeros((1, size), np.float32) for name, size in sizes.items()}}
for _ in range({steps}):
    inputs = np.zeros((1, {width}), np.float32)  # (batch, channel), raw: what your sensor says now
    answers, *following = session.run(None, {{"inputs": inputs, **states}})
    states = dict(zip(states, following))"""
SETTINGS = (
    "model", "optimizer", "lr", "budget", "batch_size", "hidden", "layers", "bidirectional",
    "stem", "readout", "dropout", "batch_norm", "schedule", "clip", "tbptt", "seed",
)  # fmt: skip


def model_card(
    source: Source,
    form: Format,
    file: str,
    checked: Checked,
    streaming: bool = False,
    weights: Weights = "float32",
    compared: Comparison | None = None,
) -> str:
    """The card as Markdown.

    Args:
        source: network.
        form: format of the file.
        file: name of the file.
        checked: what the check found.
        streaming: whether the file takes one step at a time.
        weights: type of the stored weights.
        compared: all formats, if they were measured.
    """
    config, result = source.config, source.result
    stepwise = streaming or form == "c"
    sections = [
        f"# {config.task}: {config.model}",
        f"A recurrent network trained with rnnopt {VERSION}:"
        f" {result.get('summary', '')}."
        f" File: `{file}` ({form}{', one step at a time' if stepwise else ''}"
        f"{', weights in int8' if weights == 'int8' else ''}).",
        "## Answers\n\n" + answers(source, form),
        *(["## States\n\n" + states(source)] if streaming else []),
        "## How to load it\n\n" + example(source, form, file, streaming),
        "## How good it is\n\n" + table(("what", "figure"), [*metrics(result), *checked.facts]),
        check_found(checked, stepwise, weights),
        *(["## Formats\n\n" + formats(compared)] if compared else []),
        "## Data\n\n" + table(("what", "found"), data_rows(source)),
        "## Training\n\n" + table(("setting", "value"), settings_used(source)),
        "## Limits\n\n"
        + "\n".join(f"- {limit}" for limit in limits(source, form, checked, stepwise)),
    ]
    return "\n\n".join(sections) + "\n"


def example(source: Source, form: Format, file: str, streaming: bool) -> str:
    """A block of code that uses the file."""
    p, language = source.preparation, "python"
    if form == "c":
        lines = usage(identifier(Path(file).stem), p.subsample if p else 1)
        code, language = "\n".join([f'#include "{file}"', "", *lines]), "c"
    else:
        steps = p.longest if p else source.settings["steps"]
        text = LOAD_STREAMING if streaming else LOAD[form]
        code = text.format(file=file, steps=steps, width=source.settings["input_size"])
    return f"```{language}\n{code}\n```"


def formats(compared: Comparison) -> str:
    """What was measured of all formats."""
    headings, lines = cells(compared)
    refused = [f"Not {name}: {for_markdown(why)}" for name, why in compared.refused]
    return "\n\n".join([table(headings, lines), caption(compared), *refused])


def check_found(checked: Checked, stepwise: bool, weights: Weights) -> str:
    """What the check before the export found."""
    if checked.difference is None:
        return (
            "Not checked: no C compiler whose programs run was found where it was exported."
            " Compare its answers with those of `rnnopt predict`."
        )
    of = "the run's network" + (" with weights rounded to int8" if weights == "int8" else "")
    return (
        f"Checked{' at every step' if stepwise else ''}: on {checked.series} {checked.on} its"
        f" answers differ from those of {of} by {checked.difference:.2g} at most ({ALLOWED:g} is"
        " allowed, beside the rounding of numbers to float32)."
    )


def answers(source: Source, form: Format) -> str:
    """The meaning of its outputs."""
    p = source.preparation
    if form == "safetensors":
        return "The weights alone; normalisation and class names are in the metadata, as JSON."
    if p is not None and p.each_step:
        names = ", ".join(map(for_markdown, p.classes or p.outputs_named))
        what = (
            "A probability for each class" if p.classes else "Numbers at the scale of the targets"
        )
        return f"{what} at every step, (batch, time, output), in this order: {names}."
    if p is None:
        return "Probabilities of the classes, in the order of the task, or numbers."
    if p.kind == "multilabel":
        names = ", ".join(map(for_markdown, p.classes))
        return f"A probability for each label, in this order: {names}."
    if p.kind == "classification":
        names = ", ".join(map(for_markdown, p.classes))
        return f"A probability for each class, in this order: {names}."
    return f"{p.outputs} number(s), at the scale of the targets."


def metrics(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The final metrics of the run."""
    name = result.get("metric", "metric")
    best = result.get("best") or {}
    rows = [
        (f"test {name}", _figure(result.get("test_metric"))),
        ("test loss", _figure(result.get("test_loss"))),
        (f"validation {name}, which chose these weights", _figure(best.get("validation_metric"))),
        ("gradient evaluations", _figure(result.get("gradient_evaluations"))),
        ("seconds of training", _figure(result.get("seconds"))),
    ]
    if is_error(name) and "test_metric" in result:
        unit = "variance" if name == "mse" else "deviation"
        rows.append(
            (f"unit of {name}", f"the {unit} of the training targets, if they were normalised")
        )
    return rows


def data_rows(source: Source) -> list[tuple[str, str]]:
    """The known facts about the data."""
    rows = list(source.data.get("understood", {}).items()) or [("task", source.config.task)]
    for role, file in source.data.get("sources", {}).items():
        rows.append((f"{role} file", f"{file['path'].rpartition('/')[2]}, sha256 {file['sha256']}"))
    return rows


def states(source: Source) -> str:
    """The states of a graph of one step."""
    rows = [
        (f"`{one.name}` → `next_{one.name}`", f"(batch, {one.width}): {one.meaning}")
        for one in states_of(PlainModel(source.model, source.preparation, source.loss))
    ]
    return (
        "One call is one step: it takes `inputs` (batch, channel) and the states, and gives"
        " `answers` (batch, output), the answers to the sequence so far, and the next states."
        " Begin each sequence with zeros; then give what the call before gave.\n\n"
        + table(("state", "what it is"), rows)
    )


def limits(source: Source, form: Format, checked: Checked, stepwise: bool = False) -> list[str]:
    """The limits of the network."""
    p = source.preparation
    found = [
        "One run with one seed: another would end a little higher or lower.",
        "The figures hold for data of the same kind as the training data, and for no other.",
        "Weights were chosen by the validation series; the test series chose nothing"
        + (", but were evaluated during training." if source.config.watch_test else "."),
    ]
    if p is None:
        return [*found, "Inputs must be given as the task gives them, already normalised."]
    if p.kind == "classification":
        found.append("It names one of its classes whatever it is given.")
    if p.kind != "regression":
        found.append(_calibration(source, form))
    if p.shortest == p.longest:
        found.append(f"It has seen series of {p.longest} steps alone.")
    else:
        found.append(f"It has seen series of {p.shortest} to {p.longest} steps.")
    if stepwise:
        found.append("It answers from the first step on; how good answers to a part of a sequence"
                     " are was not measured.")  # fmt: skip
        found.append("A missing value that is not filled stays in the states: begin anew.")
        if source.model.readout == "mean":
            found.append("Sum and count of its states are float32: after 16 million steps the"
                         " count stops.")  # fmt: skip
    if checked.rounding > ALLOWED:
        found.append(f"Rounding of series and answers to float32 can move an answer by"
                     f" {checked.rounding:.2g}.")  # fmt: skip
    if form in ("onnx", "openvino"):
        found.append("OpenVINO computes in bf16 where the processor has it, unless"
                     " INFERENCE_PRECISION_HINT=f32 is set.")  # fmt: skip
    if form == "executorch":
        found.append(f"It takes one series of {p.longest} steps at a time, no other length.")
    if form == "openvino":
        found.append("It was compared with that setting, on the processor.")
    if form == "safetensors":
        found.append("Series must be prepared as in training before they are given to it.")
    elif p.missing == "error":
        found.append("Missing values were refused in training: give it none.")
    elif p.missing == "interpolate":
        found.append("Missing values were interpolated in training; do so before it is called.")
    else:
        found.append(f"Missing values (NaN) are filled by {p.missing}, as in training.")
    return found


def _calibration(source: Source, form: Format) -> str:
    """What the probabilities are worth."""
    found, p = source.result.get("calibration"), source.preparation
    if found is None or p is None:
        return "Probabilities are not calibrated."
    said = line_of(found)
    where = f"; divide outputs by {p.temperature:.9g}" if form == "safetensors" else ""
    return f"Probabilities were {said}{where}."


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    lines += [f"| {' | '.join(for_markdown(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def settings_used(source: Source) -> list[tuple[str, str]]:
    """The settings of the run, with the values that its optimizer or task filled in."""
    config = resolve(source.config)
    name, options = parse(config.optimizer)
    used = {n: getattr(config, n) for n in SETTINGS}
    used["optimizer"] = source.config.optimizer
    if used["lr"] is None and not is_import_path(name):  # a card imports no foreign code
        used["lr"] = options.get("lr", lr_of(name))
    used["hidden"] = source.settings["hidden_size"]
    for n in ("layers", "readout", "dropout"):
        used[n] = source.settings.get(n, used[n])
    if used["layers"] is None:
        used["layers"] = 1
    return [(n, _setting(value)) for n, value in used.items()]


def _setting(value: object) -> str:
    return "its default" if value is None else str(value)


def _figure(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.6g}"
