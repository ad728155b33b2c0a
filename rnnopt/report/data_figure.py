"""A picture of a user's data: what the classes look like, how many there are, how long they are."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnopt.config.data_config import Kind
from rnnopt.report.style import COLORS
from rnnopt.tasks.names import plain
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.series import cut_padding
from rnnopt.tasks.user_data.splits import members
from rnnopt.tasks.user_data.target_kinds import class_names, kind_of, label_names, numbers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 12  # classes that are drawn
CHANNELS = 4  # that are drawn in one panel
EXAMPLES = 3
GREY = "#666666"


def draw(data: Recordings, name: str, kind: Kind | None = None, padded: bool = False) -> "Figure":
    """Panels of series above, the targets and the lengths (or values) below.

    A panel shows a class: mean and band of one deviation of each channel, a few series if there is
    one channel. In regression it shows series with low, middle and high targets.
    """
    from matplotlib.figure import Figure

    series = list(cut_padding(data.series) if padded else data.series)
    several = len(data.channels) > 1
    center, scale = _scales(series) if several else (np.zeros(1), np.ones(1))
    groups = _groups(data, kind)
    shown = groups[:PANELS]
    columns = len(shown) if len(shown) < 5 else min(4, math.ceil(math.sqrt(len(shown))))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(11, 1.0 + 1.8 * rows + 2.8), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.8 * rows + 0.6, 2.8))
    above, below = halves
    above.suptitle(_title(data, name, len(groups) - len(shown)), fontsize=11)
    panels = above.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, (title, these) in zip(panels, shown, strict=False):
        _panel(panel, [series[i] for i in these], center, scale)
        panel.set_title(title, fontsize=9)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel in panels[: len(shown)][-columns:]:  # with none below
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("step", fontsize=9)
    drawn = [plain(name, 30) for name in data.channels[:CHANNELS]]
    if len(drawn) > 1:
        handles, _ = panels[0].get_legend_handles_labels()
        above.legend(handles, drawn, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    left, right = below.subplots(1, 2)
    _targets(left, data, kind)
    _lengths_or_values(right, series)
    return figure


def _title(data: Recordings, name: str, left_out: int) -> str:
    channels = len(data.channels)
    told = f"{plain(name)}: {len(data)} series, {channels} channel{'s' * (channels > 1)}"
    if channels > CHANNELS:
        told += f" (the first {CHANNELS} drawn)"
    told += f"; {left_out} more classes not drawn" if left_out else ""
    more = "each channel at its own scale" if channels > 1 else f"grey: {EXAMPLES} of the series"
    return f"{told}\nline: mean, band: one deviation, {more}"


def _groups(data: Recordings, kind: Kind | None) -> list[tuple[str, np.ndarray]]:
    """Titles and positions of what the panels show."""
    if data.targets is None:
        return [("all series", np.arange(len(data)))]
    if kind_of(data, kind) == "classification":
        named = zip(class_names(data.targets), members(data.targets), strict=True)
        return [(f"{plain(one, 30)} ({len(index)})", index) for one, index in named]
    order = np.argsort(numbers_of(data.targets)[:, 0], kind="stable")
    thirds = np.array_split(order, min(3, len(order)))
    titles = ("low targets", "middle targets", "high targets")
    return [(f"{t} ({len(i)})", i) for t, i in zip(titles, thirds, strict=False)]


def _panel(axis: "Axes", series: list[np.ndarray], center: np.ndarray, scale: np.ndarray) -> None:
    """Mean and band of some series, each channel less its center, in units of its scale."""
    channels = min(CHANNELS, series[0].shape[1])
    for channel in range(channels):
        color = COLORS[channel]
        if channels == 1:
            for one in series[:EXAMPLES]:
                axis.plot(one[:, 0], color=GREY, linewidth=0.5, alpha=0.6)
        mean, deviation = moments([one[:, channel] for one in series])
        mean, deviation = (mean - center[channel]) / scale[channel], deviation / scale[channel]
        steps = np.arange(len(mean))
        axis.plot(steps, mean, color=color, linewidth=1.4, label=str(channel))
        axis.fill_between(
            steps, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0
        )
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.margins(x=0.01)


def _scales(series: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (channel,) over all steps, the latter 1 where a channel never varies."""
    count = sum((~np.isnan(one)).sum(0) for one in series)
    count = np.where(count > 0, count, np.nan)
    mean = sum(np.nansum(one, 0, dtype=np.float64) for one in series) / count
    squares = sum(np.nansum((one - mean) ** 2, 0) for one in series)
    deviation = np.sqrt(squares / count)
    return mean, np.where(deviation > 0, deviation, 1)


def moments(series: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation at each step over the series that have a value there, NaN where none."""
    longest = max(map(len, series))
    count, total, squares = np.zeros((3, longest))
    for one in series:
        seen = ~np.isnan(one)
        count[: len(one)] += seen
        total[: len(one)] += np.where(seen, one, 0)
    count[count == 0] = np.nan
    mean = total / count
    for one in series:
        from_mean = one - mean[: len(one)]
        squares[: len(one)] += np.where(np.isnan(from_mean), 0, from_mean**2)
    return mean, np.sqrt(squares / count)


def _targets(axis: "Axes", data: Recordings, kind: Kind | None) -> None:
    axis.set_ylabel("series")
    if data.targets is None:
        axis.set_axis_off()
        return
    if kind_of(data, kind) != "classification":
        axis.hist(numbers_of(data.targets), bins=30, color=_colors(data.targets))
        axis.set_xlabel("target")
        return
    names = label_names(data.targets)
    classes = class_names(data.targets)[:40]
    axis.bar(range(len(classes)), [names.count(one) for one in classes], color=COLORS[0])
    shown = [plain(one, 20) for one in classes]
    longest = max(map(len, shown))
    axis.set_xticks(
        range(len(classes)), shown, fontsize=8, rotation=45 if longest > 4 else 0,
        ha="right" if longest > 4 else "center",
    )  # fmt: skip
    axis.set_xlabel("class" if len(classes) < 40 else "class (the first 40)")


def _colors(targets: np.ndarray) -> list[str]:
    width = 1 if targets.ndim == 1 else targets.shape[1]
    return [COLORS[i % len(COLORS)] for i in range(width)]


def _lengths_or_values(axis: "Axes", series: list[np.ndarray]) -> None:
    """The lengths where they differ, else the values."""
    from matplotlib.ticker import MaxNLocator

    lengths = [len(one) for one in series]
    axis.set_ylabel("series")
    if min(lengths) < max(lengths):
        edges = np.arange(min(lengths), max(lengths) + 2) - 0.5
        if len(edges) > 60:
            edges = np.linspace(edges[0], edges[-1], 41)
        axis.hist(lengths, bins=edges.tolist(), color=COLORS[0])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("steps")
        return
    for channel in range(min(CHANNELS, series[0].shape[1])):
        values = np.concatenate([one[:, channel] for one in series], dtype=np.float64)
        seen = values[~np.isnan(values)]
        axis.hist(seen, bins=60, histtype="step", color=COLORS[channel], linewidth=1.4)
    axis.set_xlabel(f"value (every series has {lengths[0]} steps)")
    axis.set_ylabel("steps")
    axis.set_yscale("log")
