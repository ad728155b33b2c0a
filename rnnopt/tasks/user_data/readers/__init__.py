"""Readers of users' files: each returns `Recordings`, and the test series if the file has some."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers.arff import read_arff
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.folder import read_folder
from rnnopt.tasks.user_data.readers.hdf5 import read_hdf5
from rnnopt.tasks.user_data.readers.matlab import read_mat
from rnnopt.tasks.user_data.readers.npz import read_npz
from rnnopt.tasks.user_data.readers.parquet import read_parquet
from rnnopt.tasks.user_data.readers.recorders import (
    RECORDERS,
    advice_for,
    companions,
    read_recorder,
)
from rnnopt.tasks.user_data.readers.text import read_text
from rnnopt.tasks.user_data.readers.ts import read_ts
from rnnopt.tasks.user_data.recordings import Recordings, without_channels

READERS: dict[str, Callable[[Path, Columns], Parts]] = {
    ".npz": read_npz,
    ".csv": read_text,
    ".tsv": read_text,
    ".txt": read_text,
    ".parquet": read_parquet,
    ".ts": read_ts,
    ".arff": read_arff,
    ".mat": read_mat,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    **dict.fromkeys(RECORDERS, read_recorder),
}
# What `pip install "rnnopt[…]"` needs for a package; the others are of the extra `recordings`.
EXTRAS = {"pyarrow": "data", "h5py": "data"}


def read(path: Path, columns: Columns) -> Parts:
    """Reads a file or folder.

    Args:
        path: a file of a kind in `READERS`, or a folder.
        columns: the columns to use in tables.

    Raises:
        UserError: it does not exist, is of another kind, or has wrong content.
    """
    try:
        if not path.exists():
            raise UserError(f"{path} does not exist.")
        reader = read_folder if path.is_dir() else READERS.get(path.suffix.lower())
        if reader is None and (advice := advice_for(path)) is not None:
            raise UserError(f"{path}: {advice}")
        if reader is None:
            kinds = ", ".join(READERS)
            raise UserError(f"{path} must be a folder or end in {kinds}, got {path.suffix!r}.")
        if not path.is_dir() and not path.is_file():  # reading it may never end
            raise UserError(f"{path} must be a folder or a file, got a device or a pipe.")
        data, test = reader(path, replace(columns, name=path.stem))
        return _without_dropped(data, columns), test and _without_dropped(test, columns)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except MemoryError as error:
        raise UserError(f"{path} is too large for the memory that is free.") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "", "recordings")
        raise UserError(f'{path} needs {error.name}: pip install "rnnopt[{extra}]".') from error


def _without_dropped(data: Recordings, columns: Columns) -> Recordings:
    """The series without the channels to leave out, where the reader knew no names of columns."""
    if data.validation is not None:
        data = replace(data, validation=_without_dropped(data.validation, columns))
    known = data.table is not None or data.unused
    return data if known else without_channels(data, columns.drop)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content; for a folder, of its files' names and contents.

    Files that belong to a recording, such as a header's .dat, count with it.
    """
    if path.is_dir():
        files = {one.relative_to(path).as_posix(): one for one in path.rglob("*") if one.is_file()}
        return _sha256_of(dict(sorted(files.items())))
    others = companions(path)
    if others:
        return _sha256_of({one.name: one for one in (path, *others)})
    return _sha256(path)


def _sha256_of(files: dict[str, Path]) -> str:
    """SHA-256 of files' names and contents."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    """SHA-256 of the content of one file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
