"""Tables and figures from run folders, and from nothing else.

Runs that differ in the seed alone form a group: a row of the table, a line of the figure. Intervals
are 95 % Student intervals of the mean over seeds. A run that misses its target counts as infinitely
slow, so the cost to the target is given as a mean only where every run reached it.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.run_config import RunConfig
from rnnopt.config.validation import checked_records, checked_result
from rnnopt.report.statistics import mean_and_width as mean_and_width
from rnnopt.report.statistics import mean_curve
from rnnopt.report.style import any_script, plain
from rnnopt.report.svg import number
from rnnopt.runs.folder import RunFolder, write_atomically
from rnnopt.tasks.names import visible
from rnnopt.tasks.ranking import WORST, Rank, loss_of_best, rank
from rnnopt.tasks.task import lower_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; then line styles.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Run:
    """One run folder, read."""

    config: RunConfig
    records: list[dict[str, float]]
    result: dict[str, Any]
    path: Path

    @property
    def rank(self) -> Rank:
        """By which the best of several runs is found: that of its best look, if there is one."""
        best = self.result.get("best")
        if not best:
            return WORST
        lower = lower_is_better(self.result.get("metric"))
        return rank(best["validation_metric"], loss_of_best(best, self.records), lower)


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone."""

    label: str
    runs: list[Run]


def read_runs(folders: Sequence[RunFolder]) -> list[Run]:
    """What the folders hold.

    Raises:
        UserError: something in one is not what a run writes.
    """
    return [
        Run(
            f.read_config(),
            checked_records(f.read_records(), f.path),
            checked_result(f.read_result(), f.path),
            f.path,
        )
        for f in folders
    ]


def group_runs(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """The groups of each task, in order of first appearance.

    A group is labelled by its optimizer and whatever else sets it apart from its task's others.
    """
    by_task: dict[str, dict[tuple, list[Run]]] = {}
    for run in runs:
        settings = run.config.to_dict()
        del settings["seed"]
        by_task.setdefault(run.config.task, {}).setdefault(tuple(settings.items()), []).append(run)
    result = {}
    for task, groups in by_task.items():
        columns = [set(values) for values in zip(*groups, strict=True)]
        differing = [next(iter(c))[0] for c in columns if len(c) > 1]
        labels = [_label(dict(settings), differing) for settings in groups]
        result[task] = [Group(*item) for item in zip(labels, groups.values(), strict=True)]
    return result


def _label(settings: dict[str, Any], differing: list[str]) -> str:
    extra = [
        f"{n}={settings[n]}" for n in differing if n != "optimizer" and settings[n] is not None
    ]
    return " ".join([settings["optimizer"], *extra])


MARKUP = re.compile(r"[\\`*<>|\[\]&]")
NARROW = (0, 2, 4, 5, 6)  # the columns that a small terminal still has room for


def facts_of(groups: Sequence[Group]) -> dict[str, Any]:
    """Summary, loss, metric and target of the groups' task, as its runs noted them."""
    facts: dict[str, Any] = dict(summary="", loss="loss", metric="metric", target=math.nan)
    for run in (run for group in groups for run in group.runs):
        facts |= {name: run.result[name] for name in facts if name in run.result}
    return facts


def columns(groups: Sequence[Group]) -> list[str]:
    """Headings of `rows`."""
    facts = facts_of(groups)
    name = facts["metric"]
    return [
        "optimizer", "runs", f"test {name}", f"best validation {name}",
        f"reached {facts['target']:g}", "evaluations to target", "seconds to target",
        "ms an evaluation", "status",
    ]  # fmt: skip


def rows(groups: Sequence[Group]) -> list[list[str]]:
    """One row a group, as text; runs that are not over have no test figure."""
    return [_row(group) for group in groups]


def _row(group: Group) -> list[str]:
    results = [run.result for run in group.runs]
    best = [r["best"]["validation_metric"] for r in results if r.get("best")]
    targets = [r.get("to_target") or {} for r in results]
    cost = [
        1e3 * r["seconds"] / r["evaluations"]
        for r in results
        if "seconds" in r and r.get("evaluations", 0) > 0
    ]
    statuses: dict[str, int] = {}
    for r in results:
        statuses[r["status"]] = statuses.get(r["status"], 0) + 1
    ends = ", ".join(f"{count} {status}" for status, count in statuses.items())
    nonfinite = sum(r.get("nonfinite", 0) for r in results)
    return [
        group.label,
        str(len(results)),
        _interval([r["test_metric"] for r in results if "test_metric" in r], 4),
        _interval(best, 4),
        reached(group),
        _interval([t.get("evaluations", math.inf) for t in targets], 0),
        _interval([t.get("seconds", math.inf) for t in targets], 1),
        _interval(cost, 1, interval=False),
        f"{ends}; {nonfinite} steps not finite" if nonfinite else ends,
    ]


def reached(group: Group) -> str:
    """How many runs of a group met the target, of how many."""
    return f"{sum(bool(run.result.get('to_target')) for run in group.runs)}/{len(group.runs)}"


def _interval(values: Sequence[float], digits: int, interval: bool = True) -> str:
    if not values:
        return "–"
    mean, width = mean_and_width(values)
    if math.isinf(mean):
        return "∞"
    if math.isnan(width) or not interval:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {width:.{digits}f}"


def markdown(groups: Sequence[Group]) -> str:
    """The table as Markdown."""
    head = list(map(for_markdown, columns(groups)))
    cells = [map(for_markdown, row) for row in rows(groups)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in cells]) + "\n"


def for_markdown(text: str) -> str:
    """`text` as Markdown shows it as it is: in one line, no markup, no end of a table's cell."""
    return MARKUP.sub(r"\\\g<0>", visible(text))


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
        for column, cost in enumerate(("evaluations", "seconds")):
            axis = axes[row][column]
            for i, group in enumerate(groups):
                log = quantity == "train_loss" or metric == "mse"
                draw(axis, group, cost, quantity, i, log)
            axis.grid(alpha=0.3)
            axis.margins(x=0.01)
            if column == 0:
                axis.set_ylabel(name)
            if row == 1:
                unit = "gradient evaluations" if cost == "evaluations" else "training seconds"
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
