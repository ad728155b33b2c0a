"""What pools of worker processes do, done in this process, where torch is imported already."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from rnnopt.experiments import worker_pool
from rnnopt.experiments.sweeps import worker as sweep_worker

PROCESSES, SWEEP_WORK = worker_pool.ProcessPoolExecutor, sweep_worker._work
one_at_a_time = threading.Lock()  # runs draw from one generator, torch's


class InThisProcess(ThreadPoolExecutor):
    """Stands in for a pool of one process."""

    def __init__(self, count: int, context: Any, initializer: Any, initargs: Any) -> None:
        super().__init__(1, initializer=torch.set_num_threads, initargs=(1,))
        (worker_pool._end,) = initargs

    def submit(self, act: Any, *arguments: Any) -> Future:  # type: ignore[override]
        return super().submit(_in_turn, act, arguments)


def _in_turn(act: Any, arguments: Any) -> Any:
    with one_at_a_time:
        return act(*arguments)


def _sweep_work(sweep: Any, number: int) -> None:
    """A sweep's work, which else asks whether the process that began it is still there."""
    sweep_worker.work(sweep, number, worker_pool.interrupted)


@contextmanager
def in_this_process(really: bool = True) -> Iterator[None]:
    """What pools do is done here; with `really` False by processes once more."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (worker_pool, sweep_worker):
            patch.setattr(module, "ProcessPoolExecutor", InThisProcess if really else PROCESSES)
        patch.setattr(sweep_worker, "_work", _sweep_work if really else SWEEP_WORK)
        yield
