"""Executes jobs in this process's workers: all of them, or a share of those of a fleet.

A fleet is several commands, perhaps on several machines, that share the jobs. There `work` returns
once every job is done by some worker, and the small files of all runs are in this machine's
folders. So the following stages (choice of a learning rate, tables, figures) read the folders as
usual and have the same results on every machine.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from rnnopt.config.errors import UserError
from rnnopt.experiments.database import database_errors, quiet, reason_of, with_driver
from rnnopt.experiments.leases import Claims
from rnnopt.experiments.result_files import read_texts, write_results
from rnnopt.experiments.worker_pool import Job, died, run_queue, work
from rnnopt.runs.folder import CannotWrite, InUse, RunFolder

Tell = Callable[[list[Job]], None]
OFTEN = 1.0  # seconds between two readings of the claims


class Crew(Protocol):
    """Executes the jobs of a comparison or a study."""

    def work(self, jobs: list[Job], workers: int, tell: Tell, stop: threading.Event) -> list[str]:
        """Like `worker_pool.work`."""

    def hold(self) -> AbstractContextManager[None]:
        """Locks the folder against processes outside the crew."""

    def turn(self) -> AbstractContextManager[None]:
        """Locks out the rest of the crew while results of all runs are written."""


class Alone:
    """This process alone executes all jobs.

    Args:
        out: parent folder of the runs.
    """

    def __init__(self, out: Path):
        self.out = out

    def work(self, jobs: list[Job], workers: int, tell: Tell, stop: threading.Event) -> list[str]:
        """Like `worker_pool.work`."""
        return work(jobs, workers, tell, stop)

    def hold(self) -> AbstractContextManager[None]:
        """Locks the folder; raises UserError if another process has locked it."""
        return RunFolder(self.out).locked()

    def turn(self) -> AbstractContextManager[None]:
        """Needs no lock: there is no other worker."""
        return nullcontext()


class Fleet:
    """This process and others, perhaps on other machines, share the jobs.

    Args:
        claims: claims of the fleet.
        out: parent folder of the runs; a run's name is its path in this folder.
    """

    def __init__(self, claims: Claims, out: Path):
        self.claims, self.out = claims, out

    def work(self, jobs: list[Job], workers: int, tell: Tell, stop: threading.Event) -> list[str]:
        """Like `worker_pool.work`, including the jobs and failures of other workers."""
        runs = {job.path.relative_to(self.out).as_posix(): job for job in jobs}
        queue = LeaseQueue(self.claims, runs)
        run_queue(queue, workers, lambda: tell(jobs), stop)
        return queue.failures()

    def hold(self) -> AbstractContextManager[None]:
        """Locks nothing: only runs are locked, because the fleet may share the folder."""
        return nullcontext()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other worker writes into the folder."""
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(RunFolder(self.out).locked())
                    break
                except InUse:
                    time.sleep(0.1)
            yield


@contextmanager
def crew_of(
    storage: str | None, name: str, settings: dict[str, Any], out: Path, heartbeat: float
) -> Iterator[Crew]:
    """Joins or creates a fleet; without a storage, this process works alone.

    Args:
        storage: address of the database.
        name: name of the fleet.
        settings: settings that must be the same for all its workers, by part and name.
        out: parent folder of the runs.
        heartbeat: seconds between heartbeats.
    """
    if storage is None:
        yield Alone(out)
        return
    if heartbeat < 1:
        raise UserError(f"heartbeat must be at least 1, got {heartbeat:g}.")
    with quiet():  # raises UserError if Optuna is missing
        lost = database_errors()
    try:
        claims = Claims(with_driver(storage), name, settings, heartbeat)
    except lost as error:
        raise UserError(f"the storage cannot be used: {reason_of(error)}.") from error
    try:
        yield Fleet(claims, out)
    finally:
        for run in list(claims.mine):  # claims left by a worker that raised an error
            with suppress(*lost):
                claims.release(run)
        claims.close()


