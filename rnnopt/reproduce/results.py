"""Published and ours side by side: CSV, Markdown and a figure from a study's run folders."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.report import Group, draw, legend_below, log_axis, mean_and_width
from rnnopt.reproduce.engine import chosen_rows, finished_runs
from rnnopt.reproduce.study import Column, Form, Row, Study
from rnnopt.run_folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIELDS = (
    "data", "method", "published", "ours", "half_width_95", "lowest", "highest", "difference",
    "best_of_run", "lr", "seeds", "reached", "target", "evaluations_to_target", "evaluations",
    "seconds", "diverged",
)  # fmt: skip


def line_of(study: Study, form: Form, column: Column, row: Row, out: Path) -> dict[str, Any]:
    """What is known of a row on a column's task, by FIELDS; None where there is nothing.

    `ours` is the test metric at the best look at the validation data, `best_of_run` the best test
    metric of any look (what some publications print), both means over seeds;
    `evaluations_to_target` the median, infinite where half of the runs missed.
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
    costs = [(run.result.get("to_target") or {}).get("evaluations", math.inf) for run in runs]
    line.update(
        ours=mean,
        half_width_95=width if math.isfinite(width) else None,
        lowest=min(tests),
        highest=max(tests),
        lr=runs[0].config.lr,
        seeds=len(runs),
        reached=sum(math.isfinite(cost) for cost in costs),
        target=unit * runs[0].result["target"],
        evaluations_to_target=statistics.median(costs),
        evaluations=statistics.mean(run.result["evaluations"] for run in runs),
        seconds=statistics.mean(run.result["seconds"] for run in runs),
        diverged=sum(run.result["status"] == "diverged" for run in runs),
    )
    if line["published"] is not None:
        line["difference"] = mean - line["published"]
    return line


def lines_of(study: Study, form: Form, out: Path) -> list[dict[str, Any]]:
    """All rows on all columns' tasks, literature included."""
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


HEADINGS = (
    "method", "published", "ours", "difference", "best of the run", "lr",
    "evaluations to target", "seeds", "evaluations", "seconds",
)  # fmt: skip


def cells(line: dict[str, Any]) -> list[str]:
    """A line as the table's cells, under HEADINGS."""
    accuracy = line["target"] is None or line["target"] > 0.5
    digits = 2 if accuracy else 4

    def number(value: float | None, digits: int, sign: str = "") -> str:
        return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"

    ours = number(line["ours"], digits)
    if line["half_width_95"] is not None:
        ours += f" ± {line['half_width_95']:.{digits}f}"
    target = "–"
    if line["seeds"]:
        cost = line["evaluations_to_target"]
        missed = "never" if math.isinf(cost) else f"{cost:.0f}"
        target = f"{missed} ({line['reached']}/{line['seeds']})"
    seeds = "–" if line["seeds"] is None else str(line["seeds"])
    if line["diverged"]:
        seeds += f" ({line['diverged']} diverged)"
    return [
        line["method"], number(line["published"], digits), ours,
        number(line["difference"], digits, "+"), number(line["best_of_run"], digits),
        "–" if line["lr"] is None else f"{line['lr']:g}", target, seeds,
        number(line["evaluations"], 0), number(line["seconds"], 0),
    ]  # fmt: skip


def to_markdown(study: Study, form: Form, lines: Sequence[dict[str, Any]]) -> str:
    """The study as a page: claim, one table a data set, remarks."""
    parts = [f"## {study.name}: {study.title}\n", f"The paper: {study.claim}\n"]
    for column in form.columns:
        mine = [line for line in lines if line["data"] == column.label]
        target = next((line["target"] for line in mine if line["target"] is not None), None)
        declared = "" if target is None else f"; target, on validation data: {target:g}"
        name = column.label if column.label == column.task else f"{column.label} ({column.task})"
        parts.append(f"### {name}{declared}\n")
        parts.append(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
        parts += [f"| {' | '.join(cells(line))} |" for line in mine]
        parts.append("")
    parts += [f"- {remark}" for remark in study.remarks]
    return "\n".join(parts) + "\n"


def figure(study: Study, form: Form, out: Path) -> "Figure | None":
    """Training loss, and the metric below it, against gradient evaluations, a column a data set."""
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
    if not any(groups.values()):
        return None
    result = Figure(figsize=(5.5 * len(groups) + 1, 8), layout="constrained")
    axes = result.subplots(2, len(groups), squeeze=False)
    result.suptitle(f"{study.name}: {study.title}")
    for i, (label, found) in enumerate(groups.items()):
        metric = next((g.runs[0].result["metric"] for g in found), "metric")
        part = study.curve.partition("_")[0]
        for j, (quantity, name) in enumerate(
            [("train_loss", "training loss"), (study.curve, f"{part} {metric}")]
        ):
            axis = axes[j][i]
            for group in found:
                draw(axis, group, "evaluations", quantity, rows_index(rows, group.label))
            axis.grid(alpha=0.3)
            axis.margins(x=0.01)
            axis.set_ylabel(name)
            if quantity == "train_loss" or metric == "mse":
                log_axis(axis)
        axes[0][i].set_title(label)
        axes[1][i].set_xlabel("gradient evaluations")
    legend_below(result, axes.flat, [row.label for row in rows])
    return result


def rows_index(rows: Sequence[Row], label: str) -> int:
    """Place of a row, which gives it the same colour in every panel."""
    return next(i for i, row in enumerate(rows) if row.label == label)


def write_table(
    out: Path,
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    remarks: Sequence[str],
    drawn: "Figure | None" = None,
) -> None:
    """Writes any table and its figure as `write_results` does a study's."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    write_atomically(out / "results.csv", text.getvalue().encode())
    lines = [f"## {title}\n", f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    lines += ["", *(f"- {remark}" for remark in remarks)]
    if drawn is not None:
        drawn.savefig(out / "figure.png", dpi=130)
        lines += ["", f"![{title}](figure.png)"]
    write_atomically(out / "results.md", ("\n".join(lines) + "\n").encode())


def write_results(study: Study, form: Form, out: Path) -> list[Path]:
    """Writes results.csv, results.md and figure.png into `out`; returns their paths."""
    lines = lines_of(study, form, out)
    write_atomically(out / "results.csv", to_csv(lines).encode())
    page = to_markdown(study, form, lines)
    paths = [out / "results.csv", out / "results.md"]
    drawn = figure(study, form, out)
    if drawn is not None:
        drawn.savefig(out / "figure.png", dpi=130)
        paths.append(out / "figure.png")
        page += f"\n![{study.name}](figure.png)\n"
    write_atomically(out / "results.md", page.encode())
    return paths
