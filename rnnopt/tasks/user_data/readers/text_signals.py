"""Signals whose values are texts, such as the state of a machine: marks, each until the next."""

from collections.abc import Sequence

import numpy as np

from rnnopt.tasks.user_data.readers.marks import Mark


def changes(
    name: str, times: np.ndarray, texts: Sequence[str | bytes], encoding: str = "utf-8"
) -> list[Mark]:
    """A mark at each change of a text.

    Args:
        name: name of the signal, by which --label takes the marks.
        times: (time,) in seconds.
        texts: its values; each holds until the next. An empty one ends the one before.
        encoding: of values that are bytes.
    """
    marks, before = [], ""
    for time, text in zip(times.tolist(), texts, strict=True):
        word = _decoded(text, encoding).strip(" \0")
        if word != before:
            marks.append(Mark(time, time, word, name))
        before = word
    return marks


def _decoded(text: str | bytes, encoding: str) -> str:
    """A text; of bytes of another encoding than said, as some writers leave them, in Latin-1."""
    if not isinstance(text, bytes):
        return str(text)
    try:
        return text.decode(encoding)
    except UnicodeDecodeError:
        return text.decode("latin-1")
