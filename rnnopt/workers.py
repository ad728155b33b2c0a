"""Many runs at once; a worker process that dies takes its own run along and no other."""

import ctypes
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from rnnopt.config import RunConfig
from rnnopt.errors import UserError
from rnnopt.memory import keep_freed_memory
from rnnopt.runner import run


@dataclass(frozen=True)
class Job:
    """A run to do and where."""

    config: RunConfig
    path: Path


class End:
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
    failures = []
    context = get_context("spawn")  # forked processes inherit locks that torch's threads hold
    end = End(context)
    waiting = deque(jobs)
    under_way: dict[Future, tuple[Job, ProcessPoolExecutor]] = {}
    with ExitStack() as stack:

        def new_pool() -> ProcessPoolExecutor:
            pool = ProcessPoolExecutor(1, context, ready_worker, (end,))
            return stack.enter_context(pool)

        free = [new_pool() for _ in range(workers)]
        try:
            while waiting or under_way:
                if stop.is_set():
                    end.set()  # each run under way ends after its current step
                    waiting.clear()
                while free and waiting:
                    job, pool = waiting.popleft(), free.pop()
                    under_way[pool.submit(_do, job)] = job, pool
                done = wait(under_way, timeout=0.25, return_when=FIRST_COMPLETED).done
                with suppress(UserError):  # a damaged folder is for its own worker to tell of
                    tell(jobs)
                for future in done:
                    job, pool = under_way.pop(future)
                    error = future.exception()
                    died = isinstance(error, BrokenProcessPool)
                    if error is not None:
                        failures.append(f"{job.path}: {DIED if died else error}")
                    free.append(new_pool() if died else pool)
        finally:  # before any pool is waited for: runs under way save themselves
            end.set()
    return failures


DIED = (
    "its worker process died (out of memory?); the same command with --resume goes on where the"
    " last checkpoint stands."
)


# -- in a worker process ---------------------------------------------------------------------------

_end: Any = None  # what ends the run under way
_orphaned = threading.Event()  # the parent died, with all its plans
busy = threading.Lock()  # to be held while there is something to save


def ready_worker(end: Any) -> None:
    """Prepares a worker process: `end` interrupts what it does, signals do not."""
    global _end
    _end = end
    keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides
        signal.signal(number, signal.SIG_IGN)
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
