"""What is done to series before a network sees them, learnt from the training data alone.

In order: the end of a padded series is cut off, missing values are filled, steps are averaged
(`subsample`), each channel is brought to mean 0 and deviation 1, shorter series are padded with
zeros. A `Preparation` is kept with the run, so that new data go the same way.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rnnopt.data_config import Kind, Missing
from rnnopt.saved_checks import check_preparation
from rnnopt.tasks.alignment import aligned
from rnnopt.tasks.checks import (
    MANY_CLASSES,
    check_range,
    one_step_each,
    refuse_unlikely,
    rows_of_classes,
)
from rnnopt.tasks.recordings import TRUTHS, Reading, Recordings
from rnnopt.tasks.series import check_missing, cut_padding, fill_missing, pad, pool


@dataclass(frozen=True)
class Preparation:
    """From recordings to tensors, and from outputs back to answers.

    Args:
        kind: of the targets.
        channels: names of the channels.
        classes: names of the classes, in the order of the network's outputs; () in regression.
        missing, padded, subsample: as in `DataConfig`.
        fill: of each channel, what stands for a missing value.
        mean, deviation: of each channel, taken away and divided by.
        target_mean, target_deviation: of each number to predict, in regression.
        steps: of the longest training series, as the network gets it.
        shortest, longest: of the training series as recorded.
        table: what the columns of the training data were taken for, if they were a table.
    """

    kind: Kind
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    missing: Missing
    padded: bool
    subsample: int
    fill: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    target_mean: tuple[float, ...]
    target_deviation: tuple[float, ...]
    steps: int
    shortest: int
    longest: int
    table: Reading | None = None

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for a series."""
        return len(self.classes) or len(self.target_mean)

    @classmethod
    def learn(
        cls,
        data: Recordings,
        kind: Kind | None = None,
        missing: Missing = "error",
        padded: bool = False,
        normalize: bool = True,
        subsample: int = 1,
    ) -> Self:
        """The preparation that suits training data.

        Raises:
            ValueError: missing values that nobody said what to do with; targets that fit no kind.
        """
        assert data.targets is not None
        kind = kind_of(data, kind)
        classes = class_names(data.targets) if kind == "classification" else ()
        if len(classes) == 1:
            raise ValueError(f"classification needs two classes at least, got {classes[0]!r} only.")
        width = len(data.channels)
        series = cut_padding(data.series) if padded else data.series
        check_missing(series, data.channels, missing, padded)
        fill = np.zeros(width)
        if missing in ("mean", "interpolate"):
            values = np.concatenate(series)
            seen = (~np.isnan(values)).sum(0)
            fill = np.where(np.isnan(values), 0, values).sum(0) / np.maximum(seen, 1)
        pooled = [pool(fill_missing(one, missing, fill), subsample) for one in series]
        mean, deviation = _moments(np.concatenate(pooled), normalize)
        target_mean, target_deviation = np.zeros(0), np.ones(0)
        if kind == "regression":
            numbers = data.targets.astype(np.float64).reshape(len(data), -1)
            target_mean, target_deviation = _moments(numbers, normalize)
        lengths = [len(one) for one in series]
        return cls(
            kind=kind,
            channels=data.channels,
            classes=classes,
            missing=missing,
            padded=padded,
            subsample=subsample,
            fill=tuple(fill.tolist()),
            mean=tuple(mean.tolist()),
            deviation=tuple(deviation.tolist()),
            target_mean=tuple(target_mean.tolist()),
            target_deviation=tuple(target_deviation.tolist()),
            steps=max(map(len, pooled)),
            shortest=min(lengths),
            longest=max(lengths),
            table=data.table,
        )

    def ragged(self, data: Recordings) -> list[np.ndarray]:
        """The series (time, channel), filled but at their own rate and scale.

        Raises:
            ValueError: other channels than in training; missing values that were to be refused;
                what looks like a single series without its first axis.
        """
        data = aligned(data, self.channels, self.table)
        if len(self.channels) == 1:
            odd = one_step_each([len(one) for one in data.series], self.shortest)
            if odd is not None:
                raise ValueError(f"there are {odd}.")
        series = cut_padding(data.series) if self.padded else data.series
        check_missing(series, data.channels, self.missing, self.padded)
        return [fill_missing(one, self.missing, np.array(self.fill)) for one in series]

    def inputs(self, data: Recordings, steps: int = 1) -> tuple[Tensor, Tensor | None]:
        """Inputs (count, time, channel) and true lengths (count,), None where all are equal.

        Args:
            data: series with the channels of the training data.
            steps: pad to that many steps at least.

        Raises:
            ValueError: as `ragged`; values that 32 bits cannot hold.
        """
        mean, deviation = np.array(self.mean), np.array(self.deviation)
        ready = [(pool(one, self.subsample) - mean) / deviation for one in self.ragged(data)]
        padded, lengths = pad(ready, steps)
        check_range(padded, ready, "values")
        return padded, lengths

    def targets(self, data: Recordings) -> Tensor:
        """Classes (count,), or standardised numbers (count, outputs).

        Raises:
            ValueError: a class that is not in the training data, or numbers of another shape.
        """
        assert data.targets is not None
        if self.kind == "classification":
            found = self.positions(data.targets)
            if (found < 0).any():
                first = label_names(data.targets)[int(np.argmax(found < 0))]
                known = ", ".join(self.classes[:10]) + (", …" if len(self.classes) > 10 else "")
                raise ValueError(f"class {first!r} is not in the training data, which has {known}.")
            return torch.from_numpy(found)
        numbers = numbers_of(data.targets)
        if numbers.shape[1] != self.outputs:
            raise ValueError(f"targets need {self.outputs} numbers, got {numbers.shape[1]}.")
        scaled = (numbers - np.array(self.target_mean)) / np.array(self.target_deviation)
        ready = torch.from_numpy(scaled).float()
        check_range(ready, [scaled], "targets")
        return ready

    def positions(self, targets: np.ndarray) -> np.ndarray:
        """The output of each target's class, (count,); -1 where there is none."""
        places = {name: i for i, name in enumerate(self.classes)}
        for i, name in enumerate(self.classes):  # a file with no other words has these as numbers
            if name.lower() in TRUTHS:
                places.setdefault(f"{TRUTHS[name.lower()]:g}", i)
        return np.array([places.get(name, -1) for name in label_names(targets)])

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            ValueError: it is not of that form.
        """
        check_preparation(saved)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in saved.items()
        }
        table = saved.get("table")
        if table is not None:
            lists = {name: tuple(table[name]) for name in ("steps", "dropped")}
            values["table"] = Reading(**(table | lists))
        return cls(**values)


def kind_of(data: Recordings, said: Kind | None) -> Kind:
    """What the targets are: as said, else as the file says, else as they look.

    Raises:
        ValueError: they cannot be what was said, or look like both.
    """
    targets = data.targets
    assert targets is not None
    numeric = targets.dtype.kind == "f"
    kind = said or data.kind
    if kind == "regression":
        numbers_of(targets)
    if kind == "classification" and targets.ndim != 1:
        raise ValueError(f"{rows_of_classes(targets)}.")
    if kind is not None:
        return kind
    if targets.ndim != 1:
        refuse_unlikely(data, targets)
        return "regression"
    if numeric and (targets != np.round(targets)).any():
        return "regression"
    different = len(np.unique(targets))
    # More classes than many, and a mean of fewer than two series a class.
    if numeric and different > MANY_CLASSES and 2 * different > len(targets):
        raise ValueError(
            f"the {len(targets)} targets are {different} different whole numbers: say which kind"
            " they are, classification or regression."
        )
    return "classification"


def numbers_of(targets: np.ndarray) -> np.ndarray:
    """Targets as (count, outputs) numbers; ValueError if they are words."""
    if targets.dtype.kind != "f":
        raise ValueError(f"regression needs numbers as targets, got {str(targets.ravel()[0])!r}.")
    return targets.reshape(len(targets), -1)


def label_names(targets: np.ndarray) -> list[str]:
    """The name of each target's class; that of 1.0 is "1"."""
    if targets.dtype.kind == "f":
        return [str(int(one)) if one == int(one) else repr(float(one)) for one in targets.tolist()]
    return [str(one) for one in targets.tolist()]


def class_names(targets: np.ndarray) -> tuple[str, ...]:
    """The names of the classes, in the order of numbers or of the alphabet."""
    return tuple(label_names(np.unique(targets)))


def _moments(values: np.ndarray, wanted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column, 1 where nothing varies; 0 and 1 unless wanted."""
    if not wanted:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    deviation = values.std(0)
    # What rounding alone makes vary is constant.
    constant = deviation <= 1e-12 * np.abs(values).max(0)
    return values.mean(0), np.where(constant, 1.0, deviation)
