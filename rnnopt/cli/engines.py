"""The engine that a command's options ask for."""

from collections.abc import Callable
from pathlib import Path

from rnnopt.cli.terminal import print_line
from rnnopt.config.cluster_config import ClusterConfig
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.mirrored import no_mirror


def engine_of(
    on: ClusterConfig, threads: int = 1, url_of: Callable[[Path], str | None] = no_mirror
) -> Engine:
    """The engine.

    Args:
        on: where the runs are trained.
        threads: number of threads of a run.
        url_of: the URL at which a run folder is mirrored, or None.
    """
    return Engine(on.workers, on.cluster, on.dashboard, print_line, threads, url_of)
