"""The files of a run that tables, figures and predictions need, to be sent from a worker.

Checkpoints stay where the run was made.
"""

from pathlib import Path

from rnnopt.config.errors import writing
from rnnopt.runs.files import write_atomically
from rnnopt.runs.folder import BEST, RunFolder
from rnnopt.runs.metrics import NAME as METRICS

# In the order of writing: with the last file, the run is finished.
FILES = ("environment.json", "data.json", METRICS, BEST, "config.json", "result.json")


def read_files(path: Path) -> dict[str, bytes]:
    """Reads the files of a run folder, by name."""
    return {name: (path / name).read_bytes() for name in FILES if (path / name).exists()}


def write_files(path: Path, files: dict[str, bytes]) -> None:
    """Writes a run's files into its folder.

    Args:
        path: the run folder.
        files: the result of `read_files` on the run's machine.

    Raises:
        UserError: another process uses the folder, or a file cannot be written.
    """
    with RunFolder(path).locked(), writing(path):
        for name in FILES:
            if name in files:
                write_atomically(path / name, files[name])
