"""Commands in forks of this one process, which imports torch once: seconds less for each.

    python tests/forked_commands.py

Reads a line of JSON for each command to begin, [folder to do it in, arguments], and prints the
process's number; for a number to wait for it prints the exit code. The runs of a command are
trained in its own process, so kill -9 takes both; the report of a comparison is left out.
"""

import importlib
import json
import os
import sys

import torch
from pools import in_this_process

from rnnopt.cli import main as command_line

LATER = (
    "torch._dynamo",
    "optuna",
    "psycopg",
    "alembic.command",
    "scipy.stats",
    "matplotlib.pyplot",
)


def begin(folder, arguments):
    """Forks a command that works in a folder; its process's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        with open(f"{os.getpid()}.log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        command_line.main(arguments)
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        os._exit(code)


def main():
    """Does what it reads."""
    torch.set_num_threads(1)
    compare = importlib.import_module("rnnopt.cli.commands.compare")
    compare.show_report = lambda *arguments: None  # type: ignore[attr-defined]
    for name in LATER:
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # SIGKILL takes nothing from the system's buffers
    with in_this_process():
        for line in sys.stdin:
            asked = json.loads(line)
            if isinstance(asked, list):
                print(begin(*asked), flush=True)
            else:
                print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
