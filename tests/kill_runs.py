"""Runs that are killed, in forks of this one process, which imports torch once. Prints JSON.

    python tests/kill_runs.py FOLDER

Each fork trains the same small run in a folder of its own and is ended by SIGKILL, either by its
parent after a share of the time the whole run takes, or by itself at a point of a write: before it,
in its middle, once it is on the disk, before and after each rename. Another fork goes on with the
run. test_faults.py reads what each came to.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import same_runs
import torch

from rnnopt.config.run_config import RunConfig
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run

CONFIG = RunConfig(
    "digits-rows", hidden=4, budget="20gradients", evaluate_every=2, optimizer="adam",
    seed=5,
)  # fmt: skip
OTHERS = ("frank-wolfe", "asnaq:memory=3", "admm", "lbfgs")
MOMENTS = [random.Random(f"kill {i}").random() for i in range(50)]
POINTS = ("before a write", "in a write", "after a write", "before a rename", "after a rename")


def fork(act) -> int:
    """The process that does `act` and ends."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def train(path: Path, config: RunConfig) -> None:
    """Begins or goes on, as the same command with --resume would."""
    begun = (path / "config.json").exists()
    run(config, path, resume=begun)


def what_came(path: Path) -> str:
    """All that a run is, but its clock, as text."""
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    last = {name: weight.tolist() for name, weight in state["model"].items()}
    files = sorted(p.name for p in path.iterdir())
    return json.dumps([same_runs.what_came(path), last, files])


def die_at(point: str, number: int) -> None:
    """Has this process kill itself at the `number`-th write or rename from now."""
    left = iter(range(number))
    rename = os.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_sync(descriptor: int) -> None:
        due = "write" in point and next(left, None) is None
        added = os.readlink(f"/proc/self/fd/{descriptor}").endswith("metrics.jsonl")
        if due and point.startswith("before") and not added:
            os.ftruncate(descriptor, 0)
        if due and point.startswith("in"):
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 10))
        if due and not point.startswith("after"):
            die()
        if due:
            die()

    def dying_rename(old: Path, new: Path) -> None:
        due = "rename" in point and next(left, None) is None
        if due and point.startswith("before"):
            die()
        rename(old, new)
        if due:
            die()

    os.fsync, os.replace = dying_sync, dying_rename


def killed(path: Path, config: RunConfig, point: str, number: int) -> bool:
    """Trains until a point of the `number`-th write; whether it came to that."""

    def act() -> None:
        die_at(point, number)
        train(path, config)

    return os.WIFSIGNALED(os.waitpid(fork(act), 0)[1])


def finish(path: Path, config: RunConfig) -> str:
    """Goes on to the end in another process."""
    status = os.waitpid(fork(lambda: train(path, config)), 0)[1]
    return what_came(path) if status == 0 else f"status {status}"


def main() -> None:
    """Kills and goes on; prints what came of it all."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # SIGKILL takes nothing from the system's buffers
    train(folder / "first", CONFIG)  # imports what forks would import each for itself
    started = time.perf_counter()
    whole = finish(folder / "whole", CONFIG)
    seconds = time.perf_counter() - started
    came: dict[str, str] = {}
    unfinished = 0
    for i, moment in enumerate(MOMENTS):
        path = folder / f"moment-{i}"
        child = fork(lambda path=path: train(path, CONFIG))
        time.sleep(moment * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        over = (path / "result.json").exists() and (
            RunFolder(path).read_result()["status"] != "running"
        )
        unfinished += not over
        came[f"{moment:.3f} of the run"] = finish(path, CONFIG)
    points = 0
    short = replace(CONFIG, budget="4gradients", evaluate_every=2)
    wholes = {name: finish(folder / name, replace(short, optimizer=name)) for name in OTHERS}
    for point in POINTS:
        number = 0
        while True:
            name = OTHERS[number % len(OTHERS)]
            path = folder / f"{point}-{number}"
            config = replace(short, optimizer=name)
            if not killed(path, config, point, number):
                break
            if number % 3 == 0:
                killed(path, config, point, 2)  # and once more while it goes on
            points += 1
            matches = finish(path, config) == wholes[name]
            came[f"{point} {number}"] = whole if matches else f"another end of {name}"
            number += 1
    wrong = {name: end[:2000] for name, end in came.items() if end != whole}
    print(json.dumps(dict(wrong=wrong, moments=len(MOMENTS), unfinished=unfinished, points=points)))


if __name__ == "__main__":
    main()
