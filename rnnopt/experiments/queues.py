"""Queues of runs, from which the engine takes and to which it reports."""

from collections import deque

from rnnopt.config.errors import UserError
from rnnopt.experiments.job import Job
from rnnopt.runs.folder import RunFolder


class Queue:
    """Jobs in their order, each once, without those that are finished.

    Args:
        jobs: the jobs.
    """

    def __init__(self, jobs: list[Job]):
        self.failures: list[str] = []
        self._waiting = deque(job for job in jobs if not self._finished(job))

    def _finished(self, job: Job) -> bool:
        """Whether a run is in its folder, complete; a damaged one is a failure."""
        if not (job.path / "config.json").exists() or not RunFolder(job.path).is_over():
            return False
        try:
            RunFolder(job.path).read_records()
        except UserError as error:
            self.failures.append(f"{job.path}: {error}")
        return True

    def poll(self) -> None:
        """Called a few times per second."""

    def left(self) -> int:
        """Number of jobs to begin now or later."""
        return len(self._waiting)

    def take(self) -> Job | None:
        """A job to begin now, or None."""
        return self._waiting.popleft() if self._waiting else None

    def record(self, job: Job, record: dict[str, float]) -> bool:
        """Receives an evaluation of a job; returns whether to interrupt the job."""
        return False

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Receives the end of a job: finished, failed or interrupted."""
        if error is not None:
            self.failures.append(f"{job.path}: {reason_of(error)}")

    def close(self) -> None:
        """Begins no more jobs."""
        self._waiting.clear()


def reason_of(error: BaseException) -> str:
    """Why a run failed, in one sentence."""
    if not died(error):
        return str(error) or type(error).__name__
    times = getattr(error, "allowed_failures", 2) + 1
    return (
        f"its worker process died {times} times (out of memory?); the same command (compare: with"
        " --resume) continues from the last checkpoint."
    )


def died(error: BaseException | None) -> bool:
    """Whether a job ended because its worker processes died."""
    return type(error).__name__ == "KilledWorker"
