"""The C header of a run's network, and what its comment and its card say."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rnnopt.runs.export.c_check import Program, compiler
from rnnopt.runs.export.c_comment import Description
from rnnopt.runs.export.c_header import to_c
from rnnopt.runs.export.formats import Weights
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.source import Facts, Source
from rnnopt.tasks.task import Loss


@dataclass(frozen=True)
class CFile:
    """A header.

    Args:
        content: its bytes.
        program: compiles it; None without a compiler.
        bytes: of its weights.
        sizes: what it takes in memory, for the card.
    """

    content: bytes
    program: Callable[[], Program] | None
    bytes: int
    sizes: Facts

    def answer(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Runs it on raw series, compiled."""
        assert self.program is not None
        with self.program() as program:
            return program(inputs, lengths)


def c_file(source: Source, model: PlainModel, name: str, weights: Weights = "float32") -> CFile:
    """The header of `model`, whose names begin with `name`, with matrices of that type.

    Raises:
        UserError: weights that are not finite.
    """
    header = to_c(model, name, _description(source), weights == "int8")
    command = compiler()
    program = partial(Program, command, header.text, name, model.pool) if command else None
    sizes = (
        ("bytes of weights", str(header.weights)),
        ("bytes of state", str(header.state)),
        ("bytes of arrays on the stack", str(header.stack)),
    )
    return CFile(header.text.encode(), program, header.weights, sizes)


# What an output of a task on board is, which has no names of classes.
MEANINGS: dict[Loss, str] = {
    "cross-entropy": "probability of class {}",
    "binary-cross-entropy": "probability of label {}",
    "binary-mse": "above 1/2 for the second class",
    "mse": "target {}",
}


def _description(source: Source) -> Description:
    p, width = source.preparation, source.settings["output_size"]
    if p is None:
        inputs = tuple(f"input {i} of the task, prepared" for i in range(source.model.input_size))
        meanings = [MEANINGS[source.loss].format(i) for i in range(width)]
    elif p.classes:
        inputs, meanings = p.channels, [f"probability of {one}" for one in p.classes]
    else:
        own = len(p.channels) - p.lags
        begun = [f"{one}, at first {p.mean[own + i]:.9g}" for i, one in enumerate(p.channels[own:])]
        inputs, meanings = (*p.channels[:own], *begun), list(p.outputs_named)
        meanings = meanings or [f"target {i + 1}" for i in range(width)]
    summary = f"{source.config.task}, {source.config.model}: {source.result.get('summary', '')}"
    return Description(f"the run {source.folder} ({summary})", inputs, tuple(meanings))
