"""The folder of a run: the only module that opens run files.

    config.json        the settings; they suffice to repeat the run
    data.json          for the user's own data: files and SHA-256, class names, statistics
    environment.json   versions, machine, threads, load
    metrics.jsonl      one line per evaluation on validation data, null for NaN and infinity
    checkpoint.pt      everything needed to resume bit for bit
    checkpoint-previous.pt  the checkpoint before it
    best.pt            the weights that were best on validation data, of a finished run
    result.json        status, and at the end the final metrics
    error.txt          the traceback of a run that failed
    lock               held by the process that works on the run

Files are written under a temporary name and renamed, so a crash leaves the old or the new file.
Checkpoints, weights, metrics and result have checksums (`checksums`): a damaged file is not used.
Checkpoints are read with weights_only=True: nothing in them is executed.
"""

import hashlib
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
    LAST_EVALUATION,
    PREVIOUS,
    SETTINGS,
    last_good,
    read_tensors,
)
from rnnopt.runs.checksums import Damaged, pack, with_check, without_check
from rnnopt.runs.environment import environment, load_average
from rnnopt.runs.files import (
    append,
    json_bytes,
    read_json,
    write_atomically,
)
from rnnopt.runs.metrics import NAME as METRICS
from rnnopt.runs.metrics import Record, as_lines, read_history
from rnnopt.training.imported import source_of

TUNING = "tuning"  # subfolder of a comparison with the runs that chose its learning rates
BEST = "best.pt"
UNFINISHED = ("running", "interrupted", "failed")  # statuses of a run that can be resumed
logger = logging.getLogger("rnnopt")  # without configuration, warnings go to standard error

