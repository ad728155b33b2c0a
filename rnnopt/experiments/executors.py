"""Does jobs: all of them in this process's workers, or those that no other worker of a fleet does.

In a fleet `work` returns once every job is done, by whoever did it, and the small files of all runs
stand in this machine's folders. So what follows (the choice of a learning rate, tables, figures)
reads folders as ever and comes to the same everywhere.
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
from rnnopt.experiments.worker_pool import Job, died, empty, work
from rnnopt.runs.folder import CannotWrite, InUse, RunFolder

Tell = Callable[[list[Job]], None]
OFTEN = 1.0  # seconds between looks at the claims


class Crew(Protocol):
    """Who does the jobs of a comparison or a study."""

    def work(self, jobs: list[Job], workers: int, tell: Tell, stop: threading.Event) -> list[str]:
        """As `workers.work`."""

    def hold(self) -> AbstractContextManager[None]:
        """Keeps whoever is none of the crew off the folder."""

    def turn(self) -> AbstractContextManager[None]:
        """Keeps the others of the crew from writing what is made of all runs."""


class Alone:
    """This process does everything.

    Args:
        out: the folder below which the runs are.
    """

    def __init__(self, out: Path):
        self.out = out

    def work(self, jobs: list[Job], workers: int, tell: Tell, stop: threading.Event) -> list[str]:
        """As `workers.work`."""
        return work(jobs, workers, tell, stop)

    def hold(self) -> AbstractContextManager[None]:
        """Locks the folder; UserError where another process has."""
        return RunFolder(self.out).locked()

    def turn(self) -> AbstractContextManager[None]:
        """Nobody else is here."""
        return nullcontext()


class Fleet:
    """This process and others, perhaps on other machines.

    Args:
        claims: the fleet's.
        out: the folder below which the runs are; their places in it are their names.
    """

    def __init__(self, claims: Claims, out: Path):
        self.claims, self.out = claims, out

    def work(self, jobs: list[Job], workers: int, tell: Tell, stop: threading.Event) -> list[str]:
        """As `workers.work`, with what others do; their failures count too."""
        runs = {job.path.relative_to(self.out).as_posix(): job for job in jobs}
        shared = Shared(self.claims, runs)
        empty(shared, workers, lambda: tell(jobs), stop)
        return shared.failures()

    def hold(self) -> AbstractContextManager[None]:
        """Runs alone are locked: others of the fleet may work below the same folder."""
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
    """A fleet, joined or founded, or this process alone where there is no storage.

    Args:
        storage: address of the database.
        name: of the fleet.
        settings: what must be the same for all its workers, by part and name.
        out: the folder below which the runs are.
        heartbeat: seconds between signs of life.
    """
    if storage is None:
        yield Alone(out)
        return
    if heartbeat < 1:
        raise UserError(f"heartbeat must be at least 1, got {heartbeat:g}.")
    with quiet():  # refuses where Optuna is missing
        lost = database_errors()
    try:
        claims = Claims(with_driver(storage), name, settings, heartbeat)
    except lost as error:
        raise UserError(f"the storage cannot be used: {reason_of(error)}.") from error
    try:
        yield Fleet(claims, out)
    finally:
        for run in list(claims.mine):  # of a worker that ended by an error
            with suppress(*lost):
                claims.release(run)
        claims.close()


class Shared:
    """The jobs of a fleet as a queue: what is free is taken, what others did is brought here.

    While the database does not answer, runs go on and what is to be told is kept.

    Args:
        claims: the fleet's.
        jobs: by the names of their runs.
    """

    def __init__(self, claims: Claims, jobs: dict[str, Job]):
        self._claims, self._jobs = claims, jobs
        self._left = dict(jobs)
        self._under_way: dict[Path, str] = {}
        self._over: list[tuple[str, BaseException | None]] = []  # to be told to the others
        self._in_use: dict[str, float] = {}  # by another process here, and when that was seen
        self._open = True
        self._looked = self._beaten = -OFTEN - claims.heartbeat
        self._answered = time.monotonic()

    def failures(self) -> list[str]:
        """One sentence for each run that failed, here or elsewhere."""
        found = ((job, self._claims.failure(run)) for run, job in self._left.items())
        told = {job.path: why for job, why in found if why}
        return [f"{path}: {why}" for path, why in told.items()]

    def left(self) -> bool:
        """Whether a run is to be done, here or elsewhere."""
        return bool(self._over) or (self._open and not self._all_settled())

    def _all_settled(self) -> bool:
        return all(self._claims.failure(run) for run in self._left)

    def close(self) -> None:
        """Begins nothing more and waits for nobody."""
        self._open = False

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Has the others told at the next look, which is due."""
        if isinstance(error, CannotWrite):  # here; elsewhere there is room
            raise error
        self._over.append((self._under_way.pop(job.path), error))
        self._looked = -OFTEN

    def look(self) -> None:
        """Gives a sign of life, tells what is over, sees what others do."""
        with self._patience():
            now = time.monotonic()
            if now - self._beaten > self._claims.heartbeat / 2:
                self._claims.beat()
                self._beaten = now
            while self._over:
                self._tell(*self._over[0])
                self._over.pop(0)
            if now - self._looked > min(OFTEN, self._claims.heartbeat / 4):
                self._claims.read()
                self._looked = now
                for run in [run for run in self._left if self._claims.result(run)]:
                    self._bring(run)
            self._answered = time.monotonic()

    def take(self) -> Job | None:
        """Claims a run that nobody does."""
        with self._patience():
            for run in self._left if self._open else ():
                if self._is_free(run) and self._claims.take(run):
                    self._under_way[self._jobs[run].path] = run
                    return self._jobs[run]
        return None

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Passes over a database that does not answer, for as long as others hold claims good."""
        try:
            yield
        except database_errors() as error:
            if time.monotonic() - self._answered > 2 * self._claims.heartbeat:
                raise UserError(
                    f"the storage was lost ({reason_of(error)}): runs under way are saved, the same"
                    " command goes on."
                ) from error

    def _is_free(self, run: str) -> bool:
        job, used = self._jobs[run], self._in_use.get(run)
        if used is not None and time.monotonic() - used < self._claims.heartbeat:
            return False
        free = job.path not in self._under_way and self._claims.is_free(run)
        return free and not self._claims.failure(run)

    def _tell(self, run: str, error: BaseException | None) -> None:
        """Tells the others what came of a run."""
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
        """Has the files of a run that is done stand here."""
        claim = self._claims.result(run)
        if claim is None or self._jobs[run].path in self._under_way:
            return
        with suppress(InUse):  # another worker on this folder brings them
            write_results(
                self._jobs[run].path, claim.user_attrs["texts"], claim.user_attrs["worker"]
            )
            del self._left[run]
