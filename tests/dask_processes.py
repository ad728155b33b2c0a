"""A scheduler and workers of Dask as forks: what people start as `dask scheduler`, `dask worker`.

    forks.begin("dask_processes:scheduler", "scheduler.json")
    forks.begin("dask_processes:worker", "scheduler.json", "folder", "apart", "old torch")

A worker is as the words after its folder say: "apart" sees no folder of the command, as on another
machine; "old torch" has another version; "dies of sgd" is killed by a run of that optimizer, which
"calls itself" until Python has enough.
"""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path


def scheduler(file):
    """A scheduler, until it is killed."""
    import dask
    from distributed import Scheduler

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.allowed-failures": 2})

    async def serve():
        options = dict(
            host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0", scheduler_file=file
        )
        async with Scheduler(**options) as served:
            await served.finished()

    asyncio.run(serve())


def worker(file, folder, *words):
    """A worker, until it is killed or its scheduler is gone."""
    from distributed import Worker

    from rnnopt.experiments import mirror
    from rnnopt.experiments import worker as own
    from rnnopt.runs import runner

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    run = runner.run

    def deadly(config, *arguments):
        if config.optimizer.startswith("sgd"):
            os.kill(os.getpid(), signal.SIGKILL)
        return run(config, *arguments)

    if "apart" in words:
        own._sees = lambda order: False
    mirror.EVERY = 0.0
    if "old torch" in words:
        own.versions = lambda: {"rnnopt": own.VERSION, "torch": "1.0.0"}
    if "dies of sgd" in words:
        runner.run = deadly
    if "calls itself" in words:
        runner.run = lambda *arguments: runner.run(*arguments)
    while not Path(file).exists() or not Path(file).read_text():
        time.sleep(0.02)

    async def serve():
        Path(folder).mkdir(exist_ok=True)
        options = dict(host="127.0.0.1", nthreads=1, local_directory=folder, memory_limit=0)
        async with Worker(scheduler_file=file, dashboard=False, **options) as served:
            await served.finished()

    asyncio.run(serve())
