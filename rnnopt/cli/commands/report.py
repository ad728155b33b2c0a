"""`rnnopt report`: table, figure and page of runs."""

from pathlib import Path

from rich.table import Table

from rnnopt.cli.tables import Name, column_of, widths
from rnnopt.cli.terminal import console
from rnnopt.config.errors import UserError, writing
from rnnopt.report.figures import write_report
from rnnopt.report.page import write_page
from rnnopt.report.tables import NARROW, columns, rows
from rnnopt.runs.collection import facts_of, group_runs, read_runs
from rnnopt.runs.folder import find_runs


def report_runs(
    runs: tuple[Path, ...] = (),
    /,
    *,
    out: Path | None = None,
    html: bool = True,
    scores: bool = True,
) -> int:
    """Make table, figure and page of runs.

    Args:
        runs: Run folders, or folders that hold some.
        out: Folder of report.md, report.png and report.html. Unset: RUNS itself, or runs/report for
            several.
        html: Page report.html, which needs no other file and no network.
        scores: Confusion matrices, scores of the classes, importance of the channels of your own
            data and gradients through time in the page, from the best weights. Needs the data, and
            seconds for each optimizer.

    Examples:
        rnnopt report runs/first
        rnnopt report runs/first runs/second --out runs/both --no-scores
    """
    if not runs:
        raise UserError("report needs at least one run folder.")
    place = out or (runs[0] if len(runs) == 1 else Path("runs/report"))
    show_report(list(runs), place, html=html, scores=scores)
    return 0


def show_report(
    paths: list[Path], out: Path, quiet: bool = False, html: bool = True, scores: bool = True
) -> None:
    """Prints the tables and writes the report."""
    runs = read_runs(find_runs(paths))
    with writing(f"the report to {out}"):
        written = write_report(runs, out)
        if html:
            written.append(write_page(runs, out, scores))
    for task, groups in [] if quiet else group_runs(runs).items():
        title = f"{task}: {facts_of(groups)['summary']}"
        headings, cells_of_rows = columns(groups), rows(groups)
        names = column_of((row[0] for row in cells_of_rows), headings[0])
        table = Table(names, title=title, title_justify="left")
        kept = range(len(headings)) if console.width >= 140 else NARROW
        cells = [[headings[i], *(row[i] for row in cells_of_rows)] for i in kept[1:]]
        for heading, width in zip(cells, widths(cells, names.width or 0), strict=True):
            table.add_column(heading[0], overflow="fold", width=width)
        for row in cells_of_rows:
            table.add_row(Name(row[0]), *(row[i] for i in kept[1:]))
        console.print(table)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
