"""Targets at every step of the user's own series: checked, and converted to a network's targets.

A target that is missing, NaN or an empty cell, counts neither in the loss nor in a metric. In the
tensors of a task it is NaN, or the class -1, and so is the padding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnopt.tasks.examples import NO_CLASS
from rnnopt.tasks.names import check_names
from rnnopt.tasks.user_data.limits import LARGEST, check_memory
from rnnopt.tasks.user_data.words import MISSING, number_name, unknown_class


@dataclass(frozen=True)
class StepTargets:
    """Targets of each step of some series.

    Args:
        values: arrays (time, output) of float64, one a series; NaN is a missing target.
        names: names of the outputs.
        words: the classes, if they are words: `values` are then positions in them.
    """

    values: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    words: tuple[str, ...] = ()

    def select(self, index: Sequence[int] | np.ndarray) -> "StepTargets":
        """The targets of the series at these positions."""
        return replace(self, values=tuple(self.values[i] for i in index))

    def cut(self, lengths: Sequence[int]) -> "StepTargets":
        """The targets of each series' first steps."""
        pairs = zip(self.values, lengths, strict=True)
        return replace(self, values=tuple(one[:length] for one, length in pairs))

    def without_first(self, count: int) -> "StepTargets":
        """The same targets, those of the first `count` steps of each series missing."""
        if not count:
            return self
        hidden = []
        for one in self.values:
            hidden.append(one.copy())
            hidden[-1][:count] = np.nan
        return replace(self, values=tuple(hidden))

    def within(self, starts: Sequence[int], ends: Sequence[int]) -> "StepTargets":
        """The targets of the time from `starts` to before `ends`; the others are missing."""
        values = []
        for one, start, end in zip(self.values, starts, ends, strict=True):
            values.append(np.full_like(one, np.nan))
            values[-1][start:end] = one[start:end]
        return replace(self, values=tuple(values))

    def window(self, place: int, start: int, end: int) -> "StepTargets":
        """The targets of some steps of one series."""
        return replace(self, values=(self.values[place][start:end],))

    def joined(self, others: Sequence["StepTargets"]) -> "StepTargets":
        """The targets of several, each of one series, as those of all these series."""
        return replace(self, values=tuple(one.values[0] for one in others))

    def has_some(self, place: int, ignored: int = 0) -> bool:
        """Whether a series has a target after its first `ignored` steps."""
        return not bool(np.isnan(self.values[place][ignored:]).all())

    def columns(self) -> Iterator[np.ndarray]:
        """The targets (count,) of each output that are not missing."""
        for column in self.present.T:
            yield column[~np.isnan(column)]

    @property
    def present(self) -> np.ndarray:
        """The targets (count, output) of all steps with at least one."""
        together = np.concatenate(self.values)
        return together[~np.isnan(together).all(1)]

    def labels(self, numbers: np.ndarray) -> list[str]:
        """The names of classes (count,); that of 1.0 is "1", that of a missing one is empty."""
        return [self._label(number) for number in numbers.tolist()]

    def _label(self, number: float) -> str:
        if self.words and not np.isnan(number):
            return self.words[int(number)]
        return number_name(number)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes present, in the order of numbers or of the alphabet."""
        return tuple(self.labels(np.unique(self.present)))


# -- reading --------------------------------------------------------------------------------------


def are_each_step(targets: Any, series: Sequence[np.ndarray]) -> bool:
    """Whether targets can only be one for each step.

    These are an array (count, time, output), or a list with as many targets as each series has
    steps if their numbers differ. An array (count, time) may also be `time` numbers a series.
    """
    lengths = [len(one) for one in series]
    if isinstance(targets, (list, tuple)):
        if len(targets) != len(series) or not all(hasattr(one, "__len__") for one in targets):
            return False
        if any(isinstance(one, str) for one in targets):
            return False
        found = [len(one) for one in targets]
        deep = all(np.ndim(one) == 2 for one in targets if isinstance(one, np.ndarray))
        arrays = all(isinstance(one, np.ndarray) for one in targets)
        return found == lengths and (len(set(lengths)) > 1 or (arrays and deep))
    return getattr(targets, "ndim", 0) == 3 and list(map(len, targets)) == lengths


def step_targets(
    targets: Any, series: Sequence[np.ndarray], names: Sequence[str] | None = None
) -> StepTargets:
    """The targets of each step of `series`, checked.

    Args:
        targets: an array (count, time) or (count, time, output), or a list of (time,) or (time,
            output): numbers or words; None, NaN and empty words are missing.
        series: arrays (time, channel); targets beyond the end of a series are padding.
        names: names of the outputs; None means output 1, output 2, …

    Raises:
        ValueError: other shapes, infinite values, or words of several outputs.
    """
    if len(targets) != len(series):
        raise ValueError(
            f"targets at every step need as many rows as there are series, {len(series)}, got"
            f" {len(targets)}."
        )
    padded = isinstance(targets, np.ndarray) and targets.ndim > 1  # series may have been cut
    found = []
    for i, (one, its) in enumerate(zip(targets, series, strict=True)):
        array = np.asarray(one)
        if (
            array.ndim not in (1, 2)
            or len(array) < len(its)
            or (len(array) > len(its) > 0) > padded
        ):
            shape = len(array) if array.ndim in (1, 2) else f"those of shape {array.shape}"
            raise ValueError(
                "targets at every step need one for each step: series"
                f" {i + 1} has {len(its)} steps and {shape} targets."
            )
        found.append((array if array.ndim == 2 else array[:, None])[: len(its)])
    widths = sorted({one.shape[1] for one in found})
    if len(widths) > 1 or widths[0] < 1:
        raise ValueError(f"every series needs the same number of outputs, got {widths}.")
    names = tuple(names or default_outputs(widths[0]))
    check_names(names, "output")
    if all(one.dtype.kind in "biuf" for one in found):
        return StepTargets(_finite([one.astype(np.float64) for one in found]), names)
    return _of_words(found, names)


def default_outputs(width: int) -> tuple[str, ...]:
    """Default names of outputs."""
    return tuple(f"output {i + 1}" for i in range(width))


def _finite(values: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    for i, one in enumerate(values):
        wrong = np.abs(one) > LARGEST
        if wrong.any():
            step = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"targets must be finite and within {LARGEST:g}, got an infinite or larger one in"
                f" series {i + 1}, step {step + 1}."
            )
    return tuple(values)


def _of_words(found: list[np.ndarray], names: tuple[str, ...]) -> StepTargets:
    """Targets read as words; numbers if all of them are numbers."""
    texts = [[_text(cell) for cell in one.ravel().tolist()] for one in found]
    different = sorted({text for one in texts for text in one if text})
    try:
        numbers = {text: float(text) for text in different} | {"": np.nan}
    except ValueError:
        if len(names) > 1:
            raise ValueError(
                f"several outputs at every step must be numbers, got the word {different[-1]!r}."
            ) from None
        check_names(different, "class")
        numbers = {text: float(i) for i, text in enumerate(different)} | {"": np.nan}
        words = tuple(different)
    else:
        words = ()
    shaped = [
        np.array([numbers[text] for text in one], np.float64).reshape(array.shape)
        for one, array in zip(texts, found, strict=True)
    ]
    return StepTargets(_finite(shaped), names, words)


def _text(cell: Any) -> str:
    """A cell as a word; "" if it is missing."""
    text = "" if cell is None else str(cell).strip()
    return "" if text.lower() in MISSING else text


def check_some(steps: StepTargets, ignored: int = 0) -> None:
    """Raises ValueError if a series has no target after its first `ignored` steps."""
    for i in range(len(steps.values)):
        if not steps.has_some(i, ignored):
            length = len(steps.values[i])
            after = f" after the first {ignored} of its {length} steps" if ignored else ""
            raise ValueError(
                f"every series needs a target at one step at least, series {i + 1} has none{after}."
            )


# -- a network's targets --------------------------------------------------------------------------


def class_tensor(steps: StepTargets, places: Mapping[str, int], needed: bool = True) -> Tensor:
    """Classes (count, time), -1 where there is none; by `places`, the output of each class.

    Args:
        steps: the targets.
        places: output of each class.
        needed: whether a class without an output is an error; else it counts as the number of
            classes, which no output predicts.

    Raises:
        ValueError: a class without an output; several classes a step.
    """
    if len(steps.names) > 1:
        raise ValueError(f"a step has one class, got {len(steps.names)}: {', '.join(steps.names)}.")
    different = np.unique(steps.present)
    if not len(different):
        return _padded([np.full(len(one), NO_CLASS) for one in steps.values], NO_CLASS)
    names = steps.labels(different)
    unknown = [name for name in names if name not in places]
    if unknown and needed:
        raise ValueError(unknown_class(unknown[0], places))
    none = 1 + max(places.values())
    outputs = np.array([places.get(name, none) for name in names])
    found = []
    for one in steps.values:
        missing = np.isnan(one[:, 0])
        where = np.searchsorted(different, np.where(missing, different[0], one[:, 0]))
        found.append(np.where(missing, NO_CLASS, outputs[where]))
    return _padded(found, NO_CLASS)


def number_tensor(steps: StepTargets, mean: np.ndarray, deviation: np.ndarray) -> Tensor:
    """Standardised numbers (count, time, output) in float32, NaN where there is none."""
    found = [((one - mean) / deviation).astype(np.float32) for one in steps.values]
    if any(np.isinf(one).any() for one in found):
        raise ValueError("targets must be within 3e38 for the network: scale them.")
    return _padded(found, np.nan)


def _padded(values: list[np.ndarray], missing: float) -> Tensor:
    """Series of different lengths in one tensor."""
    longest = max(map(len, values))
    shape = (len(values), longest, *values[0].shape[1:])
    check_memory(8 * int(np.prod(shape)), f"targets of {len(values)} series of {longest} steps")
    padded = np.full(shape, missing, values[0].dtype)
    for row, one in zip(padded, values, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(padded)
