"""Progress bars of many runs: how far each is, by its last news or its folder, and its worker."""

import threading
from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress, TaskID

from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.runs.folder import UNFINISHED, RunFolder

ROWS = 12  # runs under way that are shown one by one

State = tuple[float, float | None]  # fraction of the budget, last validation metric


class Board:
    """Draws bars of jobs, and below them a row for each run under way.

    Args:
        bars: where to draw.
    """

    def __init__(self, bars: Progress):
        self.bars = bars
        self._rows: dict[Path, TaskID] = {}
        self._read = dict[tuple[Path, bool], State]()  # folders, when a run begins or ends

    def state(self, job: Job) -> State:
        """How far a run is."""
        if job.live.record and not job.live.over:
            return job.live.record["fraction"], job.live.record["validation_metric"]
        key, folder = (job.path, job.live.over), RunFolder(job.path)
        if key not in self._read:
            records = folder.read_records() if (job.path / "config.json").exists() else []
            self._read[key] = 0.0, None
            if records:
                over = folder.read_result()["status"] not in UNFINISHED
                fraction = 1.0 if over else records[-1]["fraction"]
                self._read[key] = fraction, records[-1]["validation_metric"]
        return self._read[key]

    def draw_stage(self, bar: TaskID, jobs: list[Job]) -> None:
        """Draws one bar for all jobs of a stage."""
        fractions = [self.state(job)[0] for job in jobs]
        over = sum(fraction == 1.0 for fraction in fractions)
        note = f"{over} of {len(jobs)} runs"
        self.bars.update(bar, completed=sum(fractions) / len(jobs), note=note)
        self.draw_rows(jobs)

    def draw_optimizers(self, all_bars: dict[str, TaskID], jobs: list[Job]) -> None:
        """Draws one bar an optimizer for the runs of its seeds."""
        for optimizer, bar in all_bars.items():
            mine = [self.state(job) for job in jobs if job.config.optimizer == optimizer]
            metrics = [metric for _, metric in mine if metric is not None]
            if metrics:
                mean = sum(metrics) / len(metrics)
                note = f"validation {mean:.4f} ({len(metrics)}/{len(mine)} seeds)"
                done = sum(fraction for fraction, _ in mine) / len(mine)
                self.bars.update(bar, completed=done, note=note)
        self.draw_rows(jobs)

    def draw_rows(self, jobs: list[Job]) -> None:
        """Draws the runs under way: best metric, gradient evaluations per second, worker."""
        if not self.bars.console.is_interactive:  # which gets lines, and bars that stay
            return
        under_way = [job for job in jobs if job.live.worker and not job.live.over][:ROWS]
        for path in self._rows.keys() - {job.path for job in under_way}:
            self.bars.remove_task(self._rows.pop(path))
        for job in under_way:
            if job.path not in self._rows:
                name = f"  {job.path.parent.name} {job.path.name}"
                self._rows[job.path] = self.bars.add_task(name, total=1.0, note="")
            live = job.live
            best = "" if live.best is None else f"best {live.best:.4f}  {live.rate:.0f}/s  "
            worker = live.worker.partition("://")[2]
            self.bars.update(
                self._rows[job.path], completed=self.state(job)[0], note=f"{best}{worker}"
            )


class BarRunner:
    """Does jobs on a cluster, and draws how far they are.

    Args:
        bars: where to draw.
        engine: executes the jobs.
        stop: set when the work shall end.
    """

    def __init__(self, bars: Progress, engine: Engine, stop: threading.Event):
        self.bars, self.engine, self.stop = bars, engine, stop

    def stage(self, name: str, jobs: list[Job]) -> list[str]:
        """Does jobs under one bar; a sentence for each that failed."""
        bar, board = self.bars.add_task(name, total=1.0, note=""), Board(self.bars)
        return self._do(jobs, lambda now: board.draw_stage(bar, now))

    def runs(self, jobs: list[Job]) -> list[str]:
        """The same under a bar for each optimizer."""
        optimizers = dict.fromkeys(job.config.optimizer for job in jobs)
        all_bars = {o: self.bars.add_task(o, total=1.0, note="") for o in optimizers}
        board = Board(self.bars)
        return self._do(jobs, lambda now: board.draw_optimizers(all_bars, now))

    def _do(self, jobs: list[Job], tell: Callable[[list[Job]], None]) -> list[str]:
        if not jobs:
            return []
        failures = self.engine.work(jobs, tell, self.stop)
        tell(jobs)
        return failures
