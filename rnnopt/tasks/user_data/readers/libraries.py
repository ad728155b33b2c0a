"""Libraries that read files of recorders: kept silent, and their exceptions made sentences."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from rnnopt.tasks.names import visible


@contextmanager
def quietly(kind: str, *telling: type[Exception]) -> Iterator[None]:
    """Runs a library that reads a file, without its warnings and prints.

    Args:
        kind: kind of the file, such as "EDF".
        telling: exceptions of the library whose messages a user can read.

    Raises:
        ValueError: whatever the library raises of a damaged file.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, ModuleNotFoundError, ReadingError):
        raise
    except FileNotFoundError as error:
        raise ValueError(f"a file that it names is missing: {named(error.filename)}.") from error
    except Exception as error:
        words = error.args[0] if error.args and isinstance(error.args[0], tuple) else (error,)
        why = f" ({named(words[0]).rpartition(': ')[2]})" if isinstance(error, telling) else ""
        raise ValueError(f"it is damaged, cut off or no {kind} file{why}.") from error
    finally:
        logging.disable(before)


class ReadingError(ValueError):
    """An error found while a library reads, whose sentence is complete."""


@contextmanager
def own_sentences() -> Iterator[None]:
    """Lets the sentences of our own checks through `quietly`."""
    try:
        yield
    except ValueError as error:
        raise ReadingError(str(error)) from error


def named(what: object) -> str:
    """A library's words in one short line."""
    return visible(" ".join(str(what).split()))[:160].rstrip(".")
