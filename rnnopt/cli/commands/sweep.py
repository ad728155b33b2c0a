"""`rnnopt sweep`: the verb."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.progress import Progress, TaskID
from rich.table import Table

from rnnopt.cli import terminal
from rnnopt.cli.engines import engine_of
from rnnopt.cli.interrupt import interruptible
from rnnopt.cli.printing import announce
from rnnopt.cli.progress import Board
from rnnopt.config import seeds
from rnnopt.config.cluster_config import ClusterConfig
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.experiments.database import quiet
from rnnopt.experiments.job import Job
from rnnopt.experiments.mirrored import mirrored
from rnnopt.experiments.sweeps.results import (
    best_of,
    columns,
    complete,
    counts,
    errors_of,
    row,
    write_results,
)
from rnnopt.experiments.sweeps.spaces import Choices, configure, space_of
from rnnopt.experiments.sweeps.study import Sweep, address, begin
from rnnopt.experiments.sweeps.trials import run_sweep
from rnnopt.runs.folder import RunFolder, folder_of
from rnnopt.training.build import build_training, task_of
from rnnopt.training.imported import source_of
from rnnopt.training.option_checks import refuse_contradictions, warnings_of
from rnnopt.training.resolve import check_conflicts

if TYPE_CHECKING:
    from optuna import Study

SHOWN = 10  # trials in the table
TUNED = RunConfig(seed=seeds.TUNING)
ONE_AT_A_TIME = ClusterConfig(workers=1)  # each trial learns from those before


def sweep(
    config: RunConfig = TUNED,
    on: ClusterConfig = ONE_AT_A_TIME,
    *,
    trials: int = 20,
    ranges: Annotated[tuple[str, ...], Parameter(name="range")] = (),
    out: Path | None = None,
    storage: str | None = None,
    prune: bool = True,
    quiet: bool = False,
    as_json: terminal.AsJson = False,
    given: Collection[str] = (),
) -> int:
    """Search for the best options of an optimizer.

    Optuna judges them by the validation metric. Varies the learning rate and what else matters for
    the optimizer; what is given, in the optimizer's specification or as a setting, is fixed. Each
    trial is a run folder. The same command goes on with a sweep that was interrupted or killed, and
    with a greater --trials adds to it. Takes a task, or your own data with --data, as `rnnopt
    train` does. Writes best.json, with the command that repeats the best trial, slices.png and
    importance.png. Trials run on a seed of their own (1000): train with other seeds for figures to
    report.

    Args:
        config: The run.
        on: Where the trials are trained.
        trials: Number of trials in all.
        ranges: Ranges to search instead or beside: lr=1e-4..1e-1:log (a factor is as likely as any
            other), momentum=0.5..0.99, hidden=32,64,128. Options of the optimizer, or settings of
            the run.
        out: Folder of the sweep. Unset: runs/sweep-TASK-OPTIMIZER. Its name is the sweep's name in
            --storage.
        storage: Database that records the trials, such as postgresql://user@machine/database.
            Unset: SQLite in --out.
        prune: Early end of a trial that is worse than the median of the others at the same part of
            the budget: by its metric, or where that is level by its validation loss.
        quiet: Output of the best trial only.
        as_json: Output of one JSON object and nothing else.

    Examples:
        rnnopt sweep --task digits-rows --optimizer muon --trials 30 --workers 2
        rnnopt sweep --optimizer adam --range lr=1e-4..1e-1:log hidden=32,64
    """
    if trials < 1:
        raise UserError(f"--trials must be at least 1, got {trials}.")
    out = out or Path("runs") / folder_of(
        f"sweep-{parse(config.task)[0]}-{parse(config.optimizer)[0]}"
    )
    RunFolder(out).refuse_run("choose another --out")
    terminal.console.quiet = as_json
    silent = quiet or as_json
    plan = _plan(config, list(ranges), trials, out, storage, prune, silent, given)
    if on.cluster is not None and "workers" not in given:
        on = replace(on, workers=0)
    with mirrored(out, on.mirror, resume=True) as url_of:
        with (
            engine_of(on, config.threads, url_of) as engine,
            interruptible() as stop,
            terminal.progress_bars(silent) as bars,
        ):
            study = begin(plan)
            bar, board = bars.add_task("trials", total=trials, note=""), Board(bars)

            def tell(jobs: list[Job]) -> None:
                _tell(bars, bar, study)
                board.draw_rows(jobs)

            run_sweep(plan, study, engine, tell, stop)
        return _finish(plan, study, stop.is_set(), quiet, as_json)


def _plan(
    config: RunConfig,
    ranges: list[str],
    trials: int,
    out: Path,
    storage: str | None,
    prune: bool,
    silent: bool,
    given: Collection[str],
) -> Sweep:
    """The sweep, after checking that its first and last values make a run."""
    check_conflicts(config, given)
    refuse_contradictions(config, given)
    with quiet():  # refuses where Optuna is missing
        space = space_of(config, ranges, given)
    task = task_of(config)
    told = []
    for end in (0, -1):
        values = {
            name: one.values[end] if isinstance(one, Choices) else (one.low, one.high)[end]
            for name, one in space.items()
        }
        one = configure(config, values)
        told += warnings_of(one, build_training(one, task))
    announce(task, given, list(dict.fromkeys(told)), silent)
    own = {} if task.data is None else task.data.sources
    files = {role: file["sha256"] for role, file in own.items()}
    if digest := source_of(config.optimizer).get("sha256"):
        files["optimizer"] = digest
    place = address(storage, out)
    return Sweep(config, space, trials, out, place, task.metric, prune, files=files)


def _finish(plan: Sweep, study: "Study", interrupted: bool, quiet: bool, as_json: bool) -> int:
    """Writes and prints what was found; the exit code."""
    failures = errors_of(study)
    for failure in failures[:SHOWN]:
        terminal.print_error(f"failed: {failure}")
    written = write_results(plan, study)
    _show(plan, study, written, quiet)
    found = counts(study)
    if as_json:
        terminal.print_json(_facts(plan, study, failures, interrupted))
    if interrupted:
        terminal.print_line("interrupted; the same command goes on with it.")
        return 130
    over = found["complete"] + found["pruned"] >= plan.trials
    return 0 if over and found["complete"] else 1


def _tell(bars: Progress, bar: TaskID, study: "Study") -> None:
    """Draws how many trials are over, and the best."""
    found = counts(study)
    over = found["complete"] + found["pruned"] + found["failed"]
    best = complete(study)[:1]
    note = f"{over} over, {found['pruned']} of them stopped early"
    if best:
        note += f"  best {best[0].value:.4g}"
    bars.update(bar, completed=over, note=note)


def _show(plan: Sweep, study: "Study", written: list[Path], quiet: bool) -> None:
    """Prints the best trials and the command that repeats the first."""
    trials, found = complete(study), counts(study)
    told = ", ".join(f"{number} {name}" for name, number in found.items() if number) or "0"
    if not quiet:
        table = Table(title=f"{plan.config.task}, {plan.config.optimizer}: {told} trials")
        for i, heading in enumerate(columns(plan)):
            table.add_column(heading, justify="right" if i < 2 else "left", overflow="fold")
        for trial in trials[:SHOWN]:
            table.add_row(*row(plan, trial))
        terminal.console.print(table)
        for path in written:
            terminal.print_line(f"wrote {path}")
    if trials:
        best = best_of(plan, trials[0])
        terminal.print_line(
            f"best validation {plan.metric} {best['value']:.4g}, trial {best['trial']}:"
        )
        terminal.print_line(f"  {best['command']}")
    terminal.print_line(f"sweep folder {plan.out}")


def _facts(plan: Sweep, study: "Study", failures: list[str], interrupted: bool) -> dict[str, Any]:
    """The JSON object for scripts."""
    trials = complete(study)
    return {
        "status": "interrupted" if interrupted else "over",
        "folder": plan.out,
        "metric": plan.metric,
        "trials": counts(study),
        "best": best_of(plan, trials[0]) if trials else None,
        "failures": failures,
    }
