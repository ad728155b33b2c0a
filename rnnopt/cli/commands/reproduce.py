"""`rnnopt reproduce`: published tables and figures, published and ours side by side."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from rich.progress import TaskID
from rich.table import Table

from rnnopt.cli.engines import engine_of
from rnnopt.cli.interrupt import interruptible
from rnnopt.cli.progress import Board
from rnnopt.cli.terminal import console, print_error, print_line, progress_bars
from rnnopt.config.cluster_config import HERE, ClusterConfig
from rnnopt.config.errors import UserError, option
from rnnopt.experiments import reproduce
from rnnopt.experiments.job import Job
from rnnopt.experiments.mirrored import mirrored
from rnnopt.experiments.reproduce.study import FormName

NAMES = ("list", *(one.name for one in reproduce.ALL))


def reproduce_published(
    study: Annotated[str, NAMES],
    /,
    on: ClusterConfig = HERE,
    *,
    form: FormName = "cpu",
    quick: bool = False,
    only: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    out: Path | None = None,
    given: Collection[str] = (),
) -> int:
    """Repeat a published table or figure.

    `rnnopt reproduce list` names them. Trains every method of it (tuning runs first, then its
    seeds), or what is missing of that: the same command continues after Ctrl-C. Writes results.csv,
    results.md (published, ours, difference) and figure.png.

    Args:
        study: Name of the table or figure, such as frank-wolfe/table-3, or list.
        on: Where the runs are trained.
        form: Size of the runs: cpu finishes on two cores, full is the publication's (most need a
            GPU), quick shows in seconds that it works.
        quick: Shorthand for --form quick.
        only: Rows to train, and data sets, by their names in the table, which is then of these
            alone. Unset: all.
        seeds: Seeds to train, of those of the form; the table is then of these alone. Unset: all.
        out: Folder of the runs and results. Unset: one below runs/reproduce.

    Examples:
        rnnopt reproduce list
        rnnopt reproduce frank-wolfe/table-3 --quick
        rnnopt reproduce frank-wolfe/figure-4 --only Pixel-MNIST SOAP --seeds 0
    """
    if study == "list":
        return _list([option(name) for name in given if name != "study"])
    if quick and "form" in given and form != "quick":
        raise UserError(f"--quick is --form quick, it does not go with --form {form}.")
    for name, chosen in (("only", only), ("seeds", seeds)):
        if name in given and not chosen:
            raise UserError(f"reproduce needs at least one of --{name}, got none.")
    form = "quick" if quick else form
    engine = engine_of(on)
    stages: dict[str, TaskID] = {}
    with (
        mirrored(out, on.mirror, resume=True) as engine.mirror,
        engine,
        interruptible() as stop,
        progress_bars() as bars,
    ):
        board = Board(bars)

        def tell(stage: str, jobs: list[Job]) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=1.0, note="")
            board.draw_stage(stages[stage], jobs)

        path, tables, failures = reproduce.reproduce(
            study, form, out, engine, tell, stop, only, seeds
        )
    return _tell(path, tables, failures, stop.is_set())


def _tell(path: Path, tables: list[reproduce.Table], failures: list[str], interrupted: bool) -> int:
    """Prints what came out; the exit code."""
    for failure in failures:
        print_error(f"failed: {failure}")
    for written in tables:
        _print_reproduced(written)
    print_line(f"results in {path}")
    if interrupted:
        print_line("interrupted; the same command continues it.")
        return 130
    return 1 if failures else 0


def _list(options: list[str]) -> int:
    """Prints what there is to reproduce; the exit code."""
    if options:
        raise UserError(f"reproduce list takes no options: leave out {', '.join(sorted(options))}.")
    table = Table("name", "what it shows", min_width=70)
    for item in reproduce.ALL:
        table.add_row(item.name, item.title)
    console.print(table)
    return 0


def _print_reproduced(table: reproduce.Table) -> None:
    """Prints a table; of a wide one, what a small terminal has room for."""
    study = table.headings == reproduce.HEADINGS
    kept = reproduce.NARROW if study and console.width < 140 else range(len(table.headings))
    shown = Table(title=table.title, title_justify="left")
    for i in kept:
        shown.add_column(table.headings[i], overflow="fold")
    for row in table.rows:
        shown.add_row(*(row[i] for i in kept))
    console.print(shown)
    for remark in table.remarks:
        print_line(f"- {remark}")
