"""Many short runs on many workers, some of which die: what the engine costs, and that none is lost.

    python benchmarks/many_runs.py --runs 10000 --workers 64 --seconds 1 --killed 0.1

The learner is simulated: a run sleeps. All workers, the scheduler and the command are in this one
process, so its processor time is that of all of them. A worker that is killed loses its connection
in the middle of a run, and another takes its place. Prints JSON: runs that ended, failed and were
begun again, processor time and idle time of a worker a run, and memory as the runs go by.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

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
            time.sleep(min(0.05, self.seconds))
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


async def kill(local: Any, names: random.Random) -> None:
    """Breaks a worker's connection and puts another worker in its place."""
    busy = [one for one in local.workers.values() if one.status.name == "running"]
    lost = names.choice(busy)
    lost.batched_stream.comm.abort()
    await lost.close(timeout=0, executor_wait=False, nanny=False)


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
        engine._open(workers)
        client: Any = engine._client
        local = client.cluster
        local.scale(workers)
        client.wait_for_workers(workers)
        started, spent = time.monotonic(), time.process_time()

        def tell() -> None:
            nonlocal kills
            over = todo.over()
            if killed and todo.left() and kills < killed * over:
                client.sync(kill, local, names)
                local.scale(workers)
                kills += 1
            memory.setdefault(10 * over // runs * 10, round(process.memory_info().rss / 2**20))

        engine.run(todo, workers, tell, threading.Event())
        wall, spent = time.monotonic() - started, time.process_time() - spent
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
    given = parser.parse_args()
    print(json.dumps(measure(given.runs, given.workers, given.seconds, given.killed), indent=2))


if __name__ == "__main__":
    main()
