"""What a network looks at: how much worse it is when a channel, or a part of time, is shuffled.

Each series of the test data gets the values of one channel from another series (a cycle through all
in random order, so that none keeps its own), and the metric is taken again. Breiman, "Random
Forests", 2001; of a part of time all channels are exchanged. Where lengths differ, the other
series is read at the same share of its length. A single series is rotated in time instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import Tensor, nn

from rnnopt.config import seeds
from rnnopt.config.metric_names import lower_is_better
from rnnopt.report.style import short
from rnnopt.tasks import Task
from rnnopt.tasks.examples import Examples, select
from rnnopt.tasks.pieces import width

REPEATS = 5
BLOCKS = 10  # of time, of equal length
MOST_CHANNELS = 100
FEWEST, MOST_SERIES = 20, 500
WORK = 3e9  # numbers that the widest layer should take in all: about ten seconds
LIMIT = 5  # times as many for the fewest series: beyond it nothing is shown


@dataclass(frozen=True)
class Bar:
    """A channel or part of time.

    Args:
        name: its name.
        drop: how much worse the metric is without it, mean over the repeats.
        spread: deviation of the drop over the repeats.
    """

    name: str
    drop: float
    spread: float


@dataclass(frozen=True)
class Importance:
    """How much a network's metric depends on channels and parts of time.

    Args:
        metric: name of the metric.
        whole: the metric on these series as they are.
        series, of: number of series taken, and of all test series.
        channels: the most important first; empty for a single channel.
        blocks: parts of time in order; empty with targets at every step.
    """

    metric: str
    whole: float
    series: int
    of: int
    channels: list[Bar]
    blocks: list[Bar]


@dataclass(frozen=True)
class Drawn:
    """A bar in units of the drawing, 0 … 100 from its left end to its right.

    Args:
        bar: what it shows.
        left, right: its ends; one of them is where nothing changes.
        low, high: ends of the line of its spread.
        zero: where nothing changes.
        text: its figures.
    """

    bar: Bar
    left: float
    right: float
    low: float
    high: float
    zero: float
    text: str


def in_scale(bars: Sequence[Bar]) -> list[Drawn]:
    """Bars in one scale, which shows all of them and zero."""
    ends = [end for bar in bars for end in (bar.drop - bar.spread, bar.drop + bar.spread)]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    unit = 100 / ((high - low) or 1.0)

    def place(value: float) -> float:
        return round(unit * (min(max(value, low), high) - low), 2) if value == value else 0.0

    return [
        Drawn(
            bar,
            min(place(0), place(bar.drop)),
            max(place(0), place(bar.drop)),
            place(bar.drop - bar.spread),
            place(bar.drop + bar.spread),
            place(0),
            f"{short(bar.drop)} ± {short(bar.spread)}".replace("-", "−"),
        )
        for bar in bars
    ]


def importance(task: Task, model: nn.Module, seed: int = 0) -> Importance | None:
    """The importance of channels and time of a run on the user's own data, on its test series.

    Args:
        task: task of the run.
        model: its network in evaluation mode, on the CPU.
        seed: seed of the run.

    Returns:
        None for other tasks, with too many channels or steps, and where the metric cannot be
        taken.
    """
    if task.data is None:
        return None
    p = task.data.preparation
    names = p.channels[: len(p.channels) - p.lags]
    names = names if len(names) > 1 else ()
    blocks = 0 if task.readout == "every" else min(BLOCKS, task.test.steps)
    if len(names) > MOST_CHANNELS or not (names or blocks > 1):
        return None
    generator = torch.Generator().manual_seed(seed + seeds.IMPORTANCE)
    count = 1 + REPEATS * (len(names) + blocks)
    work = count * width(model, task.input_size) * task.test.steps
    if work * min(FEWEST, len(task.test)) > LIMIT * WORK:
        return None
    part = _part(task.test, work, generator)
    shuffled = Shuffled(task, model, part, generator)
    try:
        channels = [shuffled.bar(name, i, None) for i, name in enumerate(names)]
        parts = [shuffled.bar(_block_name(b, blocks), None, (b, blocks)) for b in range(blocks)]
    except ValueError:  # such as an area under the curve of series of one class
        return None
    channels.sort(key=lambda bar: -bar.drop)
    return Importance(task.metric, shuffled.whole, len(part), len(task.test), channels, parts)


def _part(examples: Examples, work: float, generator: torch.Generator) -> Examples:
    """Examples drawn at random, as many as there is time for, at so much work for each."""
    most = min(MOST_SERIES, max(FEWEST, int(WORK / work)))
    if len(examples) <= most:
        return examples
    return select(examples, torch.randperm(len(examples), generator=generator)[:most])


def _block_name(block: int, blocks: int) -> str:
    return f"{100 * block // blocks} … {100 * (block + 1) // blocks} %"


class Shuffled:
    """Some examples, of which channels or parts of time are taken from others.

    Args:
        task: task of the examples.
        model: network that is evaluated.
        examples: the examples.
        generator: source of the order.
    """

    def __init__(
        self, task: Task, model: nn.Module, examples: Examples, generator: torch.Generator
    ):
        self.task, self.model, self.examples, self.generator = task, model, examples, generator
        lengths = examples.lengths
        if lengths is None:
            lengths = torch.full((len(examples),), examples.steps)
        self.lengths = lengths
        own = examples.inputs.ndim == 2
        starts = lengths.cumsum(0) - lengths if own else torch.arange(len(lengths)) * examples.steps
        self.flat = examples.inputs.reshape(-1, examples.inputs.shape[-1])
        which = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        self.step = torch.arange(len(which)) - (lengths.cumsum(0) - lengths)[which]
        self.which, self.starts = which, starts
        self.place = starts[which] + self.step  # of each true step in `flat`
        self.whole = self._metric(self.flat)

    def bar(self, name: str, channel: int | None, block: tuple[int, int] | None) -> Bar:
        """How much worse the metric is without a channel (None: all) in a block (None: always)."""
        sign = 1 if lower_is_better(self.task.metric) else -1
        drops = [sign * (self._once(channel, block) - self.whole) for _ in range(REPEATS)]
        return Bar(name, mean(drops), stdev(drops))

    def _once(self, channel: int | None, block: tuple[int, int] | None) -> float:
        mine, source = self.place, self._other()
        if block is not None:
            number, blocks = block
            inside = self.step * blocks // self.lengths[self.which] == number
            mine, source = mine[inside], source[inside]
        flat = self.flat.clone()
        if channel is None:
            flat[mine] = self.flat[source]
        else:
            flat[mine, channel] = self.flat[source, channel]
        return self._metric(flat)

    def _other(self) -> Tensor:
        """For each true step the place in `flat` of a step of another series."""
        count = len(self.lengths)
        if count == 1:
            length = int(self.lengths[0])
            by = int(torch.randint(1, max(2, length), (1,), generator=self.generator))
            return self.starts[0] + (self.step + by) % length
        order = torch.randperm(count, generator=self.generator)
        donor = torch.empty_like(order)
        donor[order] = order.roll(1)
        donors = donor[self.which]
        scaled = self.step * self.lengths[donors] // self.lengths[self.which]
        return self.starts[donors] + scaled

    def _metric(self, flat: Tensor) -> float:
        examples = replace(self.examples, inputs=flat.view(self.examples.inputs.shape))
        return self.task.evaluate(self.model, examples, torch.device("cpu"))[1]
