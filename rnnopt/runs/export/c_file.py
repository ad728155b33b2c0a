"""The C header of a run's network, and what its comment and its card say."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rnnopt.runs.export.c_check import answers_in_c, compiler
from rnnopt.runs.export.c_comment import Description
from rnnopt.runs.export.c_header import to_c
from rnnopt.runs.export.formats import Answer
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.source import Source


@dataclass(frozen=True)
class CFile:
    """A header.

    Args:
        content: its bytes.
        answer: runs it on raw series, compiled; None without a compiler.
        sizes: what it takes in memory, for the card.
    """

    content: bytes
    answer: Answer | None
    sizes: tuple[tuple[str, str], ...]


def c_file(source: Source, model: PlainModel, name: str) -> CFile:
    """The header of `model`, whose names begin with `name`.

    Raises:
        UserError: weights that are not finite.
    """
    header = to_c(model, name, _description(source))
    command = compiler()
    answer: Any = command and partial(answers_in_c, command, header.text, name, model.pool)
    sizes = (
        ("bytes of weights", str(header.weights)),
        ("bytes of state", str(header.state)),
        ("bytes of arrays on the stack", str(header.stack)),
    )
    return CFile(header.text.encode(), answer, sizes)


def _description(source: Source) -> Description:
    p = source.preparation
    outputs = range(source.settings["output_size"])
    kind = "number" if source.loss in ("mse", "binary-mse") else "probability"
    if p is None:
        inputs = tuple(
            f"input {i}, prepared as by the task" for i in range(source.model.input_size)
        )
        meanings = [f"{kind} {i}" for i in outputs]
    else:
        inputs = p.channels
        names = p.classes or p.outputs_named or [f"target {i + 1}" for i in outputs]
        # Forecasts have an output for each channel and step ahead.
        meanings = [f"probability of {one}" if p.classes else one for one in names]
    summary = f"{source.config.task}, {source.config.model}: {source.result.get('summary', '')}"
    return Description(f"the run {source.folder} ({summary})", inputs, tuple(meanings))
