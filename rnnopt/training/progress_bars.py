"""Progress bars in the terminal: a training run's loss, metric, speed and time left."""

import math

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from rnnopt.training.loop import Progress as TrainingProgress


class Bars(Progress):
    """Bars of rich, without the empty line in a file if no bar was drawn."""

    def stop(self) -> None:
        if self.console.is_interactive or any(task.visible for task in self.tasks):
            super().stop()
        else:
            self.live.stop()


def bars_on(console: Console, quiet: bool = False) -> Progress:
    """Bars with a description, the fraction done, the time left and a note."""
    return Bars(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(max_width=28, no_wrap=True),
        ),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=quiet,
    )


class RunProgressBar:
    """Draws one run's progress: loss, metric, gradient evaluations per second, time left.

    Args:
        bars, bar: the bars, and the one to update.
        evaluated_on: name of the set on which the metric is evaluated.
    """

    def __init__(self, bars: Progress, bar: TaskID, evaluated_on: str = "validation"):
        self.bars, self.bar, self.evaluated_on = bars, bar, evaluated_on
        self.note, self.moved, self.calls = "", False, 0

    def __call__(self, progress: TrainingProgress) -> None:
        self.moved, self.calls = True, self.calls + 1
        if progress.record:
            loss = progress.record["train_loss"]
            shown = "" if math.isnan(loss) else f"loss {loss:.4g}  "
            self.note = f"{shown}{self.evaluated_on} {progress.record['validation_metric']:.4f}"
        elif self.calls % 10:
            return
        rate = progress.gradient_evaluations / progress.seconds if progress.seconds else 0.0
        note = f"{self.note}  {progress.gradient_evaluations:.6g} gradients, {rate:.0f}/s"
        self.bars.update(self.bar, completed=progress.fraction, note=note, visible=True)
