"""Ctrl-C: the first one ends the work at its next safe point, the second one at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts as usual."""
    event = threading.Event()
    usual = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handler(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual[signal.SIGINT])

    for number in usual:
        signal.signal(number, handler)
    try:
        yield event
    finally:
        for number, before in usual.items():
            signal.signal(number, before)


@contextmanager
def end_at_once() -> Iterator[None]:
    """Ctrl-C ends the process without a traceback, as long as nothing is begun."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # else somebody wants Ctrl-C to do nothing
        signal.signal(signal.SIGINT, _end)
    yield
    signal.signal(signal.SIGINT, usual)


def _end(*_: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)
