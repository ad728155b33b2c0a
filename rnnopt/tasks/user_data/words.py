"""Words in data: of missing values, of truth values, and of classes."""

from collections.abc import Iterable

MISSING = ("", "nan", "na", "n/a", "null", "none", "?", "nat", "<na>")  # in lower case
TRUTHS = {"false": 0.0, "true": 1.0}


def number_name(number: float) -> str:
    """A class that is a number as a word: that of 1.0 is "1", that of NaN, a missing one, is ""."""
    if number != number:
        return ""
    return str(int(number)) if number == int(number) else repr(float(number))


def unknown_class(name: str, known: Iterable[str]) -> str:
    """The error message for a class that was not trained on."""
    names = list(known)
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"class {name!r} is not in the training data, which has {shown}."
