"""The verbs: list, train, compare, report, reproduce, diagnose, doctor; they print by terminal.py.

Exit codes: 0 done, 1 a run failed or diverged, 2 bad input (one sentence, no traceback),
130 interrupted.
"""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from rnnopt import __version__, comparison, diagnosis_report, doctor, report, reproduce
from rnnopt import run_folder as folders
from rnnopt.config import MODELS, RunConfig, SharedConfig
from rnnopt.diagnosis import Diagnosis
from rnnopt.errors import UserError
from rnnopt.layers.kernels import cpu
from rnnopt.memory import keep_freed_memory
from rnnopt.optimizers.by_name import OPTIMIZERS
from rnnopt.reproduce.study import FormName
from rnnopt.runner import build_training, resolve, settle
from rnnopt.runner import run as run_one
from rnnopt.specification import parse
from rnnopt.sweeps.command import sweep
from rnnopt.tasks import TASKS
from rnnopt.terminal import (
    Show,
    console,
    download_bar,
    errors,
    given,
    new_folder,
    processors,
    progress_bars,
    tell_jobs,
    tell_stage,
)


def list_all() -> int:
    """List the tasks, models and optimizers, with one line each."""
    for title, entries in (
        ("tasks", {name: (build.__doc__ or "").split("\n")[0] for name, build in TASKS.items()}),
        ("models", {name: summary for name, (_, summary) in MODELS.items()}),
        ("optimizers", {n: f"{c.summary} (lr {c.lr:g})" for n, c in OPTIMIZERS.items()}),
    ):
        table = Table("name", "what it is", title=title, title_justify="left", min_width=70)
        for name, summary in entries.items():
            table.add_row(name, summary)
        console.print(table)
    console.print(
        'Options go behind a colon: --task adding:length=400 --optimizer "frank-wolfe:norm=inf".',
        style="dim",
    )
    return 0


def look_around() -> int:
    """Say which code runs the recurrent layers here, why, and how to get the fastest.

    Measures a small network, for which it takes about a second.
    """
    table = Table("what", "found", min_width=70)
    findings = doctor.examine()
    for finding in findings:
        table.add_row(finding.subject, escape(finding.answer))
    console.print(table)
    for finding in findings:
        if finding.advice:
            console.print(finding.advice, highlight=False, markup=False, soft_wrap=True)
    return 0


