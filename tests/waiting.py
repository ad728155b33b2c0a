"""Waiting for what another process does, and finding it."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], Any], *processes: subprocess.Popen) -> Any:
    """What `condition` gives once it is true; the processes must not end before."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("not within 90 s")


def holder_of(path: Path) -> int | None:
    """The process that holds a run's folder; None if there is none. Linux alone."""
    lock = (path / "lock").resolve()
    found = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    return next((process for process in found if lock in files_of(process)), None)


def files_of(process: int) -> set[Path]:
    """The files that a process has open."""
    try:
        return {file.readlink() for file in Path(f"/proc/{process}/fd").iterdir()}
    except OSError:  # it has ended
        return set()
