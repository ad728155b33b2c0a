"""The network and the length of training that `--model auto` stands for, by the shape of the data.

Tasks on board keep an Elman network. For the user's own data the choice is a pure function of the
shape of the training series, so that the same data always have the same network. It was made by
measurement on series of 7 to 1,250 steps (docs/choosing.md). What the user asks for stays.
"""

from dataclasses import dataclass, replace
from typing import Any

from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.tasks import Task

AUTO, ON_BOARD = "auto", "rnn"
EPOCHS = "20epochs"  # unless a choice or the user says otherwise


@dataclass(frozen=True)
class Shape:
    """The shape of a task.

    Args:
        series: training series.
        steps: of the longest of them.
        channels: features of each step.
        outputs: classes, or numbers to predict.
        each_step: whether each step has its own target.
    """

    series: int
    steps: int
    channels: int
    outputs: int
    each_step: bool = False


@dataclass(frozen=True)
class Choice:
    """Settings of a run, by the names of `RunConfig`, and a sentence that says what and why."""

    settings: dict[str, Any]
    reason: str


def shape_of(task: Task) -> Shape:
    """The shape of a task."""
    every = task.readout == "every"
    return Shape(task.epoch_size, task.steps, task.input_size, task.output_size, every)


def choose(shape: Shape) -> Choice:
    """What to train on own data of a shape."""
    if shape.each_step:
        return Choice(dict(model=ON_BOARD), "an Elman network, for there is a target at each step")
    stride = stride_for(shape.steps)
    gradients = gradients_for(shape)
    settings = dict(
        model="indrnn",
        hidden=UNITS,
        layers=LAYERS,
        bidirectional=True,
        stem=f"{WIDTH * stride}/{stride}" if stride > 1 else f"{WIDTH}/1",
        batch_norm=True,
        dropout=0.1,
        readout="mean",
        budget=f"{gradients}gradients",
    )
    reason = (
        f"{LAYERS} bidirectional IndRNN layers of {UNITS} units with batch normalization, read out"
        f" at their mean, behind a convolution that makes {-(-shape.steps // stride)} steps of"
        f" {shape.steps}; {gradients} gradients"
    )
    return Choice(settings, reason)


UNITS, LAYERS, WIDTH = 64, 3, 2
STEPS = 100  # most steps that the recurrent layers get
GRADIENTS = (400, 1500)  # fewest and most


def stride_for(steps: int) -> int:
    """Stride of the stem, a power of two, that leaves at most STEPS steps."""
    stride = 1
    while steps > STEPS * stride:
        stride *= 2
    return stride


def gradients_for(shape: Shape) -> int:
    """Length of training: 100 epochs, within GRADIENTS."""
    fewest, most = GRADIENTS
    return max(fewest, min(most, 100 * shape.series // 32))


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
    budget = config.budget or left.get("budget", EPOCHS)
    return replace(config, **left | {"budget": budget}), choice.reason


def _may_choose(config: RunConfig) -> bool:
    """Whether the optimizer trains any network; ADMM has closed forms for plain ones alone."""
    return parse(config.optimizer)[0] != "admm"
