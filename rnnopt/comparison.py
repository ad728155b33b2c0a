"""Many runs at once, in worker processes: every optimizer with every seed on one task."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rnnopt.config import RunConfig, SharedConfig
from rnnopt.errors import UserError
from rnnopt.memory import keep_freed_memory
from rnnopt.run_folder import RunFolder
from rnnopt.runner import Announce, build_training, check_same_data, run, settle, task_of
from rnnopt.tasks import Task


@dataclass(frozen=True)
class Job:
    """A run to do and where."""

    config: RunConfig
    path: Path


def plan(
    shared: SharedConfig,
    optimizers: list[str],
    seeds: list[int],
    out: Path,
    resume: bool,
    announce: Announce = lambda task: None,
) -> list[Job]:
    """The runs of a comparison, seed by seed, after checking that each can be built.

    With `resume` the folder may hold some of them already; their settings must be the same.
    `announce` is called with the task.
    """
    for name, values in (("optimizers", optimizers), ("seeds", seeds)):
        if not values:
            raise UserError(f"compare needs at least one of {name}.")
        if len(set(values)) < len(values):
            raise UserError(f"{name} must differ from each other, got {values}.")
    task = task_of(shared)
    announce(task)
    jobs = []
    for seed in seeds:
        for optimizer in optimizers:
            config = settle(RunConfig(**asdict(shared), optimizer=optimizer, seed=seed), task)
            if seed == seeds[0]:
                build_training(config, task)
            jobs.append(Job(config, out / folder_of(optimizer) / f"seed-{seed}"))
    check_saved(jobs, task, out, resume)
    return jobs


def folder_of(optimizer: str) -> str:
    """The name of the folder of an optimizer's runs."""
    return "".join(c if c.isalnum() or c in ".=-" else "_" for c in optimizer)


def check_saved(jobs: list[Job], task: Task, out: Path, resume: bool) -> None:
    """Raises UserError if a run stands there already, with `resume` if its settings differ."""
    for job in jobs:
        if not (job.path / "config.json").exists():
            continue
        if not resume:
            raise UserError(
                f"{out} already holds runs: go on with --resume or choose another --out."
            )
        begun = RunFolder.open(job.path)
        saved = settle(begun.read_config(), task)
        if saved != job.config:
            raise UserError(f"{job.path} was begun with other settings: choose another --out.")
        check_same_data(task, begun)


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
    end = context.Event()
    with ProcessPoolExecutor(workers, context, ready_worker, (end,)) as pool:
        futures: dict[Future, Job] = {pool.submit(_do, job): job for job in jobs}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
            tell(jobs)
            if stop.is_set():
                end.set()  # each run under way ends after its current step
                pending = {future for future in pending if not future.cancel()}
            for future in done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    return ["a worker process died (out of memory?); the runs under way can go on."]
                if error is not None:
                    failures.append(f"{futures[future].path}: {error}")
    return failures


_end: Any = None  # in a worker: the event that ends the run under way


def ready_worker(end: Any) -> None:
    """Prepares a worker process: `end` interrupts what it does, signals do not."""
    global _end
    _end = end
    keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides
        signal.signal(number, signal.SIG_IGN)


def interrupted() -> bool:
    """In a worker process: whether it shall end what it does."""
    return bool(_end.is_set())


def _do(job: Job) -> dict[str, Any]:
    if interrupted():  # the pool hands out one job more than it has workers
        return {}
    exists = (job.path / "config.json").exists()
    return run(job.config, job.path, resume=exists, stop_requested=interrupted)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts as usual."""
    event = threading.Event()
    usual = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handler(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual[signal.SIGINT])

    for number in usual:
        signal.signal(number, handler)
    try:
        yield event
    finally:
        for number, before in usual.items():
            signal.signal(number, before)
