"""A trained network's predictions for rows that come one after another, each a step of a series.

A network on whole series or with a target at every step answers each row by `SequenceModel.stream`.
A run on windows answers with the last row of each window, from the rows of the window together: so
its network may have two directions or a stem.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from rnnopt.config.errors import UserError
from rnnopt.runs.prediction import TrainedModel, rows, step_rows
from rnnopt.runs.step_scores import predictions_of
from rnnopt.tasks.moments import SINGLE
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import Recordings


def row_stream(trained: TrainedModel) -> "StepStream | WindowStream":
    """What answers the rows of a run's series.

    Raises:
        UserError: the run's network or preparation needs more than one step at a time.
    """
    p = trained.preparation
    if p.sampling is not None and p.sampling.resample is not None:
        raise UserError(
            "--stream needs a run on rows as they were recorded, got one with --resample: its"
            " filter needs the whole recording."
        )
    windows = p.sampling is not None and p.sampling.window is not None
    if not windows:
        refuse_steps(trained)
    return WindowStream(trained) if windows else StepStream(trained)


def refuse_steps(trained: TrainedModel) -> None:
    """Raises UserError if a run cannot answer step by step."""
    p, model = trained.preparation, trained.model
    reasons = {
        "a bidirectional network, which begins at the end of the series": model.bidirectional,
        "a network with a stem, whose convolutions see several steps at once": model.stem,
        f"a run with --subsample {p.subsample}, a mean of several steps": p.subsample > 1,
        "a run with --missing interpolate, which looks at later steps": p.missing == "interpolate",
    }
    for reason in (text for text, holds in reasons.items() if holds):
        raise UserError(
            f"--stream needs a run that answers step by step, got {reason}: train with other"
            " options, or on windows (--window)."
        )


class StepStream:
    """Answers each row with the prediction for the series so far, or for this step.

    Args:
        trained: network of a run.
    """

    def __init__(self, trained: TrainedModel):
        p = self._p = trained.preparation
        self.channels = p.channels[: len(p.channels) - p.lags]
        self._stream = trained.model.stream()
        width = len(self.channels)
        self._mean, self._deviation = np.array(p.mean)[:width], np.array(p.deviation)[:width]
        self._fill = np.array(p.fill)[:width]
        self._past = deque([np.zeros(len(p.target_mean))], maxlen=_lags(p))
        self.restart("1")

    def restart(self, name: str) -> None:
        """Begins a new series of this name."""
        self._name, self._step = name, 0
        self._stream.reset()
        for _ in range(_lags(self._p)):  # before the first step they are the mean, 0 as an input
            self._past.appendleft(np.zeros(len(self._p.target_mean)))

    @property
    def headings(self) -> list[str]:
        """The names of the cells of an answer."""
        return self._table(np.zeros((1, self._p.outputs)))[0]

    def take(self, row: np.ndarray) -> Iterator[list[str]]:
        """The answer to a row (channel,), as a line of a table.

        Raises:
            ValueError: a value that 32 bits cannot hold.
        """
        self._step += 1
        row = np.where(np.isnan(row), self._fill, row)
        values = (row - self._mean) / self._deviation
        if (np.abs(values) > SINGLE.max).any():
            raise ValueError("values must be within 3e38 for the network")
        outputs = self._stream.push(np.concatenate([values, *self._past])).clone()
        if _lags(self._p):
            self._past.appendleft(outputs.double().numpy())
        yield from self._table(predictions_of(self._p, outputs[None]))[1]

    def _table(self, answers: np.ndarray) -> tuple[list[str], list[list[str]]]:
        """Headings and line for the answers (1, output) to a step."""
        p = self._p
        one = Recordings((), None, p.channels, names=(self._name,))
        if p.each_step:
            headings, lines = step_rows(p, [answers], one)
            found = list(lines)
            found[0][1] = str(self._step)
            return headings, found
        headings, found = rows(p, answers, one)
        place = headings.index("series") + 1
        return (
            [*headings[:place], "step", *headings[place:]],
            [[*line[:place], str(self._step), *line[place:]] for line in found],
        )


def _lags(p: Preparation) -> int:
    """Past outputs among the inputs of a step."""
    return 0 if p.free_run is None else p.free_run.lags


class WindowStream:
    """Answers the last row of each window, as `predict` does for the windows of a recording.

    Args:
        trained: network of a run on windows.
    """

    def __init__(self, trained: TrainedModel):
        p, sampling = trained.preparation, trained.preparation.sampling
        assert sampling is not None
        assert sampling.window is not None
        self._trained, self.channels = trained, p.channels
        self._width, self._stride = sampling.window, sampling.stride or sampling.window
        self._rows: deque[np.ndarray] = deque(maxlen=self._width)
        self.restart("1")

    def restart(self, name: str) -> None:
        """Begins a new recording of this name."""
        self._name, self._step = name, 0
        self._rows.clear()

    @property
    def headings(self) -> list[str]:
        """The names of the cells of an answer."""
        nothing = np.zeros((self._width, len(self.channels)))
        p = self._trained.preparation
        if p.each_step:
            return step_rows(p, [], self._window(nothing))[0]
        return rows(p, np.zeros((1, p.outputs)), self._window(nothing))[0]

    def take(self, row: np.ndarray) -> Iterator[list[str]]:
        """The answers that a row (channel,) completes, as lines of a table; often none.

        Raises:
            ValueError: a value that 32 bits cannot hold.
        """
        self._rows.append(row)
        self._step += 1
        if self._step < self._width or (self._step - self._width) % self._stride:
            return
        window = self._window(np.stack(self._rows))
        p = self._trained.preparation
        if p.each_step:
            answers, _ = self._trained.answer_steps(window)
            yield from step_rows(p, answers, window)[1]
        else:
            yield from rows(p, self._trained.answer(window), window)[1]

    def _window(self, values: np.ndarray) -> Recordings:
        span = np.array([[0, self._step - self._width, self._step]])
        return Recordings(
            (values,), None, self.channels, names=(self._name,), spans=span, shaped=True
        )
