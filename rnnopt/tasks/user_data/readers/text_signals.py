"""Signals whose values are texts, such as the state of a machine: marks, each until the next."""

from collections.abc import Sequence

import numpy as np

from rnnopt.tasks.user_data.readers.marks import Mark


def changes(name: str, times: np.ndarray, texts: Sequence[str | bytes]) -> list[Mark]:
    """A mark at each change of a text.

    Args:
        name: name of the signal, by which --label takes the marks.
        times: (time,) in seconds.
        texts: its values; each holds until the next.
    """
    marks, before = [], None
    for time, text in zip(times.tolist(), texts, strict=True):
        word = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        word = word.strip(" \0")
        if word and word != before:
            marks.append(Mark(time, time, word, name))
        before = word
    return marks
