"""Claims of several processes on gloo: modules of functions, of which all processes call each.

The processes of one size are begun once for all claims of a module, and each writes
FOLDER/NAME.RANK, "ok" or a traceback. After a failure a process leaves, for the others would wait
for it. A claim is given (rank, size) and a process group of its process alone.
"""

import datetime
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path

import forks
import pytest
import torch.distributed as dist

LIMIT = 150  # seconds for all claims of so many processes: those that hang have failed
WAIT = 30  # seconds that a process waits for the others


def started(call, size, folder, *arguments):
    """Calls a function, "module:name", in so many processes; exit codes, and what they printed."""
    store = f"store.{next(forks.NUMBERS)}"
    processes = [
        forks.begin(
            "processes:join", call, rank, size, folder, store, *arguments,
            environment={"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        codes = [process.wait(LIMIT) for process in processes]
    except subprocess.TimeoutExpired:
        codes = ["late"]
    for process in processes:
        process.kill()
    texts = [text for process in processes for text in process.communicate()]
    return codes, "\n".join([f"exit codes {codes}", *texts])


def join(call, rank, size, folder, store, *arguments):
    """In one of several processes: calls the function with (rank, size), folder and arguments."""
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/{store}", int(size)), rank=int(rank),
        world_size=int(size), timeout=datetime.timedelta(seconds=WAIT),
    )  # fmt: skip
    module, name = call.split(":")
    getattr(import_module(module), name)((int(rank), int(size)), Path(folder), *arguments)
    dist.destroy_process_group()


@cache
def results(module, size):
    """What each process wrote of each claim: {name: [text, …]}, and how the processes ended."""
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        _, ended = started("processes:run_claims", size, folder, module.__name__)
        for claim in module.CHECKS[size]:
            files = [folder / f"{claim.__name__}.{rank}" for rank in range(size)]
            found[claim.__name__] = [f.read_text() if f.exists() else "no answer" for f in files]
    return found, ended


def claims(module):
    """(size, name) of every claim, for pytest's parametrize; more than two processes take long."""
    return [
        pytest.param(size, check.__name__, marks=[pytest.mark.full] if size > 2 else [])
        for size, every in module.CHECKS.items()
        for check in every
    ]


def claim_holds(module, size, name):
    """Asserts that all processes found the claim true."""
    found, ended = results(module, size)
    assert found[name] == ["ok"] * size, "\n".join([*found[name], ended])


def run_claims(where, folder, module):
    """In one of several processes: tries the claims for so many, in order."""
    rank, size = where
    alone = [dist.new_group([other]) for other in range(size)][rank]
    for check in import_module(module).CHECKS[size]:
        result = folder / f"{check.__name__}.{rank}"
        try:
            check(where, alone)
        except Exception:
            result.write_text(traceback.format_exc())
            sys.exit(1)
        result.write_text("ok")
