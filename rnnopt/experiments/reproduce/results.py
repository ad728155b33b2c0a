"""Published and reproduced results side by side: CSV, Markdown and a figure of a study's runs."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.metric_names import lower_is_better
from rnnopt.experiments.reproduce.engine import chosen_rows, finished_runs, rates_tried
from rnnopt.experiments.reproduce.study import Column, Form, Row, Study
from rnnopt.report.charts import curve_of
from rnnopt.report.figures import draw_line, legend_below, log_axis, usual_look
from rnnopt.report.statistics import mean_and_width
from rnnopt.runs.collection import Group, Run
from rnnopt.runs.folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIELDS = (
    "data", "method", "metric", "published", "ours", "half_width_95", "lowest", "highest",
    "difference", "best_of_run", "optimizer", "lr", "at_edge", "seeds", "reached", "target",
    "gradient_evaluations_to_target", "gradient_evaluations", "seconds", "diverged",
)  # fmt: skip


def line_of(study: Study, form: Form, column: Column, row: Row, out: Path) -> dict[str, Any]:
    """The results of a row on a column's task, by FIELDS; None for unknown values.

    `ours` is the test metric at the best evaluation on the validation set, `best_of_run` the best
    test metric of any evaluation (as some publications print), both means over seeds. `difference`
    compares `best_of_run`, or `ours` if that is unknown, with `published`.
    `gradient_evaluations_to_target` is the median, infinite if half of the runs missed the target.
    """
    line: dict[str, Any] = dict.fromkeys(FIELDS)
    line.update(data=column.label, method=row.label, published=row.published.get(column.label))
    runs = [] if row.settings is None else finished_runs(form, column, row, out)
    if not runs:
        return line
    accuracy = runs[0].result.get("metric") == "accuracy"
    unit = 100 if accuracy and study.percent else 1
    tests = [unit * run.result.get("test_metric", math.nan) for run in runs]
    mean, width = mean_and_width(tests)
    watched = [[r["test_metric"] for r in run.records if "test_metric" in r] for run in runs]
    if all(watched):
        best = max if accuracy else min
        line["best_of_run"] = unit * statistics.mean(best(w) for w in watched)
    target = runs[0].result["target"] if column.target is None else column.target

    def met(record: dict[str, float]) -> bool:
        metric = record["validation_metric"]
        return metric >= target if accuracy else metric <= target

    costs = [
        next((r["gradient_evaluations"] for r in run.records if met(r)), math.inf) for run in runs
    ]
    line.update(
        metric=runs[0].result.get("metric"),
        ours=mean,
        half_width_95=width if math.isfinite(width) else None,
        lowest=min(tests),
        highest=max(tests),
        optimizer=runs[0].config.optimizer,
        lr=runs[0].config.lr,
        at_edge=_at_edge(rates_tried(form, column, row, out), runs[0]),
        seeds=len(runs),
        reached=sum(math.isfinite(cost) for cost in costs),
        target=unit * target,
        gradient_evaluations_to_target=statistics.median(costs),
        gradient_evaluations=statistics.mean(run.result["gradient_evaluations"] for run in runs),
        seconds=statistics.mean(run.result["seconds"] for run in runs),
        diverged=sum(run.result["status"] == "diverged" for run in runs),
    )
    if line["published"] is not None:
        # The paper prints the best of a run, too.
        comparable = mean if line["best_of_run"] is None else line["best_of_run"]
        line["difference"] = comparable - line["published"]
    return line


def _at_edge(rates: Sequence[float], run: Run) -> bool:
    """Whether the chosen rate is at an end of those tried."""
    return len(rates) > 1 and run.config.lr in (min(rates), max(rates))


def lines_of(study: Study, form: Form, out: Path) -> list[dict[str, Any]]:
    """The results of all rows on all columns' tasks, literature included."""
    run = {row.label for row in chosen_rows(study, form)}
    rows = [row for row in study.rows if row.settings is None or row.label in run]
    return [
        line_of(study, form, column, row, out)
        for column in form.columns
        for row in rows
        if row.settings is not None or column.label in row.published
    ]


def to_csv(lines: Sequence[dict[str, Any]]) -> str:
    """The lines as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: _short(v) for k, v in line.items()})
    return text.getvalue()


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


EDGE = (
    "* the chosen learning rate is at an end of the grid: a wider grid might have found a better"
    " one."
)
HEADINGS = (
    "method", "published", "ours", "difference", "best of the run", "lr",
    "gradients to target", "seeds", "gradients", "seconds",
)  # fmt: skip

NARROW = (0, 1, 2, 4, 6)  # the columns that fit into a small terminal


def cells(line: dict[str, Any]) -> list[str]:
    """A line as the table's cells, under HEADINGS."""
    digits = 4 if lower_is_better(line["metric"]) else 2

    def number(value: float | None, digits: int, sign: str = "") -> str:
        return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"

    ours = number(line["ours"], digits)
    if line["half_width_95"] is not None:
        ours += f" ± {line['half_width_95']:.{digits}f}"
    target = "–"
    if line["seeds"]:
        cost = line["gradient_evaluations_to_target"]
        missed = "never" if math.isinf(cost) else f"{cost:.0f}"
        target = f"{missed} ({line['reached']}/{line['seeds']})"
    lr = "–" if line["lr"] is None else f"{line['lr']:g}" + "*" * bool(line["at_edge"])
    seeds = "–" if line["seeds"] is None else str(line["seeds"])
    if line["diverged"]:
        seeds += f" ({line['diverged']} diverged)"
    return [
        line["method"], number(line["published"], digits), ours,
        number(line["difference"], digits, "+"), number(line["best_of_run"], digits),
        lr, target, seeds,
        number(line["gradient_evaluations"], 0), number(line["seconds"], 0),
    ]  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table to print: title, headings, rows of text, remarks below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()

    def to_markdown(self) -> str:
        """The table without its title."""
        lines = [f"| {' | '.join(self.headings)} |", "|" + "---|" * len(self.headings)]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows]) + "\n"