GO_ON = "continue with --resume or choose another --out"  # advice for a folder that holds a run


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
        self._newest_is_good = True  # whether the next checkpoint keeps the newest one
        # Gradient evaluations at the last line of metrics.jsonl.
        self._last_evaluation: float | None = None

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, data: dict[str, Any] | None = None
    ) -> "RunFolder":
        """Creates a folder for `config`; raises UserError if it already holds a run.

        `config.json` is written last: with it the folder holds a run.

        Args:
            path: the folder.
            config: config of the run.
            data: content of data.json, for the user's own data.
        """
        folder = cls(path)
        folder.refuse_run()
        folder._make()
        facts = environment() | {"load": load_average(), "checksums": "sha256"}
        if imported := source_of(config.optimizer):
            facts["optimizer"] = imported
        folder._write("environment.json", json_bytes(facts))
        if data is not None:
            folder._write("data.json", json_bytes(data))
        folder._write("config.json", json_bytes(config.to_dict()))
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of an existing run."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} must be a run folder, but it has no config.json.")
        return cls(path)

    def refuse_run(self, advice: str = GO_ON) -> None:
        """Raises UserError with `advice` at its end if the folder holds a run."""
        try:
            begun = (self.path / "config.json").exists()
        except OSError as error:
            error.filename = None
            raise self._cannot_write(error) from error
        if begun:
            raise UserError(f"{self.path} already holds a run: {advice}.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks out other processes; the system releases the lock when this process ends."""
        self._make()
        # The file stays: without locks in the file system, its existence would count as a lock.
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
        """The settings of the run."""
        saved = read_json(self.path / "config.json")
        try:
            return RunConfig.from_dict(saved)
        except (TypeError, UserError) as error:
            raise UserError(f"{self.path / 'config.json'}: {error}") from error

    def read_environment(self) -> dict[str, Any]:
        """Versions and machine, as recorded when the run began; {} if the file is gone."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def has_checksums(self) -> bool:
        """Whether the run was begun by a version that writes checksums."""
        try:
            return "checksums" in self.read_environment()
        except UserError:  # damaged
            return True

    def read_result(self) -> dict[str, Any]:
        """Status and, for a finished run, its final metrics; {} before it began."""
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
        """Whether the run is finished; with a damaged result it warns and returns False."""
        try:
            status = self.read_result()["status"]
        except UserError as error:
            logger.warning(f"{str(error).rstrip('.')}; the run writes it again.")
            return False
        return status not in UNFINISHED

    def read_records(self) -> list[Record]:
        """The lines of metrics.jsonl, without an incomplete last line from a crash.

        Raises:
            UserError: a line is damaged, or missing in a finished run.
        """
        wanted = self.read_result().get("records", 0)  # first, because the run may end in between
        history = read_history(self.path, self.has_checksums)
        damage = history.damage or history.lack(wanted if isinstance(wanted, int) else 0)
        if damage:
            raise UserError(f"{self.path / METRICS}, {damage}.")
        return history.records

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that is intact, with its lines of metrics.jsonl; None before any.

        A damaged checkpoint gives a warning.

        Raises:
            UserError: no checkpoint is intact, or one belongs to another run.
        """
        state, damage = last_good(self.path, self.has_checksums, self.read_config())
        self._newest_is_good = not damage
        if damage:
            logger.warning(f"{damage[0]}; resuming from the checkpoint before it.")
        return state

    def read_data(self) -> dict[str, Any]:
        """The content of data.json, for the user's own data."""
        return read_json(self.path / "data.json")

    def read_weights(self) -> dict[str, Tensor]:
        """The best weights of a finished run; if best.pt is damaged, those of the checkpoint."""
        if not (self.path / BEST).exists() and not self.is_over():
            status = self.read_result()["status"]
            raise UserError(
                f"{self.path} must hold a run that is over, but it has no best.pt (status:"
                f" {status}): finish it with rnnopt train --resume --out {self.path}."
            )
        on_cpu = torch.device("cpu")  # whatever device it was trained on
        try:
            return read_tensors(self.path / BEST, self.has_checksums, on_cpu)
        except Damaged as error:
            try:
                state = read_tensors(self.path / CHECKPOINT, self.has_checksums, on_cpu)
                weights = state["best_weights"]
            except (Damaged, LookupError, TypeError):
                raise UserError(f"{error}.") from error
            logger.warning(f"{error}; the weights are taken from {CHECKPOINT}.")
            return weights

    # -- writing -----------------------------------------------------------------------------------

    def keep_records(self, count: int) -> None:
        """Removes the lines of metrics.jsonl after the first `count`, newer than the checkpoint."""
        records = read_history(self.path, self.has_checksums).records[:count]
        self._write(METRICS, as_lines(records))
        self._last_evaluation = records[-1].get("gradient_evaluations") if records else None

    def append_record(self, record: Record) -> None:
        """Appends a line to metrics.jsonl."""
        try:
            append(self.path / METRICS, as_lines([record]))
        except OSError as error:
            raise self._cannot_write(error) from error
        self._last_evaluation = record.get("gradient_evaluations")

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint and keeps the previous one as `checkpoint-previous.pt`."""
        settings = json.dumps(self._config.to_dict())
        keep = PREVIOUS if self._newest_is_good else None
        about = {SETTINGS: settings, LAST_EVALUATION: self._last_evaluation}
        self._write(CHECKPOINT, pack(state | about), keep)
        self._newest_is_good = True

    @cached_property
    def _config(self) -> RunConfig:
        return self.read_config()

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Replaces the best weights."""
        self._write(BEST, pack(weights))

    def write_data(self, data: dict[str, Any]) -> None:
        """Replaces what is known of the user's own data."""
        self._write("data.json", json_bytes(data))

    def write_error(self, text: str) -> None:
        """Stores the traceback of a failure."""
        self._write("error.txt", text.encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """Replaces the result."""
        self._write("result.json", json_bytes(with_check(result)))

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            error.filename = None  # it may name a parent folder
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
    """The run folders at or below `paths`, sorted, without the tuning runs of a comparison."""
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; name a run folder or a folder of them.")
        below = (config.parent for config in path.rglob("config.json"))
        found |= {run for run in below if TUNING not in run.relative_to(path).parts}
    if not found:
        raise UserError(f"no run was found in {', '.join(map(str, paths))}.")
    return [RunFolder.open(path) for path in sorted(found)]


def folder_of(name: str) -> str:
    """A name for a folder, from that of an optimizer with its options, say."""
    safe = "".join(c if c.isalnum() or c in ".=-" else "_" for c in name)
    if len(safe.encode()) <= 200:  # file systems take 255 bytes
        return safe
    return f"{safe[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def new_folder(name: str) -> Path:
    """runs/NAME, with a number appended if that exists."""
    name = folder_of(name)
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path
