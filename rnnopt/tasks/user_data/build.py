"""A task from recordings: divided into parts, and prepared with statistics of the training part.

In classification the loss is the cross-entropy and the metric the accuracy; of several labels a
series it is the binary cross-entropy of each, and the share of series with all labels right. In
regression both are the mean squared error of the standardised targets, so that predicting their
mean scores 1; without `normalize` it is that of the unchanged targets.
"""

from dataclasses import replace
from typing import Any

from rnnopt.config.data_config import Kind, Split
from rnnopt.tasks.examples import Examples, are_present
from rnnopt.tasks.task import LOSSES, Task
from rnnopt.tasks.user_data.by_time import is_in_time, parts_in_time, windows
from rnnopt.tasks.user_data.feedback import odd_word
from rnnopt.tasks.user_data.forecasting import Forecast, naive_error
from rnnopt.tasks.user_data.overview import understood
from rnnopt.tasks.user_data.own_data import OwnData
from rnnopt.tasks.user_data.parts import divide, doubts, told_of_split
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.resampling import rate_of
from rnnopt.tasks.user_data.sampling import Sampling
from rnnopt.tasks.user_data.series import check_missing, cut_padding
from rnnopt.tasks.user_data.step_targets import check_some
from rnnopt.tasks.user_data.target_kinds import kind_of


def build(
    data: Recordings,
    test: Recordings | None,
    *,
    validation: float,
    test_fraction: float,
    seed: int,
    target: float | None,
    name: str,
    sources: dict[str, dict[str, str]] | None = None,
    sampling: Sampling | None = None,
    fold: tuple[int, int] | None = None,
    split: Split | None = None,
    forecast: Forecast | None = None,
    **how: Any,
) -> Task:
    """Like `from_arrays`, for labelled recordings; `how` goes to `Preparation.learn`."""
    sampling = sampling or Sampling()
    if forecast is not None:  # windows are for training alone, and lie half over each other
        forecast = replace(forecast, window=sampling.window)
        sampling = replace(sampling, window=None, stride=None, purge=False)
    data, test, sampling = _shaped(data, test, sampling, split, forecast, how)
    kind = how["kind"]
    grouped = data.groups is not None or data.spans is not None or fold is not None
    if split == "time" and (data.groups is not None or fold is not None):
        other = "fold" if fold is not None else "group"
        raise ValueError(f"a {other} is of whole series, and split=time cuts them: choose one.")
    in_time = not grouped and is_in_time(data, split, forecast is not None)
    if in_time:
        parts = parts_in_time(data, test, validation, test_fraction)
    else:
        parts = divide(data, test, validation, test_fraction, seed, kind, fold)
    held_out = {"validation": data.validation is None, "test": test is None}
    how["sampling"] = None if sampling == Sampling() else sampling
    preparation, examples = _prepare(parts, how, forecast)
    lines = split_of(parts, examples[0], in_time) + told_of_split(data, parts, kind, fold)
    return Task(
        name=name,
        summary=summary(preparation, len(parts["training"])),
        input_size=len(data.channels),
        output_size=preparation.outputs,
        loss=LOSSES[kind],
        target=(1.0 if preparation.classes else 0.0) if target is None else target,
        train=examples[0],
        validation=examples[1],
        test=examples[2],
        epoch_size=len(examples[0]),
        batch_size=batch_size(len(examples[0])),
        data=OwnData(
            preparation,
            understood(parts, preparation, how) + lines,
            sources or {},
            frozenset(part for part, was in held_out.items() if was),
            doubts(data, parts),
        ),
    )


def _shaped(
    data: Recordings,
    test: Recordings | None,
    sampling: Sampling,
    split: Split | None,
    forecast: Forecast | None,
    how: dict[str, Any],
) -> tuple[Recordings, Recordings | None, Sampling]:
    """The series and targets of the network, before the split; their kind is put into `how`.

    What is wrong with them is found here, where a series has its number in the file.
    """
    padded = bool(how.get("padded"))
    if forecast is None:
        how["kind"] = kind_of(data, how.get("kind"))
    whole = cut_padding(data.series) if padded else data.series
    check_missing(whole, data.channels, how.get("missing", "error"), padded)
    sampling = _agreed(sampling, data, split)
    if sampling.feedback:
        check_feedback(data, how.get("kind"), forecast)
        _check_free(data, test, free := max(sampling.feedback, how.get("ignore_first", 0)))
    if sampling != Sampling() and sampling.resample is None and not sampling.time_gap:
        sampling = replace(sampling, trained_at=rate_of(data))
    data = sampling.shape(data, how.get("kind"), padded)
    test = None if test is None else sampling.shape(test, how.get("kind"), padded)
    if sampling.feedback:  # windows may be shorter
        _check_free(data, test, free)
    if forecast is not None:
        data, test = _with_forecasts(data, test, forecast, how)
    check_steps(data, how)
    return data, test, sampling


def summary(preparation: Preparation, count: int) -> str:
    """A task of `count` training series in a few words."""
    classes, width = len(preparation.classes), len(preparation.channels)
    of = "labels" if preparation.kind == "multilabel" else "classes"
    what = f"{classes} {of}" if classes else "regression"
    what += " at every step" * preparation.each_step
    channels = f"{width} channel{'s' * (width > 1)}"
    return f"{count} training series of up to {preparation.steps} steps, {channels}, {what}"


