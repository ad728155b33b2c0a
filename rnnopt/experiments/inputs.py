"""What a run reads besides its settings: the code of its optimizer and the user's own data.

The workers of a cluster read theirs, which must be the command's: else a table would be made of
runs on different data.
"""

from functools import cache
from itertools import chain
from pathlib import Path

from rnnopt.config.data_files import files_of
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks.user_data.readers import sha256
from rnnopt.training.imported import source_of


def inputs_of(config: RunConfig) -> dict[str, str]:
    """The SHA-256 of each file or folder, or the version of a package, by its name.

    Args:
        config: settings of a run.

    Raises:
        UserError: a file cannot be read.
    """
    source, found = source_of(config.optimizer), {}
    if "sha256" in source:
        found[source["file"]] = source["sha256"]
    elif "version" in source:
        found[source["package"]] = source["version"]
    named = [files_of(text) for text in (config.data, config.test) if text is not None]
    labels = [] if config.labels is None else [Path(config.labels)]
    for path in chain(*named, labels):
        found[str(path)] = _digest(str(path))
    return found


def check_inputs(config: RunConfig, wanted: dict[str, str], worker: str) -> None:
    """Raises UserError if a file is missing here, or is not the command's.

    Args:
        config: settings of a run.
        wanted: `inputs_of` at the command.
        worker: address of the worker, to be named.
    """
    try:
        found = inputs_of(config)
    except UserError as error:
        raise UserError(f"the worker {worker} needs the command's files: {error}") from error
    for name in {**wanted, **found}:  # a pattern may match more files here
        its, value = found.get(name, "none"), wanted.get(name, "none")
        if its != value:
            raise UserError(
                f"{name} must be the same on all of a cluster: the command has {value}, the worker"
                f" {worker} has {its}."
            )


def _digest(path: str) -> str:
    try:
        facts = Path(path).stat()
        if Path(path).is_dir():
            return sha256(Path(path))
        return _of_file(Path(path).resolve(), facts.st_mtime_ns, facts.st_size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


@cache
def _of_file(path: Path, time: int, size: int) -> str:
    """That of a file, which many runs read, computed once until it changes."""
    return sha256(path)
