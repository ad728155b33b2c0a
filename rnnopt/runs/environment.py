"""The environment of a run: versions, processor, threads."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from rnnopt.config.version import VERSION
from rnnopt.layers.kernels import cpu


def environment() -> dict[str, Any]:
    """Versions and machine, as stored with a run."""

    return {
        "rnnopt": VERSION,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "cpu_kernels": cpu.kernels().variant,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def load_average() -> float | None:
    """Processes at work in the last minute, on average; None where the system does not say."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def processor_name() -> str:
    """The processor's model if the system reports it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