def tables_of(form: Form, lines: Sequence[dict[str, Any]]) -> list[Table]:
    """One table per data set."""
    tables = []
    for column in form.columns:
        mine = [line for line in lines if line["data"] == column.label]
        target = next((line["target"] for line in mine if line["target"] is not None), None)
        title = column.label if column.label == column.task else f"{column.label} ({column.task})"
        title += "" if target is None else f"; target, on validation data: {target:g}"
        tables.append(Table(title, HEADINGS, [cells(line) for line in mine]))
    return tables


def page(title: str, parts: Sequence[str], remarks: Sequence[str], drawn: bool) -> str:
    """A results.md."""
    lines = [f"## {title}\n", *parts, *(f"- {remark}" for remark in remarks)]
    if drawn:
        lines.append(f"\n![{title}](figure.png)")
    return "\n".join(lines) + "\n"


def figure(study: Study, form: Form, out: Path) -> "Figure | None":
    """Training loss, and below it the metric, over gradient evaluations; a column per data set."""
    from matplotlib.figure import Figure

    rows = [row for row in chosen_rows(study, form) if row.shown] or chosen_rows(study, form)
    groups = {
        column.label: [
            Group(row.label, runs)
            for row in rows
            if (runs := finished_runs(form, column, row, out))
        ]
        for column in form.columns
    }
    groups = {label: found for label, found in groups.items() if found}
    if not groups:
        return None
    result = Figure(figsize=(max(9, 5.5 * len(groups) + 1), 8), layout="constrained")
    axes = result.subplots(2, len(groups), squeeze=False)
    result.suptitle(f"{study.name}: {study.title}")
    for i, (label, found) in enumerate(groups.items()):
        metric = next((g.runs[0].result["metric"] for g in found), "metric")
        part = study.curve.partition("_")[0]
        for j, (quantity, name) in enumerate(
            [("train_loss", "training loss"), (study.curve, f"{part} {metric}")]
        ):
            axis = axes[j][i]
            log = quantity == "train_loss" or metric == "mse"
            for group in found:
                place = rows_index(rows, group.label)
                if curve := curve_of(group, "gradient_evaluations", quantity, log):
                    draw_line(axis, group.label, curve, usual_look(place))
            axis.grid(alpha=0.3)
            axis.margins(x=0.01)
            axis.set_ylabel(name)
            if log:
                log_axis(axis)
        axes[0][i].set_title(label)
        axes[1][i].set_xlabel("gradient evaluations")
    legend_below(result, axes.flat, [row.label for row in rows])
    return result


def rows_index(rows: Sequence[Row], label: str) -> int:
    """Index of a row, so that it has the same colour in every panel."""
    return next(i for i, row in enumerate(rows) if row.label == label)


def write_table(
    out: Path,
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    remarks: Sequence[str],
    drawn: "Figure | None" = None,
) -> list[Table]:
    """Writes any table and its figure, like `write_results` for a study."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    table = Table(title, headings, rows, remarks)
    written = page(title, [table.to_markdown()], remarks, drawn is not None)
    _write(out, text.getvalue(), written, drawn)
    return [table]


def write_results(study: Study, form: Form, out: Path, folder: Path | None = None) -> list[Table]:
    """Writes results.csv, results.md and figure.png of the runs below `out` into `folder` (default
    `out`); returns the tables."""
    lines = lines_of(study, form, out)
    tables, drawn = tables_of(form, lines), figure(study, form, out)
    parts = [f"The paper: {study.claim}\n"]
    remarks = [*study.remarks, EDGE] if any(line["at_edge"] for line in lines) else study.remarks
    for table in tables:
        parts += [f"### {table.title}\n", table.to_markdown()]
    written = page(f"{study.name}: {study.title}", parts, remarks, drawn is not None)
    _write(folder or out, to_csv(lines), written, drawn)
    return [*tables[:-1], replace(tables[-1], remarks=remarks)]


def _write(out: Path, values: str, written: str, drawn: "Figure | None") -> None:
    write_atomically(out / "results.csv", values.encode())
    write_atomically(out / "results.md", written.encode())
    if drawn is None:
        (out / "figure.png").unlink(missing_ok=True)
    else:
        picture = io.BytesIO()
        drawn.savefig(picture, dpi=130)
        write_atomically(out / "figure.png", picture.getvalue())
