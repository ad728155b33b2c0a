"""Opens a Dask cluster: of this machine, by the address of a scheduler, or by a YAML file.

class: dask_jobqueue.SLURMCluster   # any class of clusters, by its module and name
options: {cores: 1, memory: 4GB, walltime: "02:00:00"}
scale: 8                            # its workers
"""

import importlib
import importlib.util
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.errors import UserError
from rnnopt.config.validation import converted
from rnnopt.experiments.worker import SIGNALS

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 10  # seconds to wait for a scheduler
processes = True  # whether workers of this machine are processes; tests have threads
SETTINGS = {
    "distributed.scheduler.allowed-failures": 2,  # the third death of its worker fails a run
    # A run cannot be moved to disk, and memory that malloc keeps must not stop a worker.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,  # it looks at every run a hundred times a second
    "distributed.admin.low-level-log-length": 100,  # else a thousand runs' settings stay in memory
    "distributed.admin.system-monitor.log-length": 100,
    "distributed.scheduler.events-cleanup-delay": "1m",  # what is kept of a worker that died
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.tick.limit": "1h",  # an import of torch holds the interpreter
    # Runs are in a thread: one arena, which `keep_freed_memory` covers.
    "distributed.nanny.pre-spawn-environ": {"MALLOC_ARENA_MAX": "1"},
}


@contextmanager
def opened(workers: int, address: str | None, dashboard: bool) -> Iterator["Client"]:
    """A client of a cluster, which is closed at the end if it was begun here.

    Args:
        workers: number of workers, for a cluster of this machine.
        address: address of a scheduler, such as tcp://host:8786, a scheduler file (.json), or a
            YAML file that names a class of clusters; None means this machine.
        dashboard: whether a cluster of this machine has Dask's page.

    Raises:
        UserError: the address is none, or does not answer.
    """
    dask = imported()
    if address is None:
        opening = _local(workers, dashboard)
    elif Path(address).suffix in (".yaml", ".yml"):
        opening = _described(Path(address))
    else:
        opening = _existing(address)
    with dask.config.set(SETTINGS), opening as client:
        yield client


def imported() -> Any:
    """Dask, with its log off; raises UserError if it is missing."""
    try:
        import cryptography  # noqa: F401  # for the keys of a cluster of this machine
        import dask
        import distributed  # noqa: F401
    except ImportError as error:
        needed = 'this needs Dask and cryptography: pip install "rnnopt[cli]".'
        raise UserError(needed) from error
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":  # Dask gives some of them a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return dask


def check(address: str | None) -> None:
    """Raises UserError if an address cannot be one."""
    if address is None or "://" in address:
        return
    if Path(address).suffix not in (".json", ".yaml", ".yml"):
        raise UserError(
            "--cluster must be a scheduler's address such as tcp://host:8786, its file (.json), or"
            f" a .yaml file that names a class of clusters, got {address!r}."
        )
    if not Path(address).is_file():
        raise UserError(f"--cluster {address}: there is no such file.")


@contextmanager
def _local(workers: int, dashboard: bool) -> Iterator["Client"]:
    from distributed import Client, LocalCluster, Security

    if dashboard and importlib.util.find_spec("bokeh") is None:
        raise UserError("--dashboard needs Bokeh: pip install bokeh.")
    if not processes:
        own: dict[str, Any] = {"processes": False, "n_workers": 1}
    else:
        own = {"n_workers": workers, "preload": [f"{__package__}.worker"]}
        # Keys for this command alone: else any user of the machine could send its scheduler work.
        own["security"] = Security.temporary()
        if hasattr(signal, "pthread_sigmask"):
            # Its own start would let signals through again, in the thread that starts workers.
            resource_tracker.ensure_running()
    with _signals_wait():  # this starts the cluster's threads and processes
        cluster = LocalCluster(
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # None would be port 8787
            scheduler_kwargs={"dashboard": dashboard},
            silence_logs=logging.CRITICAL,
            **own,
        )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM; threads and processes started inside never receive them.

    A terminal sends Ctrl-C to all its processes, also to one that is still importing. A process
    inherits the blocked signals, and `worker.dask_setup` then ignores them. Does nothing on a
    system that cannot block signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _described(path: Path) -> Iterator["Client"]:
    """The cluster of a YAML file."""
    from distributed import Client

    kind, options, scale = read(path)
    try:
        with kind(**options) as cluster, Client(cluster, set_as_default=False) as client:
            cluster.scale(scale)
            yield client
    except TypeError as error:
        raise UserError(
            f"{path}: {kind.__name__} cannot be made of these options: {error}."
        ) from error


def read(path: Path) -> tuple[Any, dict[str, Any], int]:
    """The class, its options and the number of workers that a YAML file names."""
    import dask

    try:
        content = next(iter(dask.config.collect_yaml([str(path)])), None)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable YAML file: {reason}.") from error
    known = {"class", "options", "scale"}
    if not isinstance(content, dict) or not {"class"} <= content.keys() <= known:
        raise UserError(f"{path} must have class, and may have options and scale.")
    module, _, name = str(content["class"]).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: class {content['class']!r} cannot be imported: {error}."
        ) from error
    options = content.get("options") or {}
    if not isinstance(options, dict):
        raise UserError(f"{path}: options must be names and values, got {options!r}.")
    return kind, options, converted(content.get("scale", 1), int, "scale")


@contextmanager
def _existing(address: str) -> Iterator["Client"]:
    """A scheduler that others have begun."""
    from distributed import Client

    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        client = Client(**where, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(f"--cluster {address} does not answer: {reason}.") from error
    with client:
        yield client