def train(
    config: Annotated[RunConfig, tyro.conf.OmitArgPrefixes],
    out: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> int:
    """Train one network and keep everything about the run in a folder.

    The folder holds config.json, environment.json, metrics.jsonl, checkpoint.pt, best.pt (the
    weights with the best validation metric) and result.json. Ctrl-C ends the run after the current
    step; --resume then continues it as if nothing had happened.

    Args:
        config: the run.
        out: folder of the run; unset means a new one below runs/.
        resume: continue the run in --out; its own settings count.
        quiet: print the last lines only.
    """
    if resume and out is None:
        raise UserError("--resume needs the run's folder: give --out.")
    name = f"{parse(config.task)[0]}-{parse(config.optimizer)[0]}-{config.seed}"
    path = out or new_folder(name)
    keep_freed_memory()
    with comparison.interruptible() as stop, progress_bars(quiet) as bars:
        bar = bars.add_task("training", total=1.0, note="", visible=False)
        show = Show(bars, bar)
        result = run_one(config, path, resume, show, stop.is_set, given)
    name = result.get("metric", "metric")
    if "test_metric" in result:
        best = result["best"]
        console.print(
            f"test {name} {result['test_metric']:.4f} at the best validation {name}"
            f" {best['validation_metric']:.4f} ({best['evaluations']:.6g} of"
            f" {result['evaluations']:.6g}"
            f" evaluations, {result['seconds']:.1f} s)"
        )
    over = resume and not show.moved
    note = ", which it had before: nothing was left to do" if over else ""
    console.print(f"status {result['status']}{note}", highlight=False)
    console.print(f"run folder {path}", highlight=False, markup=False, soft_wrap=True)
    return {"interrupted": 130, "diverged": 1}.get(result["status"], 0)


def compare(
    shared: Annotated[SharedConfig, tyro.conf.OmitArgPrefixes],
    optimizers: tuple[str, ...] = ("adam", "frank-wolfe"),
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path | None = None,
    workers: int = 0,
    resume: bool = False,
) -> int:
    """Train the same network with several optimizers and seeds, at the same budget.

    Writes a table (report.md) and a figure (report.png) of loss and metric against gradient
    evaluations and against seconds, and keeps every run's folder.

    Args:
        shared: what all runs have in common.
        optimizers: "name" or "name:option=value,…", such as adam:lr=0.003,clip=1.
        seeds: every optimizer runs with each.
        out: folder of the comparison; unset means a new one below runs/.
        workers: processes at once; 0 means one a processor. Runs side by side slow each other, so
            take 1 where the seconds matter.
        resume: continue a comparison that was interrupted in --out.
    """
    if workers < 0:
        raise UserError(f"workers must be at least 0, got {workers}.")
    if resume and out is None:
        raise UserError("--resume needs the comparison's folder: give --out.")
    out = out or new_folder(f"compare-{parse(shared.task)[0]}")
    workers = workers or max(1, processors() // shared.threads)
    jobs = comparison.plan(shared, list(optimizers), list(seeds), out, resume)
    with comparison.interruptible() as stop, progress_bars() as bars:
        all_bars = {o: bars.add_task(o, total=1.0, note="") for o in optimizers}

        def tell(jobs: list[comparison.Job]) -> None:
            tell_jobs(bars, all_bars, jobs)

        failures = comparison.work(jobs, min(workers, len(jobs)), tell, stop)
        tell(jobs)
    for failure in failures:
        errors.print(
            f"failed: {failure}", style="red", highlight=False, markup=False, soft_wrap=True
        )
    begun = [job.path for job in jobs if (job.path / "config.json").exists()]
    if begun:
        _report(begun, out)
    if stop.is_set():
        console.print(f"interrupted; the same command with --out {out} --resume continues it.")
        return 130
    return 1 if failures else 0


def report_runs(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path | None = None
) -> int:
    """Make the table and the figure of runs: RUNS are run folders or folders that hold some.

    Args:
        runs: folders to read.
        out: where report.md and report.png go; unset means RUNS itself, or runs/report where it
            is several.
    """
    if not runs:
        raise UserError("report needs at least one run folder.")
    _report(list(runs), out or (runs[0] if len(runs) == 1 else Path("runs/report")))
    return 0


# Long enough to see where the gradients go, short enough to wait for.
SHORT_RUN = RunConfig(budget="5epochs")


def diagnose(
    config: Annotated[RunConfig, tyro.conf.OmitArgPrefixes] = SHORT_RUN,
    out: Path | None = None,
    looks: int = 20,
    quiet: bool = False,
) -> int:
    """Train one network and say what its gradients do: vanish, explode, drown in noise.

    Writes diagnosis.json and diagnosis.png: the norm of dL/dh_t at every time step t of every
    layer over training, spectral radius of the recurrent matrices, saturated units, gradient noise
    scale, angle between steps and gradient, curvature. A look at them costs about twenty gradient
    evaluations; the run is bit for bit that of `rnnopt train`.

    Args:
        config: the run.
        out: folder to write to; unset means a new one below runs/.
        looks: how often to look, evenly over the budget.
        quiet: print the verdict and the last lines only.
    """
    if looks < 1:
        raise UserError(f"looks must be at least 1, got {looks}.")
    out = out or new_folder(f"diagnose-{parse(config.task)[0]}")
    keep_freed_memory()
    watched = Diagnosis(build_training(config), looks, config.seed)
    diagnosis_report.create_folder(out)
    with comparison.interruptible() as stop, progress_bars(quiet) as bars:
        show = Show(bars, bars.add_task("diagnosing", total=1.0, note="", visible=False))
        for progress in watched.run(stop.is_set):
            show(progress)
    findings, written = diagnosis_report.write(
        watched, settle(resolve(config), watched.training.task), out
    )
    if not quiet:
        table = Table(title=f"{config.task}, {config.model}, {config.optimizer}")
        for i, heading in enumerate(diagnosis_report.columns(watched.looks)):
            table.add_column(heading, justify="right" if i else "left", overflow="fold")
        for row in diagnosis_report.rows(watched.looks):
            table.add_row(*map(escape, row))
        console.print(table)
    for finding in findings:
        console.print(finding.sentence, highlight=False, markup=False, soft_wrap=True)
        for advice in finding.advice:
            console.print(f"  try {advice}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"status {watched.training.status}", highlight=False)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return {"interrupted": 130, "diverged": 1}.get(watched.training.status, 0)


def reproduce_published(
    name: Annotated[str, tyro.conf.Positional],
    form: FormName = "cpu",
    quick: bool = False,
    out: Path | None = None,
    workers: int = 0,
) -> int:
    """Repeat a published table or figure: `rnnopt reproduce list` names them.

    Trains every method of it (tuning runs first, then five seeds), or what is missing of that: the
    same command continues after Ctrl-C. Writes results.csv, results.md (published, ours,
    difference) and figure.png.

    Args:
        name: such as frank-wolfe/table-3, or list.
        form: cpu finishes on two cores, full is the publication's size (most need a GPU), quick
            shows in seconds that it works.
        quick: the same as --form quick.
        out: folder of the runs and results; unset means one below runs/reproduce.
        workers: processes at once; 0 means one a processor.
    """
    if workers < 0:
        raise UserError(f"workers must be at least 0, got {workers}.")
    if quick and "form" in given and form != "quick":
        raise UserError(f"--quick is --form quick, it does not go with --form {form}.")
    form = "quick" if quick else form
    if name == "list":
        table = Table("name", "what it shows", min_width=70)
        for item in reproduce.ALL:
            table.add_row(item.name, item.title)
        console.print(table)
        return 0
    stages: dict[str, TaskID] = {}
    with comparison.interruptible() as stop, progress_bars() as bars:

        def tell(stage: str, jobs: list[comparison.Job]) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=1.0, note="")
            tell_stage(bars, stages[stage], jobs)

        path, tables, failures = reproduce.reproduce(
            name, form, out, workers or processors(), tell, stop
        )
    for failure in failures:
        errors.print(
            f"failed: {failure}", style="red", highlight=False, markup=False, soft_wrap=True
        )
    for written in tables:
        _print_reproduced(written)
    console.print(f"results in {path}", highlight=False, markup=False, soft_wrap=True)
    if stop.is_set():
        console.print("interrupted; the same command continues it.")
        return 130
    return 1 if failures else 0


VERBS: dict[str, Callable[..., int]] = {
    "list": list_all,
    "train": train,
    "compare": compare,
    "report": report_runs,
    "reproduce": reproduce_published,
    "diagnose": diagnose,
    "sweep": sweep,
    "doctor": look_around,
}


def main(arguments: list[str] | None = None) -> None:
    """The command `rnnopt`; ends the process with the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an encoding that lacks ± and ∞ shows ? instead
            stream.reconfigure(errors="replace")
    if arguments == ["--version"]:
        print(f"rnnopt {__version__}")
        sys.exit(0)
    if not arguments:
        arguments = ["--help"]
    names = (a[2:].partition("=")[0].removeprefix("no-") for a in arguments if a[:2] == "--")
    given.clear()
    given.update(name.replace("-", "_") for name in names)
    try:
        _check_environment()
        with download_bar():
            code = tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="rnnopt",
                description="Train recurrent networks where ordinary training struggles. "
                "`rnnopt VERB --help` says more of a verb, `rnnopt --version` which rnnopt it is.",
                args=arguments,
                sort_subcommands=False,
            )
    except UserError as error:
        errors.print(f"rnnopt: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        errors.print("interrupted")
        code = 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        problem = f"rnnopt: failed with {type(error).__name__}: {error}"
        errors.print(problem, style="red", highlight=False, markup=False, soft_wrap=True)
        code = 1
    sys.exit(code)


def _check_environment() -> None:
    try:
        cpu.switched_off()
    except ValueError as error:
        raise UserError(str(error)) from error


def _print_reproduced(table: reproduce.Table) -> None:
    """Prints a table; of a wide one, what a small terminal has room for."""
    study = table.headings == reproduce.HEADINGS
    kept = reproduce.NARROW if study and console.width < 140 else range(len(table.headings))
    shown = Table(title=table.title, title_justify="left")
    for i in kept:
        shown.add_column(table.headings[i], overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(row[i]) for i in kept))
    console.print(shown)
    for remark in table.remarks:
        console.print(f"- {remark}", highlight=False, markup=False, soft_wrap=True)


def _report(paths: list[Path], out: Path) -> None:
    """Prints the tables and writes the report."""
    runs = report.read_runs(folders.find_runs(paths))
    try:
        written = report.write_report(runs, out)
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error}.") from error
    for task, groups in report.group_runs(runs).items():
        title = f"{task}: {report.facts_of(groups)['summary']}"
        table = Table(title=title, title_justify="left")
        headings = report.columns(groups)
        kept = range(len(headings)) if console.width >= 140 else report.NARROW
        for i in kept:
            table.add_column(headings[i], overflow="fold", ratio=3 if i == 0 else 2)
        for row in report.rows(groups):
            table.add_row(*(row[i] for i in kept))
        console.print(table)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
