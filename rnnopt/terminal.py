"""What the verbs share to show things: two consoles, progress bars, JSON for scripts."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from rnnopt import comparison
from rnnopt import run_folder as folders
from rnnopt.tasks import download
from rnnopt.training import Progress as TrainingProgress

AsJson = Annotated[bool, tyro.conf.arg(name="json")]  # an option of many verbs
console = Console()
errors = Console(stderr=True)
given: set[str] = set()  # options on the command line, by field name


def say(text: str) -> None:
    """Prints a line as it is: no markup, no colours, no breaks."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Prints a line on standard error, in red where there are colours."""
    errors.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


def for_script(value: dict[str, Any]) -> None:
    """Prints one JSON object on standard output, though the console be quiet."""
    print(json.dumps(_plain(value)))


def _plain(value: Any) -> Any:
    """`value` as JSON has it: null for what is no finite number, text for a path."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


class Show:
    """Draws one run's progress: loss, metric, evaluations a second, time left."""

    def __init__(self, bars: Progress, bar: TaskID):
        self.bars, self.bar, self.note, self.moved, self.calls = bars, bar, "", False, 0

    def __call__(self, progress: TrainingProgress) -> None:
        self.moved, self.calls = True, self.calls + 1
        if progress.record:
            loss = progress.record["train_loss"]
            shown = "" if math.isnan(loss) else f"loss {loss:.4g}  "
            self.note = f"{shown}validation {progress.record['validation_metric']:.4f}"
        elif self.calls % 10:
            return
        rate = progress.evaluations / progress.seconds if progress.seconds else 0.0
        note = f"{self.note}  {progress.evaluations:.6g} evaluations, {rate:.0f}/s"
        self.bars.update(self.bar, completed=progress.fraction, note=note, visible=True)


def tell_jobs(bars: Progress, all_bars: dict[str, TaskID], jobs: list[comparison.Job]) -> None:
    """Draws one bar an optimizer from the run folders of its seeds."""
    for optimizer, bar in all_bars.items():
        mine = [job.path for job in jobs if job.config.optimizer == optimizer]
        fractions, metrics = [], []
        for path in mine:
            records = folders.RunFolder(path).read_records()
            if records:
                status = folders.RunFolder(path).read_result()["status"]
                unfinished = status in ("running", "interrupted", "failed")
                fractions.append(records[-1]["fraction"] if unfinished else 1.0)
                metrics.append(records[-1]["validation_metric"])
        if metrics:
            note = (
                f"validation {sum(metrics) / len(metrics):.4f} ({len(metrics)}/{len(mine)} seeds)"
            )
            bars.update(bar, completed=sum(fractions) / len(mine), note=note)


def tell_stage(bars: Progress, bar: TaskID, jobs: list[comparison.Job]) -> None:
    """Draws one bar for all jobs of a stage, a finished one counting as whole."""
    over, fraction = 0, 0.0
    for job in jobs:
        folder = folders.RunFolder(job.path)
        if (job.path / "best.pt").exists():
            over += 1
            fraction += 1
        elif (job.path / "metrics.jsonl").exists():
            records = folder.read_records()
            fraction += records[-1]["fraction"] if records else 0.0
    bars.update(bar, completed=fraction / len(jobs), note=f"{over} of {len(jobs)} runs")


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def new_folder(name: str) -> Path:
    """runs/NAME, with a number behind it if that is taken."""
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def progress_bars(quiet: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description}", table_column=Column(max_width=28, no_wrap=True)),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=errors,
        disable=quiet,
    )


@contextmanager
def download_bar() -> Iterator[None]:
    """Draws downloads while the command runs; nothing as long as there is none."""
    bars = progress_bars()
    bar: dict[str, TaskID] = {}

    def listener(name: str, done: int, total: int) -> None:
        bars.start()
        if name not in bar:
            bar[name] = bars.add_task(name, total=total, note="download")
        bars.update(bar[name], completed=done)

    before, download.listener = download.listener, listener
    try:
        yield
    finally:
        download.listener = before
        if bar:
            bars.stop()
