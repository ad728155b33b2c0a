"""The error that is the user's to mend: shown as one sentence, without a traceback, exit code 2."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: says what was wrong, what is needed and what was got.

    What was got may be of any length: of a very long sentence the middle is left out.
    """

    def __init__(self, sentence: str = ""):
        most, end = 1500, 300
        if len(sentence) > most:
            sentence = f"{sentence[: most - end]} … {sentence[-end:]}"
        super().__init__(sentence)


def option(field: str) -> str:
    """What the command line calls a field of a config: --batch-size."""
    return f"--{field.replace('_', '-')}"


def without_dashes(sentence: str) -> str:
    """The sentence with the options as Python calls them: batch_size for --batch-size."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), sentence)


def unknown_name(
    kind: str, name: object, known: Iterable[str], meant: str | None = None
) -> UserError:
    """The error for a name that is not in a list, with what was meant or else the nearest name."""
    known = list(known)
    if meant is None:
        by_letters = {one.lower(): one for one in known}
        near = get_close_matches(str(name)[:100].lower(), by_letters, n=1)
        meant = by_letters[near[0]] if near else None
    hint = f" Did you mean {meant!r}?" if meant else ""
    return UserError(f"unknown {kind} {name!r}: it must be one of {', '.join(known)}.{hint}")


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Makes a UserError of an OSError: `what` cannot be written."""
    try:
        yield
    except OSError as error:
        file = str(error.filename or "")
        which = "" if file in str(what) else f" ({file})"
        raise UserError(f"cannot write {what}: {error.strerror or error}{which}.") from error
