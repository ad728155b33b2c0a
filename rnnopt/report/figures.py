"""Figures of run folders (matplotlib), and report.md, which shows them under its tables."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.report.statistics import mean_curve
from rnnopt.report.style import any_script
from rnnopt.report.svg import number
from rnnopt.runs.collection import Group, Run, facts_of, group_runs
from rnnopt.runs.folder import write_atomically
from rnnopt.tasks.names import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from rnnopt.report.style import COLORS, STYLES
from rnnopt.report.tables import markdown
from rnnopt.tasks.names import for_markdown


def figure(task: str, groups: Sequence[Group]) -> "Figure":
    """Training loss and validation metric against gradient evaluations and against seconds."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    facts = facts_of(groups)
    metric, target = facts["metric"], facts["target"]
    # Room between the panels for the labels of the ends of their axes.
    result = Figure(figsize=(11, 7.5), layout=ConstrainedLayoutEngine(w_pad=0.1))
    axes = result.subplots(2, 2, sharex="col", sharey="row")
    result.suptitle(f"{plain(task)}: {plain(facts['summary'], 160)}")
    panels = [("train_loss", f"training loss ({plain(facts['loss'], 30)})")]
    panels += [("validation_metric", f"validation {plain(metric, 30)}")]
    for row, (quantity, name) in enumerate(panels):
        for column, cost in enumerate(("gradient_evaluations", "seconds")):
            axis = axes[row][column]
            for i, group in enumerate(groups):
                log = quantity == "train_loss" or metric == "mse"
                draw(axis, group, cost, quantity, i, log)
            axis.grid(alpha=0.3)
            axis.margins(x=0.01)
            if column == 0:
                axis.set_ylabel(name)
            if row == 1:
                unit = (
                    "gradient evaluations" if cost == "gradient_evaluations" else "training seconds"
                )
                axis.set_xlabel(unit)
        drawn = any(axis.lines for axis in axes[row])
        if drawn and (quantity == "train_loss" or metric == "mse"):
            log_axis(axes[row][0])
        elif metric == "accuracy" and quantity == "validation_metric":
            axes[row][0].set_ylim(0, 1)
    labels = [group.label for group in groups]
    if math.isfinite(target):
        labels.append(f"target {target:g}")  # there, as no place in a panel is free of curves
        for axis in axes[1]:
            dashes = (0, (2, 2))
            axis.axhline(target, color="#666666", linewidth=1, linestyle=dashes, label=labels[-1])
    legend_below(result, axes.flat, labels)
    return result


def log_axis(axis: "Axes") -> None:
    """Gives the axis a logarithmic scale with plain numbers."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """0.6 where matplotlib writes 6e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return number(x) if super().__call__(x, pos) else ""

    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(Plain())
    axis.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


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


def draw(
    axis: "Axes", group: Group, cost: str, quantity: str, number: int, log: bool = False
) -> None:
    """One group's mean over seeds, with the 95 % interval of the mean as a band; `log` where the
    axis will be logarithmic."""
    curve = mean_curve([run.records for run in group.runs], cost, quantity, log)
    if curve is None:
        return
    color = COLORS[number % len(COLORS)]
    style = STYLES[number // len(COLORS) % len(STYLES)]
    axis.plot(curve.at, curve.mean, color=color, linestyle=style, linewidth=1.6, label=group.label)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)


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
