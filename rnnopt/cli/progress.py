"""Progress bars of many runs, drawn from their run folders."""

import threading

from rich.progress import Progress, TaskID

from rnnopt.experiments.executors import Crew
from rnnopt.experiments.worker_pool import Job
from rnnopt.runs.folder import UNFINISHED, RunFolder


def update_job_bars(bars: Progress, all_bars: dict[str, TaskID], jobs: list[Job]) -> None:
    """Draws one bar an optimizer from the run folders of its seeds."""
    for optimizer, bar in all_bars.items():
        mine = [job.path for job in jobs if job.config.optimizer == optimizer]
        fractions, metrics = [], []
        for path in mine:
            records = RunFolder(path).read_records()
            if records:
                status = RunFolder(path).read_result()["status"]
                fractions.append(records[-1]["fraction"] if status in UNFINISHED else 1.0)
                metrics.append(records[-1]["validation_metric"])
        if metrics:
            note = (
                f"validation {sum(metrics) / len(metrics):.4f} ({len(metrics)}/{len(mine)} seeds)"
            )
            bars.update(bar, completed=sum(fractions) / len(mine), note=note)


def update_stage_bar(bars: Progress, bar: TaskID, jobs: list[Job]) -> None:
    """Draws one bar for all jobs of a stage, a finished one counting as whole."""
    over, fraction = 0, 0.0
    for job in jobs:
        folder = RunFolder(job.path)
        made_elsewhere = (job.path / "elsewhere.json").exists()  # and so are its weights
        if made_elsewhere or (job.path / "best.pt").exists():
            over += 1
            fraction += 1
        elif (job.path / "metrics.jsonl").exists():
            records = folder.read_records()
            fraction += records[-1]["fraction"] if records else 0.0
    bars.update(bar, completed=fraction / len(jobs), note=f"{over} of {len(jobs)} runs")


class BarRunner:
    """Does jobs in processes, and draws how far they are.

    Args:
        bars: where to draw.
        workers: processes at once.
        stop: set when the work shall end.
        crew: who does it.
    """

    def __init__(self, bars: Progress, workers: int, stop: threading.Event, crew: Crew):
        self.bars, self.workers, self.stop, self.crew = bars, workers, stop, crew

    def stage(self, name: str, jobs: list[Job]) -> list[str]:
        """Does jobs under one bar; a sentence for each that failed."""
        bar = self.bars.add_task(name, total=1.0, note="")
        count = min(self.workers, len(jobs))
        return self.crew.work(
            jobs, count, lambda now: update_stage_bar(self.bars, bar, now), self.stop
        )

    def runs(self, jobs: list[Job]) -> list[str]:
        """The same under a bar for each optimizer."""
        if not jobs:
            return []
        optimizers = dict.fromkeys(job.config.optimizer for job in jobs)
        all_bars = {o: self.bars.add_task(o, total=1.0, note="") for o in optimizers}

        def tell(jobs: list[Job]) -> None:
            update_job_bars(self.bars, all_bars, jobs)

        failures = self.crew.work(jobs, min(self.workers, len(jobs)), tell, self.stop)
        tell(jobs)
        return failures