class LeaseQueue:
    """The jobs of a fleet as a queue: it claims free runs and writes the results of other workers.

    While the database does not answer, runs continue and their results are kept until it does.

    Args:
        claims: claims of the fleet.
        jobs: jobs by the names of their runs.
    """

    def __init__(self, claims: Claims, jobs: dict[str, Job]):
        self._claims, self._jobs = claims, jobs
        self._left = dict(jobs)
        self._under_way: dict[Path, str] = {}
        self._over: list[tuple[str, BaseException | None]] = []  # outcomes not yet reported
        self._in_use: dict[str, float] = {}  # run locked by a local process → time of detection
        self._open = True
        self._last_read = self._last_beat = -OFTEN - claims.heartbeat
        self._answered = time.monotonic()

    def failures(self) -> list[str]:
        """One sentence for each run that failed, here or elsewhere."""
        found = ((job, self._claims.failure(run)) for run, job in self._left.items())
        failed = {job.path: why for job, why in found if why}
        return [f"{path}: {why}" for path, why in failed.items()]

    def left(self) -> bool:
        """Whether a run is still to be done, here or elsewhere."""
        return bool(self._over) or (self._open and not self._all_settled())

    def _all_settled(self) -> bool:
        return all(self._claims.failure(run) for run in self._left)

    def close(self) -> None:
        """Begins no more runs and waits for no other worker."""
        self._open = False

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Reports the outcome to the others at the next poll, which becomes due."""
        if isinstance(error, CannotWrite):  # another machine may still have space
            raise error
        self._over.append((self._under_way.pop(job.path), error))
        self._last_read = -OFTEN

    def poll(self) -> None:
        """Sends a heartbeat, reports outcomes, and reads the claims of other workers."""
        with self._patience():
            now = time.monotonic()
            if now - self._last_beat > self._claims.heartbeat / 2:
                self._claims.beat()
                self._last_beat = now
            while self._over:
                self._report(*self._over[0])
                self._over.pop(0)
            if now - self._last_read > min(OFTEN, self._claims.heartbeat / 4):
                self._claims.read()
                self._last_read = now
                for run in [run for run in self._left if self._claims.result(run)]:
                    self._bring(run)
            self._answered = time.monotonic()

    def take(self) -> Job | None:
        """Claims a free run."""
        with self._patience():
            for run in self._left if self._open else ():
                if self._is_free(run) and self._claims.take(run):
                    self._under_way[self._jobs[run].path] = run
                    return self._jobs[run]
        return None

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Ignores a database that does not answer until other workers would end the claims."""
        try:
            yield
        except database_errors() as error:
            if time.monotonic() - self._answered > 2 * self._claims.heartbeat:
                raise UserError(
                    f"the storage was lost ({reason_of(error)}): current runs are saved, the same"
                    " command resumes them."
                ) from error

    def _is_free(self, run: str) -> bool:
        job, used = self._jobs[run], self._in_use.get(run)
        if used is not None and time.monotonic() - used < self._claims.heartbeat:
            return False
        free = job.path not in self._under_way and self._claims.is_free(run)
        return free and not self._claims.failure(run)

    def _report(self, run: str, error: BaseException | None) -> None:
        """Reports the outcome of a run to the other workers."""
        job = self._jobs[run]
        if isinstance(error, InUse):
            self._in_use[run] = time.monotonic()
            self._claims.release(run)
        elif died(error):
            self._claims.died(run)
        elif error is not None:
            self._claims.fail(run, str(error))
        elif RunFolder(job.path).is_over():
            self._claims.finish(run, read_texts(job.path))
        else:
            self._claims.release(run)

    def _bring(self, run: str) -> None:
        """Writes the files of a run that another worker has done."""
        claim = self._claims.result(run)
        if claim is None or self._jobs[run].path in self._under_way:
            return
        with suppress(InUse):  # another worker on this folder writes them
            write_results(
                self._jobs[run].path, claim.user_attrs["texts"], claim.user_attrs["worker"]
            )
            del self._left[run]
