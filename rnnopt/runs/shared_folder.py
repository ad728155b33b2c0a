"""The run folder of several processes that share a run: one process writes, the others read.

The first process broadcasts the outcome of each of its file operations: an error is raised in all.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import distributed

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.distributed import mean_numbers, processes
from rnnopt.runs.files import json_bytes, read_json
from rnnopt.runs.folder import GO_ON, RunFolder
from rnnopt.training.data_parallel import _restarts, rank, started

NOTE = "torchrun.json"  # file in the run folder that identifies the torchrun that began it


def goes_on(path: Path | None, resume: bool) -> bool:
    """Whether to resume: with `resume`, and after torchrun has restarted the processes."""
    if started() == 1:
        return resume
    if path is None:
        raise UserError("several processes need the run's folder: give --out.")
    begun = False
    if rank() == 0:
        with broadcast_error():
            begun = _restarts() > 0 and _begun_by(path) == _agent()
    else:
        receive_error()
    return resume or mean_numbers([float(begun)])[0] > 0


def _agent() -> dict[str, Any]:
    """Identifies this torchrun, which outlives its processes."""
    names = (os.environ["TORCHELASTIC_RUN_ID"], platform.node(), os.getppid())
    return {"processes": started(), "torchrun": " ".join(map(str, names))}


def _begun_by(path: Path) -> dict[str, Any] | None:
    """The torchrun that began the run; None without a run, or if it ended before its config."""
    begun = (path / "config.json").exists() and (path / NOTE).exists()
    return read_json(path / NOTE) if begun else None


class LeaderFolder(RunFolder):
    """The run folder of the first process, which broadcasts errors to the others."""

    @classmethod
    def create(cls, path: Path, config: RunConfig, data: dict[str, Any] | None = None) -> RunFolder:
        """Creates the folder, or raises UserError in all processes."""
        folder = cls(path)
        with broadcast_error():
            RunFolder.refuse_run(folder)
            folder._make()
            folder._write(NOTE, json_bytes(_agent()))  # first: the config makes it a run
            RunFolder.create(path, config, data)
        return folder

    def refuse_run(self, advice: str = GO_ON) -> None:
        """Raises UserError in all processes if the folder holds a run."""
        with broadcast_error():
            super().refuse_run(advice)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other runs, or raises in all processes."""
        with ExitStack() as stack:
            with broadcast_error():
                stack.enter_context(super().locked())
            yield


class FollowerFolder(RunFolder):
    """The same folder in the other processes, which read it and write nothing."""

    @classmethod
    def create(cls, path: Path, config: RunConfig, data: dict[str, Any] | None = None) -> RunFolder:
        """Opens the folder that the first process has created."""
        receive_error()
        return cls(path)

    def refuse_run(self, advice: str = GO_ON) -> None:
        """Waits for the outcome in the first process."""
        receive_error()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until the first process has the lock."""
        receive_error()
        yield

    def _nothing(self, *_: Any) -> None:
        """Does nothing: the first process does it."""

    keep_records = append_record = write_checkpoint = _write = _nothing  # type: ignore[assignment]
    write_error = write_result = write_weights = _nothing  # type: ignore[assignment]


def folder_kind() -> type[RunFolder]:
    """The class of run folder for this process."""
    if processes() == 1:
        return RunFolder
    return LeaderFolder if distributed.get_rank() == 0 else FollowerFolder


@contextmanager
def broadcast_error() -> Iterator[None]:
    """Broadcasts an error inside the block, or its success, to the other processes."""
    message: list[str | None] = [None]
    try:
        yield
    except UserError as error:
        message = [str(error)]
        raise
    except BaseException as error:  # the others must not wait forever
        message = [f"the first process failed with {type(error).__name__}: {error}"]
        raise
    finally:
        distributed.broadcast_object_list(message, src=0)


def receive_error() -> None:
    """Waits for the broadcast of the first process; raises its UserError, if any."""
    message: list[str | None] = [None]
    distributed.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise UserError(message[0])
