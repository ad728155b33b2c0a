"""An overview of the user's data as understood, in readable lines."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.feedback import without_past
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import Recordings, default_names
from rnnopt.tasks.user_data.series import cut_padding
from rnnopt.tasks.user_data.step_targets import StepTargets
from rnnopt.tasks.user_data.target_kinds import label_names, numbers_of

Lines = tuple[tuple[str, str], ...]
MANY = 12  # largest number of list entries shown


def understood(
    parts: Mapping[str, Recordings], preparation: Preparation, how: Mapping[str, Any]
) -> Lines:
    """An overview of a task's data after the split.

    Args:
        parts: the training, validation and test series.
        preparation: preparation learnt from the training series.
        how: arguments of `Preparation.learn`.
    """
    train = parts["training"]
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    everything = [one for part in parts.values() for one in part.series]
    everything = list(without_past(everything, preparation.lags))
    if preparation.padded:
        everything = list(cut_padding(tuple(everything)))
    steps = lengths_of(everything)
    if preparation.subsample > 1:
        steps += f"; the network sees means of {preparation.subsample}: {preparation.steps} at most"
    lines = [
        *read_as(train),
        *_other_times(parts),
        *train.lines,
        ("series", counts),
        ("steps", steps),
        channels_of(preparation.channels),
    ]
    if preparation.horizon:
        lines += forecasts_of(preparation)
    elif train.steps is not None:
        lines += step_targets_of(train.steps, preparation.classes, preparation.ignore_first)
        lines += feedback_of(preparation)
    else:
        assert train.targets is not None
        lines += targets_of(train.targets, preparation.classes)
    normalize = how.get("normalize", True)
    lines += [
        ("missing values", missing_of(everything, preparation.missing)),
        ("normalised", "each channel, by the training series" if normalize else "no"),
    ]
    return tuple(lines)


def described(data: Recordings, padded: bool = False) -> Lines:
    """An overview of a file, before any preparation."""
    series = list(cut_padding(data.series) if padded else data.series)
    lines = [
        *read_as(data),
        *data.lines,
        *([("groups", groups_of(data.groups))] if data.groups is not None else []),
        ("series", str(len(data))),
        ("steps", lengths_of(series)),
        channels_of(data.channels),
    ]
    for channel, name in list(enumerate(data.channels))[:MANY]:
        values = np.concatenate([one[:, channel] for one in series], dtype=np.float64)
        column = values[~np.isnan(values)]
        text = "no value"
        if len(column):
            text = (
                f"{column.min():.4g} … {column.max():.4g}, mean {column.mean():.4g},"
                f" deviation {column.std():.4g}"
            )
        lines.append((f"  {name}", text))
    lines.append(("missing values", missing_of(series)))
    return tuple(lines)


def groups_of(groups: np.ndarray) -> str:
    """The number of groups, and of their series."""
    counts = np.unique(groups, return_counts=True)[1]
    least, most = counts.min(), counts.max()
    return f"{len(counts)}, of {least}{f' … {most}' if most > least else ''} series"


def read_as(data: Recordings) -> list[tuple[str, str]]:
    """How the file, its columns and times were interpreted; empty without such information."""
    text = [data.table.describe()] if data.table is not None else []
    text += data.notes
    lines = [("read as", "; ".join(text))] if text else []
    return lines + ([("times", data.times)] if data.times is not None else [])


def _other_times(parts: Mapping[str, Recordings]) -> list[tuple[str, str]]:
    """Irregular times, and other rates, of the parts that come from other files."""
    seen, lines = {*_times(parts["training"])}, []
    for name, part in parts.items():
        for subject, text in _times(part):
            if (subject, text) not in seen:
                seen.add((subject, text))
                lines.append((f"{subject}, {name}", text))
    return lines


def _times(part: Recordings) -> list[tuple[str, str]]:
    irregular = [("times", part.times)] if part.times is not None else []
    return irregular + [line for line in part.lines if line[0] == "rates"]


def channels_of(channels: tuple[str, ...]) -> tuple[str, str]:
    """The number of channels, and their names if they have any."""
    named = channels != default_names(len(channels))
    return "channels", f"{len(channels)}" + (f": {some(channels)}" if named else "")


def targets_of(targets: np.ndarray, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """The classes with their frequencies, or the range of the numbers."""
    if not classes:
        numbers = numbers_of(targets)
        text = ", ".join(
            f"{low:.4g} … {high:.4g} (mean {mean:.4g}, deviation {deviation:.4g})"
            for low, high, mean, deviation in zip(
                numbers.min(0), numbers.max(0), numbers.mean(0), numbers.std(0), strict=True
            )
        )
        if (numbers == numbers[0]).all(0).any():
            text += "; one never varies: there is nothing to learn"
        return [("targets", f"regression of {numbers.shape[1]}: {text}")]
    if targets.ndim == 2:
        each = zip(classes, targets.mean(0), strict=True)
        found = some(tuple(f"{name}: {share:.0%}" for name, share in each))
        return [("targets", f"{len(classes)} labels, each 0 or 1"), ("share of 1", found)]
    counts = Counter(label_names(targets))
    total = len(targets)
    shares = [f"{name}: {counts[name]} ({counts[name] / total:.0%})" for name in classes]
    most = counts.most_common(1)[0][1] / total
    commonest = f"always answering the commonest class is right in {100 * most:.1f} %"
    return [
        ("targets", f"{len(classes)} classes; {commonest}"),
        ("classes", some(tuple(shares))),
    ]


def feedback_of(preparation: Preparation) -> list[tuple[str, str]]:
    """How past outputs are fed back; no line without."""
    free = preparation.free_run
    if free is None:
        return []
    steps = f"first {free.start} steps" if free.start > 1 else "first step"
    text = f"measured outputs in training; free run on other data, after the {steps}"
    return [("feedback", text)]


def forecasts_of(preparation: Preparation) -> list[tuple[str, str]]:
    """What is forecast."""
    p = preparation
    names = some(tuple(p.channels[i] for i in p.forecasts))
    steps = "the next step" if p.horizon == 1 else f"the next {p.horizon} steps"
    season = "" if p.season is None else f"; a season has {p.season} steps"
    lines = [("forecast", f"from each step {steps} of {names}{season}")]
    if p.ignore_first:
        lines.append(("ignored", f"forecasts from the first {p.ignore_first} steps of each series"))
    return lines


def step_targets_of(
    steps: StepTargets, classes: tuple[str, ...], ignored: int = 0
) -> list[tuple[str, str]]:
    """The targets of each step: classes with their frequencies, or the ranges of numbers."""
    total = sum(one.size for one in steps.values)
    missing = sum(int(np.isnan(one).sum()) for one in steps.values)
    lines = [("at every step", f"{len(steps.names)} targets: {some(steps.names)}")]
    if len(steps.names) == 1:
        lines = [("at every step", f"one target: {steps.names[0]}")]
    if classes:
        names = np.array(steps.labels(steps.present[:, 0]))
        lines += targets_of(names, classes)
    else:
        for name, column in list(zip(steps.names, steps.present.T, strict=True))[:MANY]:
            there = column[~np.isnan(column)]
            text = f"{there.min():.4g} … {there.max():.4g}, mean {there.mean():.4g}"
            lines.append((f"  {name}", f"{text}, deviation {there.std():.4g}"))
    lines.append(("missing targets", f"{missing} ({missing / total:.2%})" if missing else "none"))
    if ignored:
        lines.append(("ignored", f"the first {ignored} steps of each series"))
    return lines


def lengths_of(series: list[np.ndarray]) -> str:
    """The lengths of the series."""
    lengths = [len(one) for one in series]
    if min(lengths) == max(lengths):
        return f"{lengths[0]}, all alike"
    return f"{min(lengths)} … {max(lengths)}, median {np.median(lengths):g}"


def missing_of(series: list[np.ndarray], filled: str = "") -> str:
    """The number of missing values, and how they are filled."""
    gaps = np.array([np.isnan(one).sum() for one in series])
    if not gaps.any():
        return "none"
    share = gaps.sum() / sum(one.size for one in series)
    text = f"{gaps.sum()} ({share:.2%}) in {(gaps > 0).sum()} series"
    return f"{text}, filled by {filled}" if filled else text


def some(entries: tuple[str, ...]) -> str:
    """The first entries of a list, and their total number."""
    shown = ", ".join(entries[:MANY])
    more = f", … ({len(entries)} in all)" if len(entries) > MANY else ""
    return shown + more
