"""Runs claims in several processes on gloo: scripts of functions, of which all processes call each.

`python SCRIPT RANK SIZE FOLDER` runs the claims for SIZE processes in order and writes
FOLDER/NAME.RANK, "ok" or a traceback. After a failure a process leaves, for the others would wait
for it. A claim is given (rank, size) and a process group of its process alone.
"""

import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

import torch.distributed as dist

LIMIT = 150  # seconds for all claims of so many processes: those that hang have failed
WAIT = 30  # seconds that a process waits for the others


def started(script, size, folder, *arguments):
    """Runs `script RANK SIZE FOLDER …` in so many processes; exit codes, and what they printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(open(folder / f"log.{rank}", "w+")) for rank in range(size)]
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(size), str(folder), *arguments],
                stdout=log, stderr=log, env=environment,
            )
            for rank, log in enumerate(logs)
        ]  # fmt: skip
        try:
            codes = [process.wait(LIMIT) for process in processes]
        except subprocess.TimeoutExpired:
            codes = ["late"]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    texts = [(folder / f"log.{rank}").read_text() for rank in range(size)]
    return codes, "\n".join([f"exit codes {codes}", *texts])


@cache
def results(script, size, names):
    """What each process wrote of each claim: {name: [text, …]}, and how the processes ended."""
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        _, ended = started(script, size, folder)
        for name in names:
            files = [folder / f"{name}.{rank}" for rank in range(size)]
            found[name] = [f.read_text() if f.exists() else "no answer" for f in files]
    return found, ended


def claims(checks):
    """(size, name) of every claim, for pytest's parametrize."""
    return [(size, check.__name__) for size, every in checks.items() for check in every]


def claim_holds(script, checks, size, name):
    """Asserts that all processes found the claim true."""
    found, ended = results(script, size, tuple(check.__name__ for check in checks[size]))
    assert found[name] == ["ok"] * size, "\n".join([*found[name], ended])


def run_claims(checks):
    """What a script does as __main__."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), size), rank=rank, world_size=size,
        timeout=datetime.timedelta(seconds=WAIT),
    )  # fmt: skip
    alone = [dist.new_group([other]) for other in range(size)][rank]
    for check in checks[size]:
        result = folder / f"{check.__name__}.{rank}"
        try:
            check((rank, size), alone)
        except Exception:
            result.write_text(traceback.format_exc())
            sys.exit(1)
        result.write_text("ok")
    dist.destroy_process_group()
