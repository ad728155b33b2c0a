"""Many short runs on many workers, some of which die: what the engine costs, and that none is lost.

    python benchmarks/many_runs.py --runs 10000 --workers 64 --seconds 1 --killed 0.1

The learner is simulated: a run sleeps. All workers, the scheduler and the command are in this one
process, so its processor time is that of all of them. A worker that is killed loses its connection
in the middle of a run, and another takes its place. Prints a table: runs that ended, failed and
were begun again, processor time and idle time of a worker a run, and memory as the runs go by.
"""

import argparse
import random
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from distributed import Worker

from rnnopt.config.run_config import RunConfig
from rnnopt.experiments import cluster, worker
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job


@dataclass
class Sleeper:
    """The simulated learner; counts the runs that were begun, and the seconds that it slept."""

    seconds: float
    begun: int = 0
    slept: float = 0.0

    def __call__(self, order: dict[str, Any], path: Path, listener: Any, stop: Any) -> None:
        self.begun += 1
        start = time.monotonic()
        while time.monotonic() < start + self.seconds and not stop():
            time.sleep(min(0.25, self.seconds))
        self.slept += time.monotonic() - start


class Jobs:
    """A queue of runs that counts what comes of them."""

    def __init__(self, count: int, out: Path):
        self.waiting = [Job(RunConfig(), out / str(i)) for i in range(count)]
        self.ends = dict.fromkeys((job.path for job in self.waiting), 0)
        self.failures: list[str] = []

    def poll(self) -> None:
        """Does nothing."""

    def left(self) -> bool:
        """Whether a run has not begun."""
        return bool(self.waiting)

    def take(self) -> Job | None:
        """The next run."""
        return self.waiting.pop() if self.waiting else None

    def record(self, job: Job, record: dict[str, float]) -> bool:
        """Stops no run."""
        return False

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Counts an end."""
        self.ends[job.path] += 1
        if error is not None:
            self.failures.append(str(error))

    def close(self) -> None:
        """Discards what is left."""
        self.waiting.clear()

    def over(self) -> int:
        """Runs that have ended."""
        return sum(self.ends.values())


async def hire(crew: list[Worker], address: str, count: int) -> None:
    """Begins workers of the scheduler at an address."""
    crew += [await Worker(address, nthreads=1, memory_limit=0) for _ in range(count)]


async def kill(crew: list[Worker], address: str, names: random.Random) -> None:
    """Breaks a worker's connection and puts another worker in its place."""
    lost = crew.pop(names.randrange(len(crew)))
    lost.batched_stream.comm.abort()
    await lost.close(timeout=0, executor_wait=False, nanny=False)
    await hire(crew, address, 1)


async def dismiss(crew: list[Worker]) -> None:
    """Ends the workers."""
    for one in crew:
        await one.close(executor_wait=False, nanny=False)


def measure(runs: int, workers: int, seconds: float, killed: float) -> dict[str, Any]:
    """The figures."""
    process, names = psutil.Process(), random.Random(0)
    sleeper = Sleeper(seconds)
    worker._train, worker._one_at_a_time = sleeper, nullcontext()  # type: ignore[assignment]
    cluster.processes = False
    cluster.SETTINGS["distributed.scheduler.allowed-failures"] = 1000  # none may fail
    memory: dict[int, float] = {}
    kills = 0
    with tempfile.TemporaryDirectory() as folder:
        engine, todo = Engine(Path(folder), workers), Jobs(runs, Path(folder))
        client: Any = engine._open(workers)
        crew, address = list[Worker](), client.scheduler.address
        client.sync(hire, crew, address, workers - 1)  # the cluster has one
        started, spent = time.monotonic(), time.process_time()

        def tell() -> None:
            nonlocal kills
            over = todo.over()
            if killed and todo.left() and kills < killed * over:
                client.sync(kill, crew, address, names)
                kills += 1
            memory.setdefault(10 * over // runs * 10, round(process.memory_info().rss / 2**20))

        engine.run(todo, workers, tell, threading.Event())
        wall, spent = time.monotonic() - started, time.process_time() - spent
        client.sync(dismiss, crew)
        engine.close()
    return {
        "runs": runs,
        "ended once": sum(count == 1 for count in todo.ends.values()),
        "failed": len(todo.failures),
        "workers killed": kills,
        "begun again": sleeper.begun - runs,
        "seconds": round(wall, 1),
        "processor time a run, ms": round(1e3 * spent / runs, 2),
        "idle time of a worker a run, ms": round(1e3 * (wall * workers - sleeper.slept) / runs, 1),
        "memory by share of the runs, MiB": memory,
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
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
