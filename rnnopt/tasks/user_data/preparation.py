"""Prepares series for a network, with statistics of the training data alone.

The order: the padding at the end of a series is cut off, missing values are filled, steps are
averaged (`subsample`), each channel is scaled to mean 0 and deviation 1. All this is computed in
float64, and the result is stored in float32. A `Preparation` is saved with the run, so that new
data are prepared in the same way.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rnnopt.config.data_config import Kind, Missing
from rnnopt.config.errors import UserError
from rnnopt.config.validation import Count, Finite, NotNegative, Positive, checked, shown
from rnnopt.tasks.examples import padded
from rnnopt.tasks.free_run import FreeRun
from rnnopt.tasks.moments import standardized
from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.checks import one_step_each
from rnnopt.tasks.user_data.feedback import filled, without_past
from rnnopt.tasks.user_data.forecast_targets import ForecastTargets
from rnnopt.tasks.user_data.labels import labels_of
from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema
from rnnopt.tasks.user_data.sampling import Sampling
from rnnopt.tasks.user_data.series import check_missing, cut_padding, fill_missing, pool
from rnnopt.tasks.user_data.statistics import moments_of, observed_mean, target_moments
from rnnopt.tasks.user_data.step_targets import (
    StepTargets,
    check_some,
    class_tensor,
    number_tensor,
)
from rnnopt.tasks.user_data.target_kinds import classes_of, kind_of, label_names, numbers_of
from rnnopt.tasks.user_data.words import TRUTHS, unknown_class


@dataclass(frozen=True)
class Preparation:
    """Converts recordings to tensors, and a network's outputs to predictions.

    Args:
        kind: kind of the targets.
        channels: names of the channels.
        classes: names of the classes, or of several labels, in the order of the network's outputs;
            () in regression.
        missing, padded, subsample: as in `DataConfig`.
        fill: value of each channel that replaces missing values.
        mean, deviation: statistics of each channel for its standardisation.
        target_mean, target_deviation: the same for each number to predict, in regression.
        steps: steps of the longest training or validation series, as the network gets it.
        shortest, longest: least and greatest length of the training series as recorded.
        table: schema of the training data, if they were a table.
        each_step: whether each step has a target.
        ignore_first: first steps of each series whose targets do not count.
        outputs_named: names of a step's targets; () with one target per series.
        sampling: what is done to recordings before; None for nothing.
        horizon: steps to forecast; 0 if the targets are not forecasts.
        season: steps of a season, None if there is none.
        forecasts: positions of the channels that are forecast.
        naive_errors: mean absolute error of the naive one-step forecast of each of them, over the
            training series; of the seasonal one with a season.
        temperature: what outputs are divided by before they become probabilities; 1 unless the run
            was calibrated.
    """

    kind: Kind
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    missing: Missing
    padded: bool
    subsample: Count
    fill: tuple[Finite, ...]
    mean: tuple[Finite, ...]
    deviation: tuple[Positive, ...]
    target_mean: tuple[Finite, ...]
    target_deviation: tuple[Positive, ...]
    steps: Count
    shortest: Count
    longest: Count
    table: TableSchema | None = None
    each_step: bool = False
    ignore_first: NotNegative = 0
    outputs_named: tuple[str, ...] = ()
    sampling: Sampling | None = None
    horizon: NotNegative = 0
    season: Count | None = None
    forecasts: tuple[NotNegative, ...] = ()
    naive_errors: tuple[Positive, ...] = ()
    temperature: Positive = 1.0

    @property
    def outputs(self) -> int:
        """Number of the network's outputs per series or step."""
        return len(self.classes) or len(self.target_mean)

    @property
    def free_run(self) -> FreeRun | None:
        """How the network runs free; None without past outputs among its inputs."""
        count = 0 if self.sampling is None else self.sampling.feedback
        return FreeRun(count, max(count, self.ignore_first)) if count else None

    @property
    def lags(self) -> int:
        """Number of the last channels, which are past outputs."""
        return 0 if self.sampling is None else self.sampling.feedback * len(self.target_mean)

    @classmethod
    def learn(
        cls,
        data: Recordings,
        kind: Kind | None = None,
        missing: Missing = "error",
        padded: bool = False,
        normalize: bool = True,
        subsample: int = 1,
        ignore_first: int = 0,
        sampling: Sampling | None = None,
    ) -> Self:
        """The preparation for training data.

        Raises:
            ValueError: missing values without a choice of `missing`; targets that fit no kind;
                without `normalize`, data that would lose their variation in float32.
        """
        assert data.labelled
        kind = kind_of(data, kind)
        classes = classes_of(data, kind)
        if len(classes) == 1:
            raise ValueError(f"classification needs two classes at least, got {classes[0]!r} only.")
        width = len(data.channels)
        series = cut_padding(data.series) if padded else data.series
        target_mean, target_deviation = np.zeros(0), np.ones(0)
        if kind == "regression":
            target_mean, target_deviation = target_moments(data, normalize)
        feedback = 0 if sampling is None else sampling.feedback
        lags = feedback * len(target_mean)
        series = without_past(series, lags)
        check_missing(series, data.channels, missing, padded)
        fill = np.zeros(width - lags)
        if missing in ("mean", "interpolate"):
            fill = observed_mean(series)
        pooled = [pool(fill_missing(one, missing, fill), subsample) for one in series]
        mean, deviation = moments_of(pooled, normalize, data.channels)
        if lags:  # past outputs are scaled as the network's own
            past = np.tile(target_mean, feedback)
            fill, mean = np.append(fill, past), np.append(mean, past)
            deviation = np.append(deviation, np.tile(target_deviation, feedback))
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
            each_step=data.steps is not None,
            ignore_first=ignore_first,
            outputs_named=() if data.steps is None else data.steps.names,
            sampling=sampling,
        )

    def shaped(self, data: Recordings) -> Recordings:
        """Recordings resampled and cut into windows as in training; series are left as they are.

        All windows are kept, also those of several labels; without a label they have "" or NaN.

        Raises:
            ValueError: recordings that lack times or channels, or are too short.
        """
        if self.sampling is None or data.shaped:
            return data
        if len(data.channels) == len(self.channels) - self.lags - self.sampling.time_gap:
            data = replace(data, unused=self.sampling.drop)  # no channel is left to leave out
        if self.sampling.resample is not None:
            check_missing(data.series, data.channels, self.missing, self.padded)
        named = self.outputs_named
        return self.sampling.shape(data, self.kind, self.padded, all_windows=True, outputs=named)

    def ragged(self, data: Recordings) -> list[np.ndarray]:
        """The series (time, channel), filled, at their original rate and scale.

        Raises:
            ValueError: other channels than in training; missing values that are not allowed; an
                array that looks like a single series without its first axis.
        """
        data = aligned(self.shaped(data), self.channels, self.table)
        if len(self.channels) == 1:
            odd = one_step_each([len(one) for one in data.series], self.shortest)
            if odd is not None:
                raise ValueError(f"there are {odd}.")
        series = cut_padding(data.series) if self.padded else data.series
        check_missing(without_past(series, self.lags), data.channels, self.missing, self.padded)
        return [filled(one, self.missing, np.array(self.fill), self.lags) for one in series]

    def stored(self, data: Recordings) -> tuple[Tensor, Tensor | None]:
        """Inputs and lengths as stored in `Examples`: without padding.

        Args:
            data: series with the channels of the training data.

        Raises:
            ValueError: as `ragged`; values that 32 bits cannot hold; more memory than is free.
        """
        series = [pool(one, self.subsample) for one in self.ragged(data)]
        return standardized(series, np.array(self.mean), np.array(self.deviation))

    def inputs(self, data: Recordings) -> tuple[Tensor, Tensor | None]:
        """Padded inputs (count, time, channel), and lengths (count,), None if all are equal.

        Args:
            data: series with the channels of the training data.

        Raises:
            ValueError: as `stored`.
        """
        values, lengths = self.stored(data)
        if lengths is None:
            return values, None
        longest, (_, channels) = int(lengths.max()), values.shape
        what = f"{len(lengths)} series padded to {longest} steps"
        check_memory(4 * len(lengths) * longest * channels, what)
        return padded(values, lengths.cumsum(0) - lengths, lengths, longest).transpose(
            0, 1
        ), lengths

    def targets(self, data: Recordings, needed: bool = True, ignored: bool = False) -> Tensor:
        """Classes (count,), labels (count, label) of 0 and 1, or standardised numbers.

        The numbers are (count, outputs). With targets at every step they are (count, time) or
        (count, time, outputs), as in `step_targets`.

        Args:
            data: labelled series.
            needed: whether each series needs a target at one step at least, of a known class.
            ignored: whether forecasts of the steps that `ignored` says are given too, which then
                need no memory of their own.

        Raises:
            ValueError: a class that is not in the training data, or numbers of another shape.
        """
        if self.each_step:
            return self._step_targets(data, needed, ignored)
        assert data.targets is not None
        if self.kind == "classification":
            found = self.positions(data.targets)
            if (found < 0).any():
                first = label_names(data.targets)[int(np.argmax(found < 0))]
                raise ValueError(unknown_class(first, self.classes))
            return torch.from_numpy(found)
        if self.kind == "multilabel":
            labels = labels_of(data.targets)
            if labels.shape[1] != self.outputs:
                raise ValueError(f"series need {self.outputs} labels, got {labels.shape[1]}.")
            return torch.from_numpy(labels).float()
        numbers = numbers_of(data.targets)
        if numbers.shape[1] != self.outputs:
            raise ValueError(f"targets need {self.outputs} numbers, got {numbers.shape[1]}.")
        mean, deviation = np.array(self.target_mean), np.array(self.target_deviation)
        return standardized([numbers], mean, deviation, "targets")[0][0]

    def counted(self, data: Recordings) -> StepTargets:
        """The targets of each step that count: not those of padding, nor of the first steps."""
        assert data.steps is not None
        steps = data.steps
        if self.padded:
            steps = steps.cut([len(one) for one in cut_padding(data.series)])
        return steps.without_first(self.ignore_first)

    def ignored(self, data: Recordings) -> Tensor | None:
        """First steps (count,) whose targets do not count though they are there, None if all do.

        These are forecasts, and the steps of a free run that has measured outputs.
        """
        if self.free_run is not None:
            return torch.full((len(data),), self.free_run.start)
        steps = None if data.steps is None else self.counted(data)
        starts = steps.starts if isinstance(steps, ForecastTargets) else ()
        return torch.tensor(starts) if any(starts) else None

    def _step_targets(self, data: Recordings, needed: bool, ignored: bool) -> Tensor:
        if data.steps is None:
            raise ValueError("a target at every step is needed, as in training, got one a series.")
        steps = self.counted(data)
        if needed:
            check_some(data.steps, self.ignore_first)
        if self.kind == "classification":
            return class_tensor(steps, self.places, needed)
        if len(steps.names) != self.outputs or steps.words:
            got = "words" if steps.words else ", ".join(steps.names)
            raise ValueError(
                f"targets need the numbers {', '.join(self.outputs_named)} at every step, got"
                f" {got}."
            )
        mean, deviation = np.array(self.target_mean), np.array(self.target_deviation)
        if isinstance(steps, ForecastTargets) and (ignored or not any(steps.starts)):
            found = steps.tensor(mean, deviation)
            if found is not None:
                return found
        return number_tensor(steps, mean, deviation)

    @property
    def places(self) -> dict[str, int]:
        """Index of the output for each class's name."""
        places = {name: i for i, name in enumerate(self.classes)}
        for i, name in enumerate(self.classes):  # without other words, names are numbers
            if name.lower() in TRUTHS:
                places.setdefault(f"{TRUTHS[name.lower()]:g}", i)
        return places

    def positions(self, targets: np.ndarray) -> np.ndarray:
        """Index of the output for each target's class, (count,); -1 for an unknown class."""
        places = self.places
        return np.array([places.get(name, -1) for name in label_names(targets)])

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """The preparation from the result of `to_dict`.

        Raises:
            UserError: `saved` does not have that form.
        """
        found = checked(saved, cls, "a preparation")
        lengths = {len(found.channels), len(found.fill), len(found.mean), len(found.deviation)}
        if len(lengths) > 1 or len(found.target_mean) not in (0, len(found.target_deviation)):
            raise UserError(
                "fill, mean and deviation must have a number for each of the channels, and"
                f" target_deviation as many as target_mean, got {shown(saved)}."
            )
        return found
