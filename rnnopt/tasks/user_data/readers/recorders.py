"""Files that recorders of signals and movement write, one recording a file, by their endings."""

from collections.abc import Callable, Iterable
from pathlib import Path

from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.edf import read_edf
from rnnopt.tasks.user_data.recordings import Recordings

RECORDERS: dict[str, Callable[[Path, Columns], Recordings]] = {
    ".edf": read_edf,
    ".bdf": read_edf,
}

# Endings of recorders that are not read, and what does.
CONVERSIONS: dict[str, str] = {}


def read_recorder(path: Path, columns: Columns) -> Parts:
    """Reads the recording of a file."""
    return RECORDERS[path.suffix.lower()](path, columns), None


def parts_of_others(files: Iterable[Path]) -> set[str]:
    """The names of files that are parts of others, not recordings of their own."""
    return set()
