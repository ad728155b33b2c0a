"""Processes as forks of one that has imported torch: a start takes milliseconds instead of seconds.

    forks.begin("forks:rnnopt", "train", "--task", "digits-rows")

is a process that calls a function of a module with arguments, here the command line. It can be
waited for, killed and interrupted as a `subprocess.Popen`. The forking process, `python forks.py`,
reads a line of JSON for each process to begin, or a process's number to ask for its exit code.
"""

import atexit
import importlib
import itertools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

import pytest

NUMBERS = itertools.count()
LATER = (  # what commands would else import each for itself
    "distributed",
    "quick_sqlite",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
    "rnnopt.cli.commands.compare",
    "rnnopt.runs.runner",
    "optuna",
    "psycopg",
    "alembic.command",
    "scipy.stats",
    "matplotlib.pyplot",
)


# -- in the tests ----------------------------------------------------------------------------------


class Process:
    """A fork.

    Args:
        number: of the process.
        out: file with what it prints.
        error: and with its errors.
    """

    def __init__(self, number: int, out: Path, error: Path):
        self.pid, self._out, self._error = number, out, error
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        if self.poll() is None:
            self.kill()
            self.wait()

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = ask(self.pid)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """The exit code, once it has ended."""
        limit = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it printed and its errors, once it has ended."""
        self.wait(timeout)
        return self._out.read_text("utf-8"), self._error.read_text("utf-8")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def server() -> subprocess.Popen:
    """The process that forks."""
    started = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def end() -> None:
        started.communicate()

    atexit.register(end)
    return started


@cache
def outputs() -> Path:
    """The folder of what forks print."""
    folder = tempfile.TemporaryDirectory(prefix="rnnopt-forks-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def ask(question: object) -> int | None:
    """What the forking process answers."""
    pipes = server()
    assert pipes.stdin is not None
    assert pipes.stdout is not None
    pipes.stdin.write(json.dumps(question) + "\n")
    pipes.stdin.flush()
    return json.loads(pipes.stdout.readline())


def begin(call: str, *arguments: object, environment: dict[str, str] | None = None) -> Process:
    """A fork that calls a function, "module:name", where this process is and in its environment."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    given = [str(argument) for argument in arguments]
    own = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | (environment or {})
    number = next(NUMBERS)
    out, error = (outputs() / f"{number}.{kind}" for kind in ("out", "error"))
    for file in (out, error):
        file.touch()
    process = ask([call, given, os.getcwd(), own, str(out), str(error)])
    assert process is not None
    return Process(process, out, error)


def as_torchrun(call: str, *arguments: object, count: int = 2) -> list[Process]:
    """So many processes in the environment that torchrun gives its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = dict(
        TORCHELASTIC_RUN_ID="none", WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    ranks = [dict(RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]
    return [begin(call, *arguments, environment=shared | rank) for rank in ranks]


# -- what forks do ---------------------------------------------------------------------------------


def with_warnings_as_errors() -> None:
    """As `python -W error`, in worker processes too."""
    sys.warnoptions[:] = ["error"]
    warnings.simplefilter("error")


def rnnopt(*arguments: str) -> None:
    """The command, as `python -W error -m rnnopt` begins it."""
    with_warnings_as_errors()
    sys.argv = ["rnnopt", *arguments]
    importlib.import_module("rnnopt.__main__").main()


def alone(*arguments: str) -> None:
    """The command without a report, which trains its runs itself: kill -9 takes both."""
    from pools import in_this_process

    compare = importlib.import_module("rnnopt.cli.commands.compare")
    compare.show_report = lambda *arguments: None  # type: ignore[attr-defined]
    with in_this_process():
        rnnopt(*arguments)


def code(text: str) -> None:
    """Some lines, as `python -c` begins them."""
    exec(text, {})


def script(path: str, *arguments: str) -> None:
    """A script, as `python -W error SCRIPT` begins it."""
    with_warnings_as_errors()
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


# -- in the process that forks ---------------------------------------------------------------------


def fork(call: str, arguments: list, folder: str, environment: dict, out: str, error: str) -> int:
    """Begins a fork; its process's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, name in ((0, os.devnull), (1, out), (2, error)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
        module, name = call.split(":")
        getattr(importlib.import_module(module), name)(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def code_of(process: int) -> int | None:
    """The exit code of a fork, None while it runs."""
    ended, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    """Does what it reads."""
    import torch

    torch.set_num_threads(1)
    sys.modules["forks"] = sys.modules["__main__"]
    for name in LATER:
        with suppress(ImportError):
            importlib.import_module(name)
    os.fsync = lambda descriptor: None  # SIGKILL takes nothing from the system's buffers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests end it
    begun = []
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, list):
            begun.append(answer := fork(*asked))
        else:
            answer = code_of(asked)
        print(json.dumps(answer), flush=True)
    for process in begun:  # the tests are over, or were killed
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
