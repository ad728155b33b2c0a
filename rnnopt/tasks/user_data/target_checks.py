"""The user's targets and groups, one per series: checked, and read as numbers or words."""

from typing import Any

import numpy as np

from rnnopt.tasks.names import check_names
from rnnopt.tasks.user_data.limits import LARGEST
from rnnopt.tasks.user_data.words import MISSING, TRUTHS

EXACT = 2**53  # float64 represents every whole number up to it


def targets_of(targets: Any, count: int) -> np.ndarray:
    """Targets, one per series: words, or numbers (count,) or (count, outputs) in float64.

    Raises:
        ValueError: other shapes; targets that are missing, infinite, or inexact in float64.
    """
    try:
        array = np.asarray(targets)
    except ValueError:  # rows of different lengths
        raise ValueError(
            "every series needs one target, got rows of different lengths: of several labels a"
            " series, train one classifier for each."
        ) from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != count:
        raise ValueError(f"targets must be {count}, one per series, got shape {array.shape}.")
    if array.dtype.kind in "biuf":
        whole = array.dtype.kind in "iu" and array.size > 0
        if whole and max(int(array.max()), -int(array.min())) > EXACT:
            raise ValueError(
                "whole numbers as targets must be within 2^53, which float64 has exactly: write"
                " such classes as words."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float64)
        wrong = ~(np.abs(array) <= LARGEST)
        if wrong.any():
            where = int(np.argwhere(wrong)[0][0]) + 1
            raise ValueError(
                f"targets must be finite and within {LARGEST:g}, got none, or an infinite or larger"
                f" one, at {where}."
            )
        return array
    return _words([str(one).strip() for one in array.ravel().tolist()], array.shape)


def _words(words: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """Targets read as words, converted to numbers if all of them are numbers."""
    width = max(1, len(words) // shape[0])
    for i, word in enumerate(words):
        if word.lower() in MISSING:
            hint = f", got {word!r} (call a class otherwise)" if word else ""
            raise ValueError(
                f"every series needs a target, series {i // width + 1} has none{hint}."
            )
    if all(word.lower() in TRUTHS for word in words):
        return np.array([TRUTHS[word.lower()] for word in words]).reshape(shape)
    check_names(words, "class")  # before an array pads each to the longest
    try:  # numbers written as words, as in text files
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return np.array(words).reshape(shape)
    wrong = ~(np.abs(numbers) <= LARGEST)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(
            f"targets must be finite, series {place // width + 1} has {words[place]!r}"
            f" ({LARGEST:g} is the largest)."
        )
    _refuse_codes(words, numbers.tolist())
    return numbers.reshape(shape)


def _refuse_codes(words: list[str], numbers: list[float]) -> None:
    """Raises ValueError if two labels, such as 1 and 01, would become one number."""

    def whole(word: str) -> bool:
        return word.removeprefix("-").isdigit()

    seen: dict[float, str] = {}
    for word, number in zip(words, numbers, strict=True):
        other = seen.setdefault(number, word)
        pair = (word, other)
        # So would 9007199254740992 and …993.
        both = all(map(whole, pair))
        if word != other and (
            both or any(len(w) > 1 and w[0] == "0" and w[1].isdigit() for w in pair)
        ):
            raise ValueError(
                f"labels {other!r} and {word!r} are the same number: write them in the same"
                " way, or add a letter if they are two classes."
            )


def group_words(groups: Any, count: int) -> np.ndarray:
    """Groups as words (count,).

    Raises:
        ValueError: another shape, or a group that is missing.
    """
    array = np.asarray(groups)
    if array.shape != (count,):
        raise ValueError(f"groups must be {count}, one per series, got shape {array.shape}.")
    words = [str(one).strip() for one in array.tolist()]
    for i, word in enumerate(words):
        if word.lower() in MISSING:
            raise ValueError(f"every series needs a group, series {i + 1} has none.")
    check_names(words, "group")
    return np.array(words)
