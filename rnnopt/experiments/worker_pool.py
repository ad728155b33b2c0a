"""Executes many runs in parallel; a worker process that dies affects only its own run."""

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
    """A run to execute, and its folder."""

    config: RunConfig
    path: Path


class StopFlag:
    """Tells worker processes to stop: a shared byte without a lock.

    An event of multiprocessing has a lock, which a worker killed at the wrong time never releases.
    """

    def __init__(self, context: SpawnContext):
        self._flag: Any = context.RawValue(ctypes.c_bool, False)

    def set(self) -> None:
        """Sets the flag."""
        self._flag.value = True

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return bool(self._flag.value)


class Queue(Protocol):
    """Hands out jobs and receives their outcomes."""

    def poll(self) -> None:
        """Called a few times per second."""

    def left(self) -> bool:
        """Whether there is a job to do, now or later."""

    def take(self) -> Job | None:
        """A job to do now, or None."""

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Records that a job has finished, failed or been interrupted."""

    def close(self) -> None:
        """Begins no more jobs."""


class FifoQueue:
    """Jobs in their order, each once.

    Args:
        jobs: the jobs.
    """

    def __init__(self, jobs: list[Job]):
        self._waiting = deque(jobs)
        self.failures: list[str] = []

    def poll(self) -> None:
        """Does nothing."""

    def left(self) -> bool:
        """Whether a job has not begun."""
        return bool(self._waiting)

    def take(self) -> Job | None:
        """The next job, or None."""
        return self._waiting.popleft() if self._waiting else None

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Stores a sentence about a failure."""
        if error is not None:
            self.failures.append(f"{job.path}: {DIED if died(error) else error}")

    def close(self) -> None:
        """Discards the jobs that have not begun."""
        self._waiting.clear()


DIED = (
    "its worker process died (out of memory?); the same command with --resume continues from the"
    " last checkpoint."
)


SIGNALS = (signal.SIGINT, signal.SIGTERM)  # only the parent handles them


@contextmanager
def signals_wait() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM; processes started inside the block never receive them.

    A terminal sends Ctrl-C to all its processes, also to one that is still importing. A process
    inherits the blocked signals of its parent, and `ready_worker` then ignores them. Does nothing
    on a system that cannot block signals.
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
    """Executes jobs in `workers` processes; jobs whose folders exist are resumed.

    Args:
        jobs: the jobs.
        workers: number of processes.
        tell: called with the jobs a few times per second, to show the progress of their folders.
        stop: set it to interrupt; current runs save themselves, the others never begin.

    Returns:
        One sentence for each job that failed.
    """
    queue = FifoQueue(jobs)
    run_queue(queue, workers, lambda: tell(jobs), stop)
    return queue.failures


def run_queue(queue: Queue, workers: int, tell: Callable[[], None], stop: threading.Event) -> None:
    """Executes the jobs of a queue in `workers` processes; the other arguments as in `work`."""
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
                    end.set()  # each running job ends after its current step
                    queue.close()
                queue.poll()
                while free and (job := queue.take()) is not None:
                    pool = free.pop()
                    with signals_wait():  # this starts the pool's process
                        under_way[pool.submit(_do, job)] = job, pool
                done = _some(under_way, stop)
                with suppress(UserError):  # its own worker reports a damaged folder
                    tell()
                for future in done:
                    job, pool = under_way.pop(future)
                    error = future.exception()
                    lost = died(error)
                    queue.ended(job, None if lost and stop.is_set() else error)
                    free.append(new_pool() if lost else pool)
        finally:  # before waiting for any pool: running jobs save themselves
            end.set()


def died(error: BaseException | None) -> bool:
    """Whether a job ended because its worker process died."""
    return isinstance(error, BrokenProcessPool)


def _some(under_way: Collection[Future], stop: threading.Event) -> set[Future]:
    """The jobs that end within a quarter of a second."""
    if not under_way:
        stop.wait(0.25)
        return set()
    return wait(under_way, timeout=0.25, return_when=FIRST_COMPLETED).done


# -- in a worker process ---------------------------------------------------------------------------

_end: Any = None  # flag that ends the current run
_orphaned = threading.Event()  # set when the parent has died
busy = threading.Lock()  # held while there is something to save


def ready_worker(end: Any) -> None:
    """Prepares a worker process: `end` interrupts its run, signals do not."""
    global _end
    _end = end
    keep_freed_memory()
    for number in SIGNALS:  # the parent decides
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _outlive_nobody() -> None:
    """Ends this process, once its run is saved, after the parent was killed."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        _orphaned.set()
        with busy:
            os._exit(1)


def interrupted() -> bool:
    """In a worker process: whether to interrupt the current run."""
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