def _agreed(sampling: Sampling, data: Recordings, split: Split | None) -> Sampling:
    """What is done to recordings, if it goes with the targets and the split."""
    if sampling.window is not None and split is not None:
        raise ValueError(
            "windows are held out by whole recordings, and in time where there is one: leave out"
            " split."
        )
    return replace(sampling, each_step=sampling.each_step and data.steps is not None)


def _with_forecasts(
    data: Recordings, test: Recordings | None, forecast: Forecast, how: dict[str, Any]
) -> tuple[Recordings, Recordings | None]:
    """The series with what is to be forecast as their targets; their kind is put into `how`."""
    if how.get("missing") == "interpolate":
        raise ValueError("interpolation would look ahead of a forecast: choose missing mean.")
    if data.validation is not None:
        data = replace(data, validation=forecast.of(data.validation, data))
    test = None if test is None else forecast.of(test, data)
    data = forecast.of(data, data)
    how["kind"] = kind_of(data, how.get("kind"))
    return data, test


def check_feedback(data: Recordings, kind: Kind | None, forecast: Forecast | None) -> None:
    """Raises ValueError for targets that cannot be inputs of later steps."""
    if forecast is not None:
        raise ValueError("a forecast has past values among its inputs already: leave out feedback.")
    if data.steps is None:
        raise ValueError("feedback needs a target at every step (each_step), got one a series.")
    if data.steps.words:
        raise ValueError(f"feedback needs numbers as targets, got {odd_word(data.steps.words)!r}.")
    if kind != "regression":
        raise ValueError(
            "feedback needs numbers as targets, got classes: pass kind regression if they are"
            " numbers."
        )


def _check_free(data: Recordings, test: Recordings | None, start: int) -> None:
    """Raises ValueError if no series of a part is long enough to run free."""
    parts = {"": data, "validation ": data.validation, "test ": test}
    for name, part in parts.items():
        longest = start + 2 if part is None else max(map(len, part.series), default=0)
        if longest < start + 2:  # the first step that gets an output of the network's own
            raise ValueError(
                f"feedback needs a {name}series of {start + 2} steps at least, since the outputs of"
                f" the first {start} are the measured ones, the longest has {longest}."
            )


def check_steps(data: Recordings, how: dict[str, Any]) -> None:
    """Raises ValueError for settings that do not go with the targets, and series without any."""
    ignored = how.get("ignore_first", 0)
    if data.steps is None:
        if ignored:
            raise ValueError(f"ignore_first={ignored} needs a target at every step (each_step).")
        return
    if how.get("subsample", 1) > 1:
        raise ValueError(
            f"targets at every step need all steps: leave out subsample={how['subsample']}."
        )
    if ignored < 0:
        raise ValueError(f"ignore_first must be at least 0, got {ignored}.")
    check_some(data.steps, ignored)


def _prepare(
    parts: dict[str, Recordings], how: dict[str, Any], forecast: Forecast | None
) -> tuple[Preparation, list[Examples]]:
    """The preparation learnt from the training series, and the prepared examples of each part."""
    train = parts["training"]
    preparation = Preparation.learn(train, **how)
    if forecast is not None:
        preparation = with_forecast(preparation, forecast, train)
        if max(map(len, train.series)) > forecast.width:
            parts = parts | {"training": windows(train, forecast.width)}
    prepared: dict[int, Examples] = {}  # a part used for another one is prepared once
    for which, part in parts.items():
        if id(part) not in prepared:
            prepared[id(part)] = _examples(preparation, which, part)
    examples = [prepared[id(part)] for part in parts.values()]
    # Training and validation series determine the length of sequences; test series do not.
    return replace(preparation, steps=max(part.steps for part in examples[:2])), examples


def with_forecast(preparation: Preparation, forecast: Forecast, train: Recordings) -> Preparation:
    """The preparation that knows what is forecast, and how wrong the naive forecast is."""
    places = list(forecast.places)
    errors = naive_error([one[:, places] for one in train.series], forecast.season or 1)
    return replace(
        preparation,
        horizon=forecast.horizon,
        season=forecast.season,
        forecasts=forecast.places,
        naive_errors=tuple(errors.tolist()),
    )


def _examples(preparation: Preparation, part: str, data: Recordings) -> Examples:
    """The prepared examples of a part."""
    try:
        inputs, lengths = preparation.stored(data)
        if part == "training":  # of which chunks are cut, too
            return Examples(inputs, preparation.targets(data), lengths)
        targets = preparation.targets(data, ignored=True)
        ignored = preparation.ignored(data)
        free = preparation.free_run
        if free is not None and not bool(are_present(targets[:, free.start :]).any()):
            raise ValueError(f"no series has a target after its first {free.start} steps.")
        return Examples(inputs, targets, lengths, ignored=ignored)
    except ValueError as error:
        raise ValueError(f"the {part} data: {error}") from error


def split_of(
    parts: dict[str, Recordings], train: Examples, in_time: bool
) -> tuple[tuple[str, str], ...]:
    """Lines about a split in time, and windows to train on."""
    lines = []
    if in_time:
        lines = [("split", "in time: the end of each series is held out")]
    if len(train) != len(parts["training"]):
        about = f"{len(train)} of up to {train.steps} steps, each half over the one before"
        lines.append(("training windows", about))
    return tuple(lines)


def batch_size(count: int) -> int:
    """A power of two from 16 to 128, if possible with at least ten batches per epoch."""
    return next((size for size in (128, 64, 32) if 10 * size <= count), 16)
