"""Files that recorders of signals and movement write, one recording a file, by their endings."""

from collections.abc import Callable, Iterable
from pathlib import Path

from rnnopt.tasks.user_data.readers.c3d import read_c3d
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.edf import read_edf
from rnnopt.tasks.user_data.readers.fit import read_fit
from rnnopt.tasks.user_data.readers.mdf import read_mdf
from rnnopt.tasks.user_data.readers.physionet import read_wfdb, segments_of
from rnnopt.tasks.user_data.readers.rosbag import read_bag
from rnnopt.tasks.user_data.readers.sigmf_files import read_sigmf
from rnnopt.tasks.user_data.readers.tdms import read_tdms
from rnnopt.tasks.user_data.readers.xdf import read_xdf
from rnnopt.tasks.user_data.recordings import Recordings

RECORDERS: dict[str, Callable[[Path, Columns], Recordings]] = {
    ".edf": read_edf,
    ".bdf": read_edf,
    ".hea": read_wfdb,
    ".xdf": read_xdf,
    ".c3d": read_c3d,
    ".fit": read_fit,
    ".sigmf-meta": read_sigmf,
    ".mf4": read_mdf,
    ".mdf": read_mdf,
    ".tdms": read_tdms,
    ".bag": read_bag,
    ".mcap": read_bag,
    ".db3": read_bag,
}

# Endings of recorders that are not read, and what does.
CONVERSIONS: dict[str, str] = {}


def read_recorder(path: Path, columns: Columns) -> Parts:
    """Reads the recording of a file."""
    return RECORDERS[path.suffix.lower()](path, columns), None


def parts_of_others(files: Iterable[Path]) -> set[str]:
    """The names of files that are parts of others, not recordings of their own."""
    return segments_of(file for file in files if file.suffix.lower() == ".hea")
