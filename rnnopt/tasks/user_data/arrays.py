"""A task from the user's arrays: split, and prepared with the statistics of the training part.

In classification the loss is the cross-entropy and the metric the accuracy; of several labels a
series it is the binary cross-entropy of each, and the share of series with all labels right. In
regression both are the mean squared error of the standardised targets, so that predicting their
mean scores 1; without `normalize` it is that of the unchanged targets.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rnnopt.config.data_config import Kind, Missing, Split
from rnnopt.config.errors import UserError, without_dashes
from rnnopt.tasks.choices import ClassWeight, with_choices
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import LOSSES, Task
from rnnopt.tasks.user_data.by_time import is_in_time, parts_in_time, windows
from rnnopt.tasks.user_data.forecasting import Forecast, naive_error
from rnnopt.tasks.user_data.overview import understood
from rnnopt.tasks.user_data.parts import doubts, split_fold, split_off, told_of_split
from rnnopt.tasks.user_data.preparation import OwnData, Preparation, kind_of
from rnnopt.tasks.user_data.recordings import Recordings, recordings, with_times, without_channels
from rnnopt.tasks.user_data.sampling import Sampling
from rnnopt.tasks.user_data.series import check_missing, cut_padding
from rnnopt.tasks.user_data.step_targets import check_some


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    lengths: Any = None,
    test: tuple[Any, ...] | None = None,
    validation: float | tuple[Any, ...] = 0.2,
    test_fraction: float | None = None,
    kind: Kind | None = None,
    missing: Missing = "error",
    padded: bool = False,
    normalize: bool = True,
    subsample: int = 1,
    groups: Any = None,
    seed: int = 0,
    target: float | None = None,
    name: str = "data",
    each_step: bool | None = None,
    ignore_first: int = 0,
    drop: Sequence[str | int] = (),
    window: int | None = None,
    stride: int | None = None,
    purge: bool = False,
    times: Any = None,
    resample: str | None = None,
    rate: str | None = None,
    time_gap: bool = False,
    folds: int | None = None,
    fold: int | None = None,
    metric: str | None = None,
    class_weight: ClassWeight | None = None,
    horizon: int | None = None,
    forecast: Sequence[int] | None = None,
    season: int | None = None,
    split: Split | None = None,
) -> Task:
    """The task of learning `targets` from `inputs`.

    Args:
        inputs: (count, time), (count, time, features), or a list of (time,) or (time, features).
        targets: (count,) classes (words or whole numbers), or numbers (count,) or (count, outputs),
            or with kind "multilabel" labels (count, label) of 0 and 1.
            With `each_step` (count, time), (count, time, outputs), or a list of (time,) or (time,
            outputs); NaN, None and empty words are missing targets, which do not count. None with
            `horizon`, which takes them from `inputs`.
        lengths: (count,) true steps of series padded at the end; None when all are true.
        test: test series (inputs, targets) or (inputs, targets, lengths); None means that
            `test_fraction` is held out.
        validation: fraction of the training series held out for validation, class by class; 0
            means none, the training series are used instead. Or validation series as in `test`.
        test_fraction: fraction held out for testing if `test` is None, by default 0.2; 0 means
            none, the validation series are used instead.
        kind, missing, padded, normalize, subsample, target: as in `DataConfig`.
        groups: (count,) the person, machine, … that each series is of, as words or whole numbers:
            those of a group are all in one of the parts.
        seed: seed of the split.
        name: name of the task.
        each_step: whether each step has a target. None means yes for targets that can be nothing
            else: (count, time, outputs), or a list of arrays as long as their series, of different
            lengths.
        ignore_first: first steps of each series whose targets do not count, while a network's state
            forgets where it began.
        drop: positions (from 0, or -1 for the last) of channels to leave out.
        window, stride, purge: steps of the windows that `inputs`, which are then recordings, are
            cut into, as in `DataConfig`. `targets` of each step are (count, time), or a list of
            (time,); a window has the commonest of them, or with `each_step` all of its own.
        times: (count, time), or a list of (time,), times of the steps in seconds, for `resample`
            and `time_gap`.
        resample, rate, time_gap: as in `DataConfig`, such as resample="50Hz".
        folds, fold: as in `DataConfig`; the test series are those of that fold.
        metric: metric that chooses weights and is reported, by scikit-learn's name, such as
            "balanced_accuracy", "f1" or "roc_auc"; None means accuracy, or mse in regression.
        class_weight: "balanced", or the weight of each class in the loss by its name, scaled to the
            mean 1 over the training series; None means 1.
        horizon: steps to forecast from each step; None means no forecast.
        forecast: positions of the channels to forecast; None means all.
        season: steps of a season, for the naive forecast to compare with.
        split: "series" or "time", as in `DataConfig`.

    Returns:
        The task. `task.data.preparation` has the class names and statistics, prepares new series
        and scales outputs back. Series of different lengths are stored without padding, see
        `rnnopt.tasks.examples.Examples`.

    Raises:
        ValueError: a wrong shape or value, with its position.

    Example:
        >>> task = from_arrays(np.random.rand(40, 25, 3), ["a", "b"] * 20)
        >>> task.train.inputs.shape
        torch.Size([26, 25, 3])
    """
    if test is not None and test_fraction is not None:
        raise ValueError(
            "test has the test series, and test_fraction would hold out some of inputs: pass only"
            " one of them."
        )
    sampling = Sampling.checked(
        window, stride, purge, time_gap, resample, rate, each_step=bool(each_step)
    )
    if window is not None and each_step is None:
        each_step = labels_of_steps(targets, inputs) or None
    data = recordings(inputs, targets, lengths, each_step=each_step, groups=groups)
    wanted = _forecast(data.channels, horizon, forecast, season)
    if horizon is not None and data.labelled:
        raise ValueError("horizon makes the targets from the inputs: pass None as targets.")
    if horizon is None and not data.labelled:
        raise ValueError("training needs targets, got none.")
    data = without_channels(data if times is None else with_times(data, times), drop)
    sampling = replace(sampling, drop=data.unused)
    each_step = data.steps is not None
    if isinstance(validation, tuple):
        data = replace(data, validation=_given("validation", validation, each_step, horizon))
    task = build(
        data,
        None if test is None else _given("test", test, each_step, horizon),
        validation=0.0 if isinstance(validation, tuple) else validation,
        test_fraction=0.2 if test_fraction is None else test_fraction,
        seed=seed,
        target=target,
        name=name,
        kind=kind,
        missing=missing,
        padded=padded,
        normalize=normalize,
        subsample=subsample,
        ignore_first=ignore_first,
        sampling=sampling,
        fold=None if folds is None else (folds, fold or 1),
        split=split,
        forecast=wanted,
    )
    try:
        return with_choices(task, metric, class_weight, target)
    except UserError as error:
        raise ValueError(without_dashes(str(error))) from error


def labels_of_steps(targets: Any, inputs: Any) -> bool:
    """Whether targets of recordings are one for each step, by their shape."""
    if targets is None or len(targets) != len(inputs):
        return False
    return all(np.ndim(y) > 0 and len(y) == len(x) for y, x in zip(targets, inputs, strict=True))


def _forecast(
    channels: tuple[str, ...],
    horizon: int | None,
    places: Sequence[int] | None,
    season: int | None,
) -> Forecast | None:
    """What to forecast, checked; None without a horizon."""
    if horizon is None:
        if places is not None or season is not None:
            raise ValueError("forecast and season need horizon, the steps to forecast.")
        return None
    for name, value in (("horizon", horizon), ("season", season)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    places = range(len(channels)) if places is None else places
    wrong = [place for place in places if not 0 <= place < len(channels)]
    if wrong or len(set(places)) < len(places) or not places:
        raise ValueError(
            f"forecast must be different positions of 0 … {len(channels) - 1}, got {list(places)}."
        )
    return Forecast(horizon, tuple(places), season)


def _given(part: str, arrays: tuple[Any, ...], each_step: bool, horizon: int | None) -> Recordings:
    """Series that the user passed separately."""
    inputs, targets, lengths = (*arrays, None, None)[:3]
    found = recordings(inputs, targets, lengths, each_step=each_step)
    if not found.labelled and horizon is None:
        raise ValueError(f"{part} needs (inputs, targets) or (inputs, targets, lengths).")
    return found


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
    padded = bool(how.get("padded"))
    if forecast is None:
        how["kind"] = kind_of(data, how.get("kind"))
    # Before the split, so that errors name the position in the file.
    whole = cut_padding(data.series) if padded else data.series
    check_missing(whole, data.channels, how.get("missing", "error"), padded)
    sampling = sampling or Sampling()
    if forecast is not None:  # windows are for training alone, and lie half over each other
        forecast = replace(forecast, window=sampling.window)
        sampling = replace(sampling, window=None, stride=None, purge=False)
    sampling = _agreed(sampling, data, split)
    data = sampling.shape(data, how.get("kind"), padded)
    test = None if test is None else sampling.shape(test, how.get("kind"), padded)
    if forecast is not None:
        data, test = _with_forecasts(data, test, forecast, how)
    check_steps(data, how)
    grouped = data.groups is not None or data.spans is not None or fold is not None
    in_time = not grouped and is_in_time(data, split, forecast is not None)
    if in_time:
        parts = parts_in_time(data, test, validation, test_fraction)
    else:
        parts = _divide(data, test, validation, test_fraction, seed, how["kind"], fold)
    train = parts["training"]
    held_out = {"validation": data.validation is None, "test": test is None}
    preparation, examples = _prepare(parts, how, forecast)
    preparation = replace(preparation, sampling=None if sampling == Sampling() else sampling)
    steps = preparation.steps
    classes, width = len(preparation.classes), len(data.channels)
    of = "labels" if preparation.kind == "multilabel" else "classes"
    what = f"{classes} {of}" if classes else "regression"
    what += " at every step" * preparation.each_step
    return Task(
        name=name,
        summary=f"{len(train)} training series of up to {steps} steps,"
        f" {width} channel{'s' * (width > 1)}, {what}",
        input_size=width,
        output_size=preparation.outputs,
        loss=LOSSES[preparation.kind],
        target=(1.0 if classes else 0.0) if target is None else target,
        train=examples[0],
        validation=examples[1],
        test=examples[2],
        epoch_size=len(examples[0]),
        batch_size=batch_size(len(examples[0])),
        data=OwnData(
            preparation,
            understood(parts, preparation, how)
            + split_of(parts, examples[0], in_time)
            + told_of_split(data, parts, how["kind"], fold),
            sources or {},
            frozenset(part for part, was in held_out.items() if was),
            doubts(data, parts),
        ),
    )


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


def _divide(
    data: Recordings,
    test: Recordings | None,
    validation: float,
    test_fraction: float,
    seed: int,
    kind: Kind,
    fold: tuple[int, int] | None = None,
) -> dict[str, Recordings]:
    """The training, validation and test series; parts that were not passed are held out."""
    apart, rest = data.validation, replace(data, validation=None)
    if fold is not None:
        if test is not None:
            raise ValueError(
                "there are test series: folds, which are the test series, are for none."
            )
        rest, test = split_fold(rest, *fold, seed, kind)
    elif test is None and test_fraction > 0:
        rest, test = split_off(rest, test_fraction, seed, kind)
    train, valid = rest, rest
    if apart is not None:
        valid = apart
    elif validation > 0:
        train, valid = split_off(rest, validation, seed, kind)
    return {"training": train, "validation": valid, "test": test or valid}


def _examples(preparation: Preparation, part: str, data: Recordings) -> Examples:
    """The prepared examples of a part."""
    try:
        inputs, lengths = preparation.stored(data)
        return Examples(inputs, preparation.targets(data), lengths)
    except ValueError as error:
        raise ValueError(f"the {part} data: {error}") from error


def batch_size(count: int) -> int:
    """A power of two from 16 to 128, if possible with at least ten batches per epoch."""
    return next((size for size in (128, 64, 32) if 10 * size <= count), 16)
