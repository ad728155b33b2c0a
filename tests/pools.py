"""What workers of a cluster do, done in this process, where torch is imported already."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rnnopt.experiments import cluster


@contextmanager
def in_this_process(really: bool = True) -> Iterator[None]:
    """Clusters of this machine are threads of this process; with `really` False processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "processes", not really)
        yield
