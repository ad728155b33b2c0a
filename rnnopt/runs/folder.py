"""The folder of a run: the only module that opens run files.

    config.json        what was asked for; the run can be repeated from it alone
    data.json          of a user's own data: files and sha256, class names, statistics
    environment.json   versions, machine, threads
    metrics.jsonl      one line per evaluation on validation data, null for no number
    checkpoint.pt      everything to go on bit for bit
    checkpoint-previous.pt  the checkpoint before it
    best.pt            the weights that were best on validation data, once the run is over
    result.json        status, and at the end the final figures
    error.txt          the traceback of a run that failed
    lock               held by the process that works on the run

Files are written under a temporary name and renamed, so a crash leaves the old or the new one.
Checkpoints, weights, metrics and result have checksums (`checksums`): one that is damaged is not
used. Checkpoints are read with weights_only=True: nothing in them is executed.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.config.old_names import RECORD, renamed
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.checkpoints import (
    CHECKPOINT,
    LAST_LOOK,
    PREVIOUS,
    SETTINGS,
    last_good,
    read_tensors,
)
from rnnopt.runs.checksums import Damaged, pack, with_check, without_check
from rnnopt.runs.environment import environment
from rnnopt.runs.files import (
    append,
    json_bytes,
    read_json,
    write_atomically,
)
from rnnopt.runs.metrics import NAME as METRICS
from rnnopt.runs.metrics import Record, as_lines, read_history

TUNING = "tuning"  # the folder, in a comparison's, of the runs that chose its learning rates
BEST = "best.pt"
UNFINISHED = ("running", "interrupted", "failed")  # statuses of a run with something left to do
notes = logging.getLogger("rnnopt")  # a warning goes to standard error where nobody says otherwise

GO_ON = "go on with --resume or choose another --out"  # with a folder that holds a run


class CannotWrite(UserError):
    """A file of a run folder cannot be written: a full disk, no permission, …."""


class InUse(UserError):
    """Another process works in a folder."""


class RunFolder:
    """The files of one run.

    Args:
        path: the folder; use `create` or `open`, which check it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._newest_is_good = True  # so that it is kept when the next checkpoint is written
        self._last_look: float | None = None  # evaluations of the last line of metrics.jsonl

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, data: dict[str, Any] | None = None
    ) -> "RunFolder":
        """A new folder for `config`; refuses one that holds a run.

        `config.json` is written last: with it the folder holds a run.

        Args:
            path: the folder.
            config: of the run.
            data: what data.json is to say of data of the user's own.
        """
        folder = cls(path)
        folder.refuse_run()
        folder._make()
        facts = environment() | {"checksums": "sha256"}
        folder._write("environment.json", json_bytes(facts))
        if data is not None:
            folder._write("data.json", json_bytes(data))
        folder._write("config.json", json_bytes(config.to_dict()))
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that was begun."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} must be a run folder, but it has no config.json.")
        return cls(path)

    def refuse_run(self, advice: str = GO_ON) -> None:
        """Raises UserError, which ends with `advice`, if the folder holds a run."""
        try:
            begun = (self.path / "config.json").exists()
        except OSError as error:
            error.filename = None
            raise self._cannot_write(error) from error
        if begun:
            raise UserError(f"{self.path} already holds a run: {advice}.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes off the run; the system lifts the lock when the process ends."""
        self._make()
        # The file is kept, for without locks in the file system its existence would stand for one.
        lock = FileLock(self.path / "lock", blocking=False, preserve_lock_file=True)
        try:
            held = lock.acquire()
        except Timeout as error:
            raise InUse(f"{self.path} is in use by another process.") from error
        except OSError as error:
            if error.filename:  # it cannot be opened
                error.filename = None
                raise self._cannot_write(error) from error
            raise UserError(f"{self.path} cannot be locked: {error.strerror}.") from error
        with held:
            yield

    # -- reading -----------------------------------------------------------------------------------

    def read_config(self) -> RunConfig:
        """What was asked for."""
        saved = read_json(self.path / "config.json")
        try:
            return RunConfig.from_dict(saved)
        except (TypeError, UserError) as error:
            raise UserError(f"{self.path / 'config.json'}: {error}") from error

    def read_environment(self) -> dict[str, Any]:
        """Versions and machine, as noted when the run began; {} if that file is gone."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def has_checksums(self) -> bool:
        """Whether the run was begun by a version that writes them."""
        try:
            return "checksums" in self.read_environment()
        except UserError:  # damaged
            return True

    def read_result(self) -> dict[str, Any]:
        """Status and, once the run is over, its figures; {} before it began."""
        path = self.path / "result.json"
        if not path.exists():
            return {"status": "running"}
        try:
            result = without_check(read_json(path), self.has_checksums)
        except Damaged as error:
            raise UserError(f"{path} is damaged: {error}.") from error
        if not isinstance(result.get("status"), str):
            raise UserError(f"{path} must have a status, got none.")
        for name in ("best", "to_target"):
            if isinstance(result.get(name), dict):
                result[name] = renamed(result[name], RECORD)
        return renamed(result, RECORD)

    def is_over(self) -> bool:
        """Whether nothing is left to do; a damaged result is said, and to be made anew."""
        try:
            status = self.read_result()["status"]
        except UserError as error:
            notes.warning(f"{str(error).rstrip('.')}; it is made anew.")
            return False
        return status not in UNFINISHED

    def read_records(self) -> list[Record]:
        """The lines of metrics.jsonl; a torn last line, from a crash, is left out.

        Raises:
            UserError: a line is damaged, or a run that is over lacks one.
        """
        wanted = self.read_result().get("records", 0)  # first, for the run may end in between
        history = read_history(self.path, self.has_checksums)
        damage = history.damage or history.lack(wanted if isinstance(wanted, int) else 0)
        if damage:
            raise UserError(f"{self.path / METRICS}, {damage}.")
        return history.records

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that is whole, and whose lines of metrics.jsonl are; None before any.

        What is passed over is said in a warning.

        Raises:
            UserError: there are checkpoints, but no good one, or one of another run.
        """
        state, damage = last_good(self.path, self.has_checksums, self.read_config())
        self._newest_is_good = not damage
        if damage:
            notes.warning(f"{damage[0]}; going on from the checkpoint before it.")
        return state

    def read_data(self) -> dict[str, Any]:
        """What `create` was given of a user's own data."""
        return read_json(self.path / "data.json")

    def read_weights(self) -> dict[str, Tensor]:
        """The best weights of a run that is over; the checkpoint's where best.pt is no good."""
        if not (self.path / BEST).exists() and not self.is_over():
            status = self.read_result()["status"]
            raise UserError(
                f"{self.path} must hold a run that is over, but it has no best.pt (status:"
                f" {status}): finish it with rnnopt train --resume --out {self.path}."
            )
        on_cpu = torch.device("cpu")  # wherever it was trained
        try:
            return read_tensors(self.path / BEST, self.has_checksums, on_cpu)
        except Damaged as error:
            try:
                state = read_tensors(self.path / CHECKPOINT, self.has_checksums, on_cpu)
                weights = state["best_weights"]
            except (Damaged, LookupError, TypeError):
                raise UserError(f"{error}.") from error
            notes.warning(f"{error}; the weights are taken from {CHECKPOINT}.")
            return weights

    # -- writing -----------------------------------------------------------------------------------

    def keep_records(self, count: int) -> None:
        """Forgets the lines of metrics.jsonl after the first `count`, newer than the checkpoint."""
        records = read_history(self.path, self.has_checksums).records[:count]
        self._write(METRICS, as_lines(records))
        self._last_look = records[-1].get("gradient_evaluations") if records else None

    def append_record(self, record: Record) -> None:
        """Adds a line to metrics.jsonl."""
        try:
            append(self.path / METRICS, as_lines([record]))
        except OSError as error:
            raise self._cannot_write(error) from error
        self._last_look = record.get("gradient_evaluations")

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint; the one before is kept, as `checkpoint-previous.pt`."""
        settings = json.dumps(self._config.to_dict())
        keep = PREVIOUS if self._newest_is_good else None
        about = {SETTINGS: settings, LAST_LOOK: self._last_look}
        self._write(CHECKPOINT, pack(state | about), keep)
        self._newest_is_good = True

    @cached_property
    def _config(self) -> RunConfig:
        return self.read_config()

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Replaces the best weights."""
        self._write(BEST, pack(weights))

    def write_error(self, text: str) -> None:
        """Keeps the traceback of a failure."""
        self._write("error.txt", text.encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """Replaces the result."""
        self._write("result.json", json_bytes(with_check(result)))

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            error.filename = None  # a folder on the way, perhaps
            raise self._cannot_write(error) from error

    def _write(self, name: str, content: bytes, keep: str | None = None) -> None:
        try:
            if keep is None:
                write_atomically(self.path / name, content)
            else:
                write_atomically(self.path / name, content, self.path / keep)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> CannotWrite:
        place = error.filename or f"the run folder {self.path}"
        return CannotWrite(f"cannot write {place}: {error.strerror or error}.")


def find_runs(paths: list[Path]) -> list[RunFolder]:
    """The run folders at or below `paths`, sorted by path; not the tuning runs of a comparison."""
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; name a run folder or a folder of them.")
        below = (config.parent for config in path.rglob("config.json"))
        found |= {run for run in below if TUNING not in run.relative_to(path).parts}
    if not found:
        raise UserError(f"no run was found in {', '.join(map(str, paths))}.")
    return [RunFolder.open(path) for path in sorted(found)]


def new_folder(name: str) -> Path:
    """runs/NAME, with a number behind it if that is taken."""
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path
