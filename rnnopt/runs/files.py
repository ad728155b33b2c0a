"""Files that are replaced atomically: JSON and figures."""

import io
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rnnopt.config.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(value).__name__}.")
    return value


def finite(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(value: dict[str, Any]) -> bytes:
    """The bytes of a JSON file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces a JSON file."""
    write_atomically(path, json_bytes(value))


def write_atomically(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Writes a file under a temporary name beside it, always the same, and renames it.

    Args:
        path: the file.
        content: its whole content.
        keep: new name of the old file; None replaces the old file. Between the two renames there is
            no file at `path`, and the old file is at `keep`.

    Raises:
        OSError: with `path` as its filename; the file is then unchanged, but an earlier file at
            `keep` may be gone.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            sync(file)
        kept = keep is not None and path.exists()
        if keep is not None and kept:
            os.replace(path, keep)
        try:
            os.replace(part, path)
        except BaseException:
            if keep is not None and kept:
                os.replace(keep, path)
            raise
    except BaseException as error:
        with suppress(OSError):  # it has the same cause
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named(error, path) from error
        raise


def append(path: Path, content: bytes) -> None:
    """Appends to a file.

    Raises:
        OSError: with `path` as its filename; part of `content` may have been written.
    """
    try:
        with path.open("ab") as file:
            file.write(content)
            sync(file)
    except OSError as error:
        raise named(error, path) from error


def sync(file: IO[Any]) -> None:
    """Waits until the written data are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def named(error: OSError, path: Path) -> OSError:
    """The same error with its file name, which the error of a full disk does not have."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def write_figure(path: Path, figure: "Figure") -> None:
    """Writes a figure; the suffix of `path` determines the format."""
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix[1:].lower() or None, dpi=130)
    except ValueError as error:  # a format that matplotlib does not have
        raise UserError(f"{path} must end in .png, .pdf or .svg: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
