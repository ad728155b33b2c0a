"""Many runs at once; a worker process that dies takes its own run along and no other."""

import ctypes
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, Protocol

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.runner import run
from rnnopt.training.malloc import keep_freed_memory


@dataclass(frozen=True)
class Job:
    """A run to do and where."""

    config: RunConfig
    path: Path


class StopFlag:
    """What tells worker processes to end: a byte they share, without a lock.

    An event of multiprocessing has one, which a worker killed at the wrong moment takes with it.
    """

    def __init__(self, context: SpawnContext):
        self._said: Any = context.RawValue(ctypes.c_bool, False)

    def set(self) -> None:
        """Says it."""
        self._said.value = True

    def is_set(self) -> bool:
        """Whether it was said."""
        return bool(self._said.value)


class Queue(Protocol):
    """Where jobs come from, and where they go once they have ended."""

    def look(self) -> None:
        """Is called a few times a second."""

    def left(self) -> bool:
        """Whether there is something to do, now or later."""

    def take(self) -> Job | None:
        """A job to do now."""

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Takes note that a job is over, has failed, or was interrupted."""

    def close(self) -> None:
        """Nothing shall begin any more."""


class InTurn:
    """Jobs one after the other, each once.

    Args:
        jobs: in their order.
    """

    def __init__(self, jobs: list[Job]):
        self._waiting = deque(jobs)
        self.failures: list[str] = []

    def look(self) -> None:
        """Nothing changes by itself."""

    def left(self) -> bool:
        """Whether a job has not begun."""
        return bool(self._waiting)

    def take(self) -> Job | None:
        """The next one."""
        return self._waiting.popleft() if self._waiting else None

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Keeps a sentence on a failure."""
        if error is not None:
            self.failures.append(f"{job.path}: {DIED if died(error) else error}")

    def close(self) -> None:
        """Forgets the jobs that have not begun."""
        self._waiting.clear()


DIED = (
    "its worker process died (out of memory?); the same command with --resume goes on where the"
    " last checkpoint stands."
)


SIGNALS = (signal.SIGINT, signal.SIGTERM)  # which the parent alone answers


@contextmanager
def signals_wait() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back; the processes that are started meanwhile never get them.

    A terminal sends Ctrl-C to all its processes, also to one that is still importing. A process
    inherits what its parent holds back, and `ready_worker` then ignores it; where a system cannot
    hold back, nothing is done.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(
    jobs: list[Job], workers: int, tell: Callable[[list[Job]], None], stop: threading.Event
) -> list[str]:
    """Does the jobs in `workers` processes; those in folders that exist go on where they stand.

    Args:
        jobs: what to do.
        workers: processes at once.
        tell: called a few times a second with the jobs, to show how far their folders are.
        stop: set it to interrupt; runs under way save themselves, the others never begin.

    Returns:
        One sentence for each job that failed.
    """
    queue = InTurn(jobs)
    empty(queue, workers, lambda: tell(jobs), stop)
    return queue.failures


def empty(queue: Queue, workers: int, tell: Callable[[], None], stop: threading.Event) -> None:
    """Does what a queue has in `workers` processes; the others as of `work`."""
    context = get_context("spawn")  # forked processes inherit locks that torch's threads hold
    end = StopFlag(context)
    under_way: dict[Future, tuple[Job, ProcessPoolExecutor]] = {}
    with ExitStack() as stack:

        def new_pool() -> ProcessPoolExecutor:
            pool = ProcessPoolExecutor(1, context, ready_worker, (end,))
            return stack.enter_context(pool)

        free = [new_pool() for _ in range(workers)]
        try:
            while queue.left() or under_way:
                if stop.is_set():
                    end.set()  # each run under way ends after its current step
                    queue.close()
                queue.look()
                while free and (job := queue.take()) is not None:
                    pool = free.pop()
                    with signals_wait():  # this starts the pool's process
                        under_way[pool.submit(_do, job)] = job, pool
                done = _some(under_way, stop)
                with suppress(UserError):  # a damaged folder is for its own worker to tell of
                    tell()
                for future in done:
                    job, pool = under_way.pop(future)
                    error = future.exception()
                    lost = died(error)
                    queue.ended(job, None if lost and stop.is_set() else error)
                    free.append(new_pool() if lost else pool)
        finally:  # before any pool is waited for: runs under way save themselves
            end.set()


def died(error: BaseException | None) -> bool:
    """Whether a job ended because its worker process did."""
    return isinstance(error, BrokenProcessPool)


def _some(under_way: Collection[Future], stop: threading.Event) -> set[Future]:
    """Those that ended within a quarter of a second."""
    if not under_way:
        stop.wait(0.25)
        return set()
    return wait(under_way, timeout=0.25, return_when=FIRST_COMPLETED).done


# -- in a worker process ---------------------------------------------------------------------------

_end: Any = None  # what ends the run under way
_orphaned = threading.Event()  # the parent died, with all its plans
busy = threading.Lock()  # to be held while there is something to save


def ready_worker(end: Any) -> None:
    """Prepares a worker process: `end` interrupts what it does, signals do not."""
    global _end
    _end = end
    keep_freed_memory()
    for number in SIGNALS:  # the parent decides
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _outlive_nobody() -> None:
    """Ends this process, once its run is saved, when the parent was killed; nobody else would."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        _orphaned.set()
        with busy:
            os._exit(1)


def interrupted() -> bool:
    """In a worker process: whether it shall end what it does."""
    return _orphaned.is_set() or bool(_end.is_set())


def _do(job: Job) -> dict[str, Any]:
    with busy:
        if interrupted():  # before it began
            return {}
        exists = (job.path / "config.json").exists()
        return run(job.config, job.path, resume=exists, stop_requested=interrupted)


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
