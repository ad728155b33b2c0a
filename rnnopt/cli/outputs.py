"""Where a verb may write: never over what it reads."""

from collections.abc import Iterable
from pathlib import Path

from rnnopt.config.errors import UserError


def check_output(out: Path, ending: str, inputs: Iterable[str | Path | None]) -> None:
    """Refuses a file to write that is an input, is in one, or has another ending than its format.

    Args:
        out: the file to write.
        ending: that its name must have, such as ".csv".
        inputs: files and folders that are read; None is passed over.

    Raises:
        UserError: it must not be written.
    """
    if out.suffix.lower() != ending:
        raise UserError(f"--out must end in {ending}, got {out}.")
    if out.is_dir():
        raise UserError(f"--out must be a file, got the folder {out}.")
    place = out.resolve()
    for one in inputs:
        if one is not None and place.is_relative_to(Path(one).resolve()):
            raise UserError(f"--out must not be or lie in {one}, which is read, got {out}.")
