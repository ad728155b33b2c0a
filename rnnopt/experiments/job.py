"""A run to execute, and what is known of it while it is under way."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnnopt.config.run_config import RunConfig


@dataclass
class Live:
    """The last news of a run.

    Args:
        worker: address of the worker that trains it; "" before it begins.
        record: its last evaluation on validation data, or None.
        best: its best validation metric, or None.
        over: whether it has ended.
    """

    worker: str = ""
    record: dict[str, float] | None = None
    best: float | None = None
    over: bool = False

    def update(self, news: dict[str, Any]) -> None:
        """Takes over a message of `worker.execute`."""
        self.worker = news["worker"]
        self.record, self.best = news.get("record"), news.get("best")

    @property
    def rate(self) -> float:
        """Gradient evaluations per second of training."""
        record = self.record or {}
        seconds = record.get("seconds", 0.0)
        return record.get("gradient_evaluations", 0.0) / seconds if seconds else 0.0


@dataclass(frozen=True)
class Job:
    """A run to execute, and its folder."""

    config: RunConfig
    path: Path
    live: Live = field(default_factory=Live, compare=False, repr=False)


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
