"""Many short runs on many workers, some of which die: what the engine costs, and that none is lost.

    python benchmarks/many_runs.py --runs 10000 --workers 64 --seconds 1 --killed 0.1

The learner is simulated: a run sleeps. Three processes: Dask's scheduler, all workers as threads,
and the command. A worker that is killed loses its connection in the middle of a run, and another
takes its place. Prints a table: runs that ended, failed and were begun again, processor time a run,
and memory of scheduler and command as the runs go by.
"""

import argparse
import asyncio
import multiprocessing
import random
import tempfile
import threading
import time
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dask
import psutil

from rnnopt.config.run_config import RunConfig
from rnnopt.experiments import cluster, worker
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.experiments.queues import Queue

LIMITS = {"distributed.scheduler.allowed-failures": 1000}  # chance may kill a run often: none fails


def schedule(file: str) -> None:
    """A scheduler, until it is ended."""
    from distributed import Scheduler

    async def serve() -> None:
        place: Any = dict(host="127.0.0.1", port=0, dashboard=False, scheduler_file=file)
        async with Scheduler(**place) as scheduler:
            await scheduler.finished()

    dask.config.set(cluster.SETTINGS | LIMITS)
    cluster.imported()
    asyncio.run(serve())


class Sleeper:
    """The simulated learner; counts the runs that were begun, and the seconds that it slept."""

    def __init__(self, seconds: float):
        self.seconds, self.begun, self.slept = seconds, 0, 0.0
        self.lock = threading.Lock()

    def __call__(self, order: dict[str, Any], path: Path, listener: Any, stop: Any) -> None:
        start = time.monotonic()
        while time.monotonic() < start + self.seconds and not stop():
            time.sleep(min(0.25, self.seconds))
        with self.lock:
            self.begun += 1
            self.slept += time.monotonic() - start


def work(file: str, count: int, seconds: float, orders: Connection) -> None:
    """The workers; a message True kills one and begins another, False ends them."""
    from distributed import Worker

    sleeper, names = Sleeper(seconds), random.Random(0)
    worker._train, worker._one_at_a_time = sleeper, nullcontext()  # type: ignore[assignment]
    dask.config.set(cluster.SETTINGS)
    cluster.imported()

    def one() -> Any:
        return Worker(scheduler_file=file, nthreads=1, memory_limit=0, dashboard=False)

    async def serve() -> None:
        crew = [await one() for _ in range(count)]
        orders.send(None)
        while await asyncio.to_thread(orders.recv):
            lost = crew.pop(names.randrange(count))
            lost.batched_stream.comm.abort()
            await lost.close(timeout=0, executor_wait=False, nanny=False)
            crew.append(await one())
        for left in crew:
            await left.close(executor_wait=False, nanny=False)
        orders.send((sleeper.begun, sleeper.slept))

    asyncio.run(serve())


class Counted(Queue):
    """Runs, and how often each has ended."""

    def __init__(self, jobs: list[Job]):
        super().__init__(jobs)
        self.ends = dict.fromkeys((job.path for job in jobs), 0)
        self.over = 0

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Counts an end."""
        super().ended(job, error)
        self.over += 1
        self.ends[job.path] += 1


def measure(runs: int, workers: int, seconds: float, killed: float) -> dict[str, Any]:
    """The figures."""
    context = multiprocessing.get_context("spawn")
    orders, theirs = context.Pipe()
    memory: dict[str, list[float]] = {"scheduler": [], "command": []}
    kills = 0
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/scheduler.json"
        processes = [
            context.Process(target=schedule, args=(file,), daemon=True),
            context.Process(target=work, args=(file, workers, seconds, theirs), daemon=True),
        ]
        for process in processes:
            process.start()
        orders.recv()
        watched = {"scheduler": psutil.Process(processes[0].pid), "command": psutil.Process()}
        everyone = [*watched.values(), psutil.Process(processes[1].pid)]
        todo = Counted([Job(RunConfig(), Path(folder, str(i))) for i in range(runs)])
        started, spent = time.monotonic(), [sum(one.cpu_times()[:2]) for one in everyone]

        def tell() -> None:
            nonlocal kills
            if todo.left() and kills < int(killed * todo.over):
                orders.send(True)
                kills += 1
            for name, process in watched.items():
                if 10 * todo.over // runs >= len(memory[name]):
                    memory[name].append(round(process.memory_info().rss / 2**20))

        with Engine(0, file) as engine:
            engine.run(todo, runs, tell, threading.Event())
            wall = time.monotonic() - started
            spent = [sum(one.cpu_times()[:2]) - t for one, t in zip(everyone, spent, strict=True)]
        orders.send(False)
        begun, slept = orders.recv()
        processes[0].terminate()
    each = [round(1e3 * t / runs, 2) for t in spent]
    return {
        "runs": runs,
        "ended once": sum(count == 1 for count in todo.ends.values()),
        "failed": len(todo.failures),
        "workers killed": kills,
        "begun again": begun - runs,
        "seconds": round(wall, 1),
        "processor time a run, ms: scheduler, command, workers": each,
        "idle time of a worker a run, ms": round(1e3 * (wall * workers - slept) / runs, 1),
        **{f"MiB of the {name}, by tenths of the runs": sizes for name, sizes in memory.items()},
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--killed", type=float, default=0.1, help="kills a run")
    parser.add_argument("--quick", action="store_true", help="sixty runs of 0.1 s on six workers")
    given = parser.parse_args()
    asked = (given.runs, given.workers, given.seconds, given.killed)
    print("| | |\n|---|---|")
    for name, value in measure(*((60, 6, 0.1, 0.1) if given.quick else asked)).items():
        print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
