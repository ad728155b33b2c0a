"""The folder of a run: the only module that opens run files.

    config.json        what was asked for; the run can be repeated from it alone
    data.json          of a user's own data: files and sha256, class names, statistics
    environment.json   versions, machine, threads
    metrics.jsonl      one line each time the validation set was looked at, null for no number
    checkpoint.pt      everything to go on bit for bit
    best.pt            the weights with the best validation metric, once the run is over
    result.json        status, and at the end the final figures
    error.txt          the traceback of a run that failed
    lock               held by the process that works on the run

Files are written under a temporary name and renamed, so a crash leaves the old or the new one.
Checkpoints are read with weights_only=True: nothing in them is executed.
"""

import io
import json
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnopt.config import RunConfig
from rnnopt.errors import UserError
from rnnopt.layers.kernels import cpu

if TYPE_CHECKING:
    from matplotlib.figure import Figure
TUNING = "tuning"  # the folder, in a comparison's, of the runs that chose its learning rates


class RunFolder:
    """The files of one run.

    Args:
        path: the folder; use `create` or `open`, which check it.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunFolder":
        """A new folder for `config`; refuses one that holds a run."""
        folder = cls(path)
        try:
            if (path / "config.json").exists():
                raise UserError(
                    f"{path} already holds a run: go on with --resume or choose another --out."
                )
            path.mkdir(parents=True, exist_ok=True)
            write_json(folder.path / "environment.json", environment())
            write_json(folder.path / "config.json", config.to_dict())
        except OSError as error:
            raise UserError(f"cannot write the run folder {path}: {error.strerror}.") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that was begun."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} must be a run folder, but it has no config.json.")
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes off the run; the system lifts the lock when the process ends."""
        try:
            file = (self.path / "lock").open("a")
        except OSError as error:
            raise UserError(f"cannot write the run folder {self.path}: {error}.") from error
        with file:
            try:
                _lock(file)
            except OSError as error:
                raise UserError(f"{self.path} is in use by another process.") from error
            yield

    def read_config(self) -> RunConfig:
        """What was asked for."""
        try:
            return RunConfig.from_dict(read_json(self.path / "config.json"))
        except (TypeError, UserError) as error:
            raise UserError(f"{self.path / 'config.json'}: {error}") from error

    def read_environment(self) -> dict[str, Any]:
        """Versions and machine, as noted when the run began; {} if that file is gone."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else {}

    def read_result(self) -> dict[str, Any]:
        """Status and, once the run is over, its figures; {} before it began."""
        if not (self.path / "result.json").exists():
            return {"status": "running"}
        result = read_json(self.path / "result.json")
        if not isinstance(result.get("status"), str):
            raise UserError(f"{self.path / 'result.json'} must have a status, got none.")
        return result

    def read_records(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl; a torn last line, from a crash, is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = dict(json.loads(line))
                records.append({k: math.nan if v is None else v for k, v in record.items()})
            except (ValueError, TypeError, RecursionError) as error:
                if number < len(lines):
                    place = f"{self.path / 'metrics.jsonl'}, line {number}"
                    raise UserError(f"{place} must be JSON, got {line[:40]!r}.") from error
        return records

    def read_checkpoint(self) -> dict[str, Any] | None:
        """What `write_checkpoint` was given last, or None."""
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        return self._read_torch(path)

    def keep_records(self, count: int) -> None:
        """Forgets the lines of metrics.jsonl after the first `count`, newer than the checkpoint."""
        lines = [_line(record) for record in self.read_records()[:count]]
        self._write("metrics.jsonl", "".join(lines).encode())

    def append_record(self, record: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(_line(record))

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint."""
        self._write_torch("checkpoint.pt", state)

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Replaces the best weights."""
        self._write_torch("best.pt", weights)

    def write_data(self, data: dict[str, Any]) -> None:
        """Keeps what is known of a user's own data."""
        write_json(self.path / "data.json", data)

    def read_data(self) -> dict[str, Any]:
        """What `write_data` was given."""
        return read_json(self.path / "data.json")

    def read_weights(self) -> dict[str, Tensor]:
        """The best weights of a run that is over."""
        path = self.path / "best.pt"
        if not path.exists():
            status = self.read_result()["status"]
            raise UserError(
                f"{self.path} must hold a run that is over, but it has no best.pt (status:"
                f" {status}): finish it with rnnopt train --resume --out {self.path}."
            )
        return self._read_torch(path, torch.device("cpu"))  # wherever it was trained

    def write_error(self, text: str) -> None:
        """Keeps the traceback of a failure."""
        self._write("error.txt", text.encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """Replaces the result."""
        write_json(self.path / "result.json", result)

    def _read_torch(self, path: Path, device: torch.device | None = None) -> dict[str, Any]:
        try:
            return torch.load(path, weights_only=True, map_location=device)
        except Exception as error:  # torch.load raises many kinds for a damaged file
            reason = str(error).partition("\n")[0] or type(error).__name__
            # torch then tells how to unpickle it after all, or what went wrong inside.
            if not isinstance(error, OSError | RuntimeError):
                reason = "it is damaged, or holds Python objects, which are never unpickled"
            raise UserError(f"{path} is not a readable checkpoint: {reason}.") from error

    def _write_torch(self, name: str, value: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        self._write(name, buffer.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)


def _lock(file: IO[str]) -> None:
    """Locks an open file for this process alone; OSError if another has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _line(record: dict[str, float]) -> str:
    """A line of metrics.jsonl; JSON has no NaN and no infinity, so they are null."""
    finite = {k: v if math.isfinite(v) else None for k, v in record.items()}
    return json.dumps(finite) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(value).__name__}.")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces a JSON file."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside it, always the same, and renames it."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_figure(path: Path, figure: "Figure") -> None:
    """Replaces a picture; the ending of `path` says of which format."""
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix[1:].lower() or None, dpi=130)
    except ValueError as error:  # a format that matplotlib has not
        raise UserError(f"{path} must end in .png, .pdf or .svg: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


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


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    from rnnopt import __version__

    return {
        "rnnopt": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "cpu_kernels": cpu.kernels().variant,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor_name() -> str:
    """The processor's model where the system tells, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
