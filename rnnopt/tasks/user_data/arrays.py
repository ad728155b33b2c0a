"""A task from the user's arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from rnnopt.config.data_config import Kind, Missing, Split
from rnnopt.config.errors import UserError, without_dashes
from rnnopt.tasks.choices import ClassWeight, with_choices
from rnnopt.tasks.task import Task
from rnnopt.tasks.user_data.build import build
from rnnopt.tasks.user_data.forecasting import Forecast
from rnnopt.tasks.user_data.recordings import Recordings, recordings, with_times, without_channels
from rnnopt.tasks.user_data.sampling import Sampling

# Series that the user passes separately: (inputs, targets), with lengths, or a dict of `NAMES`.
Apart = tuple[Any, ...] | Mapping[str, Any]
NAMES = ("inputs", "targets", "lengths", "groups", "times")


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    lengths: Any = None,
    test: Apart | None = None,
    validation: float | Apart = 0.2,
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
    feedback: int = 0,
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
        test: test series (inputs, targets) or (inputs, targets, lengths), or a dict of these names
            that may also have groups and times; None means that `test_fraction` is held out.
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
        feedback: past outputs that are further inputs: measured ones in training, the network's own
            in the free run on validation and test series, as in `DataConfig`.
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
    if isinstance(feedback, bool) or not isinstance(feedback, Integral) or feedback < 0:
        raise ValueError(f"feedback must be a whole number, at least 0, got {feedback}.")
    sampling = replace(sampling, drop=data.unused, feedback=feedback)
    each_step = data.steps is not None
    share = 0.0
    if isinstance(validation, (tuple, Mapping)):
        data = replace(data, validation=_given("validation", validation, each_step, horizon))
    else:
        share = validation
    task = build(
        data,
        None if test is None else _given("test", test, each_step, horizon),
        validation=share,
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


def _given(part: str, arrays: Apart, each_step: bool, horizon: int | None) -> Recordings:
    """Series that the user passed separately."""
    if not isinstance(arrays, Mapping) and len(arrays) > 3:
        raise ValueError(f"{part} with more than lengths must be a dict, got {len(arrays)} arrays.")
    named = arrays if isinstance(arrays, Mapping) else dict(zip(NAMES, arrays, strict=False))
    unknown = [name for name in named if name not in NAMES]
    if unknown or "inputs" not in named:
        got = ", ".join(map(str, named)) or "nothing"
        raise ValueError(
            f"{part} needs inputs, and of {', '.join(NAMES)} what there is, got {got}."
        )
    inputs, targets, lengths, groups, times = (named.get(name) for name in NAMES)
    try:
        found = recordings(inputs, targets, lengths, each_step=each_step, groups=groups)
        found = found if times is None else with_times(found, times)
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error
    if not found.labelled and horizon is None:
        raise ValueError(f"{part} needs (inputs, targets) or (inputs, targets, lengths).")
    return found
