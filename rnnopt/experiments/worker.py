"""What a worker of a cluster does: it trains a run in the command's folder, or in one of its own.

The module imports torch and the rest of rnnopt only when a run begins, so that a worker process
stands at once.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, nullcontext, suppress
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
STEPS = 20  # parts of the budget; the first evaluation in each is sent: trials are compared by it

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


def execute(order: dict[str, Any]) -> dict[str, bytes] | None:
    """Trains a run, or continues it.

    Args:
        order: "command" and "run" (their names, a run's unlike any other), "config", "path" (the
            run folder), "versions" of the command, and for workers of other machines "token" (a
            file in the command's folder), "folder" (where the command works) and "inputs" (what it
            reads, see `inputs_of`). "mirror", if there is one, is the URL of a copy of the run
            folder.

    Returns:
        The run's files if the command cannot see its folder, and the run is over or given up.

    Raises:
        UserError: the run cannot be trained.
    """
    from distributed import get_worker

    from rnnopt.experiments.result_files import read_files
    from rnnopt.runs.folder import RunFolder

    worker = get_worker()
    _check_versions(order["versions"], worker.address)
    shared, path = _sees(order), Path(order["path"])
    if not shared:
        path = Path(worker.local_directory) / "rnnopt" / order["run"]
    news = {"run": order["run"], "worker": worker.address}
    stop = _stop_of(order, worker)
    # Paths of the user's data are relative to the command's directory.
    same = shared and Path(order.get("folder", "")).is_dir()
    with _one_at_a_time:
        if not stop():
            send = lambda more: worker.log_event(order["command"], news | more)  # noqa: E731
            send({})
            try:
                with (
                    chdir(order.get("folder", ".")) if same else nullcontext(),
                    _mirrored(order, path, shared) as copy,
                ):
                    _check_inputs(order, worker.address)
                    _train(order, path, _messenger(send, copy), stop)
            except Exception as error:  # Dask loses one whose traceback is a thousand calls deep
                raise error.with_traceback(None) from None
    if shared or not (order["run"] in halted or RunFolder(path).is_over()):
        return None  # what is neither over nor given up is begun anew
    return read_files(path)


@contextmanager
def _mirrored(order: dict[str, Any], path: Path, shared: bool) -> Iterator[Callable[[], None]]:
    """Continues from the mirror of a run, if there is one; yields what copies to it."""
    if "mirror" not in order:
        yield lambda: None
        return
    from rnnopt.experiments.mirror import Mirror

    mirror, put = Mirror(order["mirror"]), False
    if not shared:
        mirror.fetch(path)

    def copy() -> None:
        nonlocal put
        try:
            mirror.put_run(path)
            put = True
        except UserError:
            if not put:  # else it is away for a while, which must not end a run
                raise

    try:
        yield copy
    finally:
        with suppress(UserError):  # the command puts there what comes home, and tells
            mirror.put_run(path, now=True)


def _check_versions(wanted: dict[str, str], address: str) -> None:
    found = versions()
    for name, version in wanted.items():
        if found[name] != version:
            raise OtherVersions(
                f"all of a cluster must have one version of {name}: the command has {version}, the"
                f" worker {address} has {found[name]}."
            )


def _check_inputs(order: dict[str, Any], address: str) -> None:
    """Raises UserError if a file that a run reads is not the command's."""
    if "inputs" in order:
        from rnnopt.config.run_config import RunConfig
        from rnnopt.experiments.inputs import check_inputs

        check_inputs(RunConfig.from_dict(order["config"]), order["inputs"], address)


def _sees(order: dict[str, Any]) -> bool:
    """Whether this process sees the command's folder, as all of its own machine do."""
    return "token" not in order or Path(order["token"]).exists()


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


def _messenger(
    send: Callable[[dict[str, Any]], None], copy: Callable[[], None]
) -> Callable[["Progress"], None]:
    """A listener of a run that sends its evaluations, a few per second, and copies its folder."""
    last, part = -math.inf, -1

    def listen(progress: "Progress") -> None:
        nonlocal last, part
        now, reached = time.monotonic(), math.floor(STEPS * progress.fraction)
        if progress.record and (reached > part or now > last + OFTEN):
            last, part = now, reached
            send({"record": progress.record, "best": progress.best})
        if progress.record:
            copy()

    return listen


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
