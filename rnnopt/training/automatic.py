"""The network and the length of training that `--model auto` stands for, by the shape of the data.

Tasks on board keep an Elman network. For the user's own data the choice is a pure function of the
shape of the training series, so that the same data always have the same network. It was made by
measurement on series of 7 to 1,250 steps (docs/choosing.md). What the user asks for stays.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.tasks import Task

AUTO, ON_BOARD = "auto", "rnn"
UNITS = 64
WARP = 0.2  # spread of the speeds of training series
STEPS = 100  # most steps that the recurrent layers get
# Together at most about a minute of one thread for a fit.
GRADIENTS, ROWS = 1000, 2_500_000
EPOCHS = "20epochs"  # unless a choice or the user says otherwise


@dataclass(frozen=True)
class Shape:
    """The shape of a task.

    Args:
        series: training series.
        steps: of the longest of them.
        channels: features of each step.
        outputs: classes, or numbers to predict.
        batch: series in a minibatch.
        each_step: whether each step has its own target.
        regression: whether targets are numbers.
    """

    series: int
    steps: int
    channels: int
    outputs: int
    batch: int = 16
    each_step: bool = False
    regression: bool = False


@dataclass(frozen=True)
class Choice:
    """Settings of a run, by the names of `RunConfig`, and a sentence that says what and why."""

    settings: dict[str, Any]
    reason: str


def shape_of(task: Task) -> Shape:
    """The shape of a task."""
    every = task.readout == "every"
    sizes = (task.epoch_size, task.steps, task.input_size, task.output_size, task.batch_size)
    return Shape(*sizes, each_step=every, regression=task.loss == "mse")


def choose(shape: Shape) -> Choice:
    """What to train on own data of a shape."""
    if shape.each_step:
        return Choice(dict(model="gru"), "a GRU, for there is a target at each step")
    stride, gradients = stride_for(shape.steps), gradients_for(shape)
    settings = dict(
        model="gru",
        hidden=UNITS,
        bidirectional=True,
        stem=f"{2 * stride}/{stride}",
        batch_norm=True,
        dropout=0.1,
        readout="mean",
        warp=None if shape.regression else WARP,
        refit=True,
        budget=f"{gradients}gradients",
    )
    reason = (
        f"a bidirectional GRU of {UNITS} units with batch normalization, read out at the mean of"
        f" its states, behind a convolution that makes {-(-shape.steps // stride)} steps of"
        f" {shape.steps}; {gradients} gradients"
    )
    reason += (
        "" if shape.regression else f" on series up to {math.expm1(WARP):.0%} faster or slower"
    )
    return Choice(settings, f"{reason}, then as many on training and validation series")


def stride_for(steps: int) -> int:
    """Stride of the stem, a power of two, that leaves at most STEPS steps."""
    stride = 1
    while steps > STEPS * stride:
        stride *= 2
    return stride


def gradients_for(shape: Shape) -> int:
    """Length of a fit: 100 epochs, but at most GRADIENTS minibatches and ROWS steps of series."""
    epochs = 100 * -(-shape.series // shape.batch)
    steps = -(-shape.steps // stride_for(shape.steps))
    return max(1, min(GRADIENTS, epochs, ROWS // (shape.batch * steps)))


def settled(config: RunConfig, task: Task) -> tuple[RunConfig, str]:
    """`config` without a setting that is left to `--model auto`, and what it chose for own data.

    Args:
        config: config of a run.
        task: its task.
    """
    if config.model != AUTO:
        return replace(config, budget=config.budget or EPOCHS), ""
    if task.data is None or not _may_choose(config):
        return replace(config, model=ON_BOARD, budget=config.budget or EPOCHS), ""
    choice = choose(shape_of(task))
    left = {n: v for n, v in choice.settings.items() if getattr(config, n) in (None, AUTO)}
    if config.tbptt is not None:  # whole sequences are not there
        left = {n: v for n, v in left.items() if n not in ("bidirectional", "stem", "readout")}
    if config.readout == "every":
        left.pop("stem", None)
    if str(parse(config.optimizer)[1].get("schedule", config.schedule)).startswith("plateau"):
        left.pop("refit", None)  # nothing would be left to validate on
    budget = config.budget or left.get("budget", EPOCHS)
    return replace(config, **left | {"budget": budget}), choice.reason


def _may_choose(config: RunConfig) -> bool:
    """Whether the optimizer trains any network; ADMM has closed forms for plain ones alone."""
    return parse(config.optimizer)[0] != "admm"
