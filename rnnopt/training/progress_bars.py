"""Progress of training: bars in a terminal, and plain lines elsewhere, such as in a log file.

A bar shows loss, metric, speed and time left. A line has the same at each evaluation, without
colours, carriage returns or escape codes.
"""

import math
from typing import Any

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


class Lines(Progress):
    """A line on a console where a task begins with a note, and whenever it changes; draws nothing.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console):
        super().__init__(console=console, disable=True)
        self.told: dict[TaskID, str] = {}

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """As of a bar; prints the note, if there is one."""
        if fields.get("note"):
            self._print(f"{description}  {fields['note']}")
        return super().add_task(description, *args, **fields)

    def update(self, task_id: TaskID, *args: Any, **fields: Any) -> None:
        """As of a bar; prints the note if it is new."""
        super().update(task_id, *args, **fields)
        task, note = self.tasks[task_id], str(fields.get("note", ""))
        if note and self.told.get(task_id) != note:
            self.told[task_id] = note
            self._print(f"{task.description} {task.percentage:.0f}%  {note}")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def bars_on(console: Console, quiet: bool = False) -> Progress:
    """Bars with a description, the fraction done, the time left and a note; or `Lines`.

    Args:
        console: where to draw; one that is no terminal gets lines.
        quiet: whether to draw and to print nothing.
    """
    if not quiet and not console.is_interactive and not console.is_jupyter:
        return Lines(console)
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
    """Shows one run's progress: loss, metric, gradient evaluations per second, time left.

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
            if isinstance(self.bars, Lines):
                self.note = f"epoch {progress.epochs:.4g}  {self.note}"
        elif isinstance(self.bars, Lines) or self.calls % 10:
            return
        rate = progress.gradient_evaluations / progress.seconds if progress.seconds else 0.0
        note = f"{self.note}  {progress.gradient_evaluations:.6g} gradients, {rate:.0f}/s"
        self.bars.update(self.bar, completed=progress.fraction, note=note, visible=True)
