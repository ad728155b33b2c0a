"""The small files of a run as texts, which another machine needs for tables and figures.

Checkpoints and weights stay on the machine of the run; `elsewhere.json` names that machine.
"""

from pathlib import Path

from rnnopt.config.errors import writing
from rnnopt.runs.files import json_bytes, write_atomically
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.metrics import NAME as METRICS

# In the order of writing: with the last file, the run is finished.
FILES = ("environment.json", "data.json", METRICS, "config.json", "result.json")


def read_texts(path: Path) -> dict[str, str]:
    """Reads the small files of a run folder, by name."""
    return {name: (path / name).read_bytes().decode() for name in FILES if (path / name).exists()}


def write_results(path: Path, texts: dict[str, str], worker: str) -> None:
    """Writes a run's files into its folder, unless the same files exist.

    Args:
        path: the run folder.
        texts: the result of `read_texts` on the run's machine.
        worker: the worker that executed the run.

    Raises:
        UserError: another process uses the folder, or a file cannot be written.
    """
    if read_texts(path) == texts:
        return
    with RunFolder(path).locked(), writing(path):
        for name in FILES:
            if name in texts:
                write_atomically(path / name, texts[name].encode())
        write_atomically(path / "elsewhere.json", json_bytes({"worker": worker}))
