"""What a worker of a cluster does: it trains a run in the command's folder, or in one of its own.

The module imports torch and the rest of rnnopt only when a run begins, so that a worker process
stands at once.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.errors import UserError
from rnnopt.config.version import VERSION

if TYPE_CHECKING:
    from distributed import Worker

    from rnnopt.training.loop import Progress

PATIENCE = 60.0  # seconds to wait for a folder that a lost worker may still hold
OFTEN = 0.25  # seconds between two messages of a run
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # only the command handles them
STEPS = 20  # parts of the budget; the first evaluation in each is always sent

halted: set[str] = set()  # names of runs and of commands to interrupt; `halt` adds to it
_one_at_a_time = threading.Lock()  # runs draw from one generator, torch's


class OtherVersions(UserError):
    """A worker has another version of rnnopt or torch than the command."""


def versions() -> dict[str, str]:
    """The versions that must be the same in a cluster; builds of torch may differ."""
    import torch

    return {"rnnopt": VERSION, "torch": torch.__version__.partition("+")[0]}


def halt(names: list[str]) -> None:
    """Interrupts runs of this process, or all of a command."""
    halted.update(names)


def execute(order: dict[str, Any]) -> dict[str, Any]:
    """Trains a run, or continues it.

    Args:
        order: "command" and "run" (their names, a run's unlike any other), "config", "path" (the
            run folder), "versions" of the command, and for workers of other machines "token" (a
            file in the command's folder and its content) and "folder" (where the command works).

    Returns:
        "files", the run's files if the command cannot see its folder and the run is over.

    Raises:
        UserError: the run cannot be trained.
    """
    from distributed import get_worker

    worker = get_worker()
    _check_versions(order["versions"], worker.address)
    shared = _sees(order.get("token"))
    path = Path(order["path"])
    if not shared:
        path = Path(worker.local_directory) / "rnnopt" / order["run"]
    news = {"run": order["run"], "worker": worker.address}
    stop = _stop_of(order, worker)
    with _one_at_a_time:
        if not stop():
            worker.log_event(order["command"], news)
            with _working_directory(order.get("folder") if shared else None):
                _train(order, path, _Messenger(worker, order["command"], news, path), stop)
    return {"files": None if shared else _files(path, given_up=order["run"] in halted)}


def _check_versions(wanted: dict[str, str], address: str) -> None:
    found = versions()
    for name, version in wanted.items():
        if found[name] != version:
            raise OtherVersions(
                f"all of a cluster must have one version of {name}: the command has {version}, the"
                f" worker {address} has {found[name]}."
            )


def _sees(token: list[str] | None) -> bool:
    """Whether this process sees the command's folder."""
    if token is None:  # a worker of the command's own machine
        return True
    try:
        return Path(token[0]).read_text() == token[1]
    except OSError:
        return False


def _files(path: Path, given_up: bool) -> dict[str, bytes] | None:
    """The files of a run that is over, or that the command gave up: others are begun anew."""
    from rnnopt.experiments.result_files import read_files
    from rnnopt.runs.folder import RunFolder

    return read_files(path) if given_up or RunFolder(path).is_over() else None


@contextmanager
def _working_directory(folder: str | None) -> Iterator[None]:
    """Works in the command's directory, to which paths of the user's data are relative."""
    before = os.getcwd()
    if folder is not None and os.path.isdir(folder):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _stop_of(order: dict[str, Any], worker: "Worker") -> Callable[[], bool]:
    """Whether to interrupt a run: it is halted, or nobody waits for it any more."""
    names = {order["run"], order["command"]}
    key = worker.get_current_task()

    def stop() -> bool:
        if not halted.isdisjoint(names) or worker.status.name not in ("running", "paused"):
            return True
        task = worker.state.tasks.get(key)  # "cancelled" once its command or scheduler is lost
        return task is None or task.state == "cancelled"

    return stop


def _train(
    order: dict[str, Any],
    path: Path,
    listener: Callable[["Progress"], None],
    stop: Callable[[], bool],
) -> None:
    """Trains the run in `path`; waits for a process that was lost but still holds the folder."""
    from rnnopt.config.run_config import RunConfig
    from rnnopt.runs.folder import InUse
    from rnnopt.runs.runner import run

    limit = time.monotonic() + (PATIENCE if "token" in order else 0.0)
    while True:
        try:
            config = RunConfig.from_dict(order["config"])
            run(config, path, (path / "config.json").exists(), listener, stop)
            return
        except InUse:
            if stop() or time.monotonic() > limit:
                raise
            time.sleep(0.5)


class _Messenger:
    """A listener of a run: sends its evaluations to the command, a few per second."""

    def __init__(self, worker: "Worker", topic: str, news: dict[str, Any], path: Path):
        self.worker, self.topic, self.news, self.path = worker, topic, news, path
        self.last, self.step = -math.inf, -1
        self.lower: bool | None = None
        self.best = math.nan

    def __call__(self, progress: "Progress") -> None:
        record = progress.record
        if not record:
            return
        self._see(record["validation_metric"])
        step, now = math.floor(STEPS * record["fraction"]), time.monotonic()
        if step > self.step or now > self.last + OFTEN:
            self.step, self.last = step, now
            self.worker.log_event(self.topic, self.news | {"record": record, "best": self.best})

    def _see(self, metric: float) -> None:
        if self.lower is None:
            from rnnopt.config.metric_names import lower_is_better
            from rnnopt.runs.folder import RunFolder

            self.lower = lower_is_better(RunFolder(self.path).read_result()["metric"])
        if not math.isnan(metric):
            better = metric < self.best if self.lower else metric > self.best
            self.best = metric if better or math.isnan(self.best) else self.best


# -- a worker process of the command's own machine -------------------------------------------------


def dask_setup(worker: "Worker") -> None:
    """Prepares a worker process: the command alone decides about Ctrl-C.

    A terminal sends Ctrl-C to all its processes.
    """
    from rnnopt.training.malloc import keep_freed_memory

    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    keep_freed_memory()
