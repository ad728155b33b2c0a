"""The error that is the user's to mend: shown as one sentence, without a traceback, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: says what was wrong, what is needed and what was got.

    No ValueError, which tyro would catch and wrap in words of its own.
    """


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a list, with the nearest that is."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}: it must be one of {', '.join(known)}.{hint}")
