"""Splits series with targets at every step in time: the end of each is for the test.

A part's series begin at the first step, so that a network comes to the part's own steps with the
state that it would have. Only targets of the part's own time count: of the training part those
before the validation's time, even if an earlier step forecasts them.
"""

from dataclasses import replace

from rnnopt.config.data_config import Split
from rnnopt.tasks.user_data.recordings import Recordings

Ends = list[int]
FEW = 5  # series: fewer cannot give one to each part and leave some to learn from


def ends_of(data: Recordings, fraction: float) -> tuple[Ends, Ends]:
    """Where the last `fraction` of each series begins, and where the series ends."""
    lengths = [len(one) for one in data.series]
    return [n - max(1, round(n * fraction)) for n in lengths], lengths


def cut_in_time(data: Recordings, fraction: float) -> tuple[Recordings, Recordings]:
    """The first steps of each series, and whole series whose last `fraction` of targets counts.

    Raises:
        ValueError: a series is too short.
    """
    starts, lengths = ends_of(data, fraction)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if start < 1:
            raise ValueError(
                f"cannot hold out {fraction:g} of series {i + 1} in time: it has {length} step"
                f"{'s' * (length > 1)}."
            )
    assert data.steps is not None
    kept = until(data, starts)
    return kept, replace(data, steps=data.steps.within(starts, lengths))


def until(data: Recordings, ends: Ends) -> Recordings:
    """The series up to these steps, with the targets of that time."""
    assert data.steps is not None
    series = tuple(one[:end] for one, end in zip(data.series, ends, strict=True))
    steps = data.steps.cut(ends).within([0] * len(ends), ends)
    return replace(data, series=series, steps=steps)


def windows(data: Recordings, width: int) -> Recordings:
    """Windows of at most `width` steps, each half over the one before, with their targets."""
    assert data.steps is not None
    series, targets = [], []
    for i, one in enumerate(data.series):
        last = max(0, len(one) - width)
        for start in [*range(0, last, max(1, width // 2)), last]:
            end = min(start + width, len(one))
            its = data.steps.window(i, start, end)
            if its.has_some(0):
                series.append(one[start:end])
                targets.append(its)
    steps = data.steps.joined(targets)
    return replace(data, series=tuple(series), steps=steps, names=None, moments=None, stamps=None)


def is_in_time(data: Recordings, split: Split | None, forecasts: bool) -> bool:
    """Whether to split in time: as asked, else forecasts, and targets at every step of few series.

    Raises:
        ValueError: a split that the targets do not allow.
    """
    if data.steps is None:
        if split == "time":
            raise ValueError("a split in time needs targets at every step, got one a series.")
        return False
    if data.spans is not None:  # windows are held out with the recordings or the time they are of
        if split is not None:
            raise ValueError(f"windows have a split of their own: leave out split={split}.")
        return False
    return split == "time" if split is not None else forecasts or len(data) < FEW


def parts_in_time(
    data: Recordings, test: Recordings | None, validation: float, test_fraction: float
) -> dict[str, Recordings]:
    """The training, validation and test series; the ends of `data` are those that were not passed.

    A series without a target in the time of a part is not in that part.
    """
    apart, train = data.validation, replace(data, validation=None)
    if test is None and test_fraction > 0:
        train, test = cut_in_time(train, test_fraction)
    valid = train
    if apart is not None:
        valid = apart
    elif validation > 0:
        train, valid = cut_in_time(train, validation)
    parts = {"training": train, "validation": valid, "test": test or valid}
    return {name: _with_targets(part, name) for name, part in parts.items()}


def _with_targets(part: Recordings, name: str) -> Recordings:
    assert part.steps is not None
    there = [i for i in range(len(part)) if part.steps.has_some(i)]
    if not there:
        raise ValueError(f"no step in the time of the {name} part has a target.")
    return part if len(there) == len(part) else part.select(there)
