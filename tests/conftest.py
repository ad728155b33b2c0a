"""What every test file shares: one thread, a seeded generator, repeatable hypothesis examples."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)  # small recurrent networks lose time with more
hypothesis.settings.register_profile(
    "rnnopt", derandomize=True, deadline=None, max_examples=40, database=None
)
hypothesis.settings.load_profile("rnnopt")


@pytest.fixture(scope="session", autouse=True)
def no_worker_processes() -> Iterator[None]:
    """Worker processes would import torch for every comparison: their runs are done in this one."""
    from pools import in_this_process

    with in_this_process():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test takes the power away, and thousands of writes would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def worker_processes() -> Iterator[None]:
    """Pools are of processes, as a user's are."""
    from pools import in_this_process

    with in_this_process(False):
        yield


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of the test's own, the same at every run."""
    return torch.Generator().manual_seed(20201010)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """The command in this process: (exit code, what it printed, its errors) of its arguments."""
    from rnnopt.cli.main import main

    def call(*arguments: object) -> tuple[object, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def double_precision() -> Iterator[None]:
    """All tensors are float64 unless they say otherwise."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of an empty database, on a PostgreSQL server of the test's own."""
    pytest.importorskip("psycopg")
    from postgresql_server import binaries, server

    if binaries() is None:
        pytest.skip("PostgreSQL's programs are not installed: apt-get install postgresql")
    # A socket's path may have 107 characters, and the server's user must be able to reach it.
    with (
        tempfile.TemporaryDirectory(prefix="rnnopt-", dir="/tmp") as folder,
        server(Path(folder)) as url,
    ):
        yield url


# Each checks with more processes, or in another way, what a faster test of the same file does.
SLOW = (
    "test_sharded.py::test_several_processes[4-check_frank_wolfe_on_parts_takes_the_steps_on_whole_tensors]",
    "test_commit_exchange.py::test_several_processes[4-check_a_compressed_commit_stays_in_the_ball_and_near_the_mean]",
    "test_shared_runs.py::test_a_shared_run_resumes_to_the_bit[",
    "test_indrnn_gpu.py::test_interpreter[interpreted_computes_short_floats_in_float32]",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the slow tests."""
    for item in items:
        if any(name in item.nodeid for name in SLOW):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.full)
