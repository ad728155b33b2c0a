"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable
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
