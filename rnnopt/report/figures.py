"""Figures of run folders (matplotlib), and report.md, which shows them under its tables."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.report.charts import Chart, curves
from rnnopt.report.statistics import Curve
from rnnopt.report.style import COLORS, STYLES, any_script, number
from rnnopt.report.tables import markdown
from rnnopt.runs.collection import Group, Run, facts_of, group_runs
from rnnopt.runs.folder import write_atomically
from rnnopt.tasks.names import for_markdown, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(task: str, groups: Sequence[Group]) -> "Figure":
    """Training loss and validation metric against gradient evaluations and against seconds."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Room between the panels for the labels of the ends of their axes.
    result = Figure(figsize=(11, 7.5), layout=ConstrainedLayoutEngine(w_pad=0.1))
    axes = result.subplots(2, 2, sharex="col", sharey="row")
    result.suptitle(f"{plain(task)}: {plain(facts_of(groups)['summary'], 160)}")
    labels = [group.label for group in groups]
    charts = curves(groups, {label: i for i, label in enumerate(labels)})
    for place, (axis, chart) in enumerate(zip(axes.flat, charts, strict=True)):
        draw(axis, chart)
        axis.grid(alpha=0.3)
        axis.margins(x=0.01)
        if place % 2 == 0:
            axis.set_ylabel(plain(chart.title, 48))
        if place >= 2:
            axis.set_xlabel(chart.x_label)
    # The target is there, as no place in a panel is free of curves.
    legend_below(result, axes.flat, [*labels, target_label(charts[-1])])
    return result


def usual_look(place: int) -> dict[str, Any]:
    """Colour and dashes of the group at a place: no dashes as long as there are colours."""
    style = STYLES[place // len(COLORS) % len(STYLES)]
    return dict(color=COLORS[place % len(COLORS)], linestyle=style)


def draw(axis: "Axes", chart: Chart, look_of: Callable[[int], dict[str, Any]] = usual_look) -> None:
    """The lines of a chart, its target and the scales of its axes."""
    for place, label, curve in chart.lines:
        draw_line(axis, label, curve, look_of(place), chart.steps)
    if label := target_label(chart):
        style: Any = (0, (2, 2))
        axis.axhline(chart.target, color="#666666", linewidth=1, linestyle=style, label=label)
    if chart.log_x and any(value > 0 for *_, curve in chart.lines for value in curve.at):
        log_axis(axis, "x")
    if chart.log_y and any(value > 0 for *_, curve in chart.lines for value in curve.mean):
        log_axis(axis)
    if chart.y_range:
        axis.set_ylim(*chart.y_range)


def target_label(chart: Chart) -> str:
    """What legends call the line at the target; "" if there is none."""
    return f"target {chart.target:g}" if math.isfinite(chart.target) else ""


def draw_line(
    axis: "Axes", label: str, curve: Curve, look: dict[str, Any], steps: bool = False
) -> None:
    """A group's mean over seeds, with the 95 % interval of the mean as a band."""
    way: Any = "steps-post" if steps else "default"
    axis.plot(curve.at, curve.mean, linewidth=1.6, label=label, drawstyle=way, gid="line", **look)
    if curve.low is not None and curve.high is not None:
        color = look["color"]
        axis.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)


def log_axis(axis: "Axes", which: str = "y") -> None:
    """Gives an axis, x or y, a logarithmic scale with plain numbers."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """0.6 where matplotlib writes 6e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return number(x) if super().__call__(x, pos) else ""

    axis.set(**{f"{which}scale": "log"})
    one = axis.xaxis if which == "x" else axis.yaxis
    one.set_major_formatter(Plain())
    one.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def legend_below(
    figure: "Figure", axes: Iterable["Axes"], labels: Sequence[str], across: int = 2
) -> None:
    """One legend for all axes, each label once, in the order of `labels`, so many a line."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    found = [label for label in labels if label in handles]
    figure.legend(
        [handles[label] for label in found],
        [plain(label) for label in found],
        loc="outside lower center",
        ncols=across,
        frameon=False,
        fontsize=9,
    )


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes report.md and a figure a task into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    grouped = group_runs(runs)
    paths, sections = [], []
    for task, groups in grouped.items():
        name = "report" if len(grouped) == 1 else "report-" + "".join(
            c if c.isalnum() else "-" for c in task
        )  # fmt: skip
        path = folder / f"{name}.png"
        with any_script():
            figure(task, groups).savefig(path, dpi=130)
        paths.append(path)
        title = for_markdown(task)
        sections.append(f"## {title}\n\n{markdown(groups)}\n![{title}]({path.name})\n")
    text = folder / "report.md"
    write_atomically(text, "\n".join(sections).encode())
    return [text, *paths]
