"""The verbs, and how they end; they print by terminal.py. Those for own data are in commands/.

Exit codes: 0 done, 1 a run failed or diverged, 2 bad input (one sentence, no traceback),
130 interrupted.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from rnnopt import (
    __version__,
    comparison,
    diagnosis_report,
    report,
    report_page,
    several_processes,
    tracking,
    tuning,
)
from rnnopt import run_folder as folders
from rnnopt.commands import DATA_VERBS, announce
from rnnopt.commands.about import list_all, look_around
from rnnopt.commands.reproduce import reproduce_published
from rnnopt.config import RunConfig, SharedConfig
from rnnopt.diagnosis import Diagnosis
from rnnopt.distributed import any_of
from rnnopt.errors import UserError, unknown_name
from rnnopt.layers.kernels import cpu
from rnnopt.memory import keep_freed_memory
from rnnopt.runner import build_training, check_rate, resolve, settle
from rnnopt.runner import run as run_one
from rnnopt.specification import parse
from rnnopt.sweeps.command import sweep
from rnnopt.terminal import (
    AsJson,
    Show,
    complain,
    console,
    download_bar,
    errors,
    for_script,
    given,
    new_folder,
    processors,
    progress_bars,
    say,
    tell_jobs,
    tell_stage,
)
from rnnopt.training import Progress as TrainingProgress


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], tyro.conf.Positional]) -> int:
    """Print what makes a shell complete verbs and options.

    For bash, in ~/.bashrc: eval "$(rnnopt completion bash)". For zsh, with ~/.zfunc in fpath
    before compinit: rnnopt completion zsh > ~/.zfunc/_rnnopt

    Args:
        shell: bash, zsh or tcsh.
    """
    _run_verb(["--tyro-print-completion", shell])
    return 0


def train(
    config: Annotated[RunConfig, tyro.conf.OmitArgPrefixes],
    out: Path | None = None,
    resume: bool = False,
    log: tuple[tracking.Kind, ...] = (),
    quiet: bool = False,
    as_json: AsJson = False,
) -> int:
    """Train one network and keep everything about the run in a folder.

    The folder holds config.json, environment.json, metrics.jsonl, checkpoint.pt, best.pt (the
    weights with the best validation metric) and result.json. Ctrl-C ends the run after the current
    step; --resume then continues it as if nothing had happened.

    Args:
        config: the run.
        out: folder of the run; unset means a new one below runs/.
        resume: continue the run in --out; its own settings count.
        log: also keep the curves with tensorboard (in the run's folder), mlflow (where
            MLFLOW_TRACKING_URI says, else mlflow.db here) or both; give it again with --resume.
        quiet: print the last lines only.
        as_json: print one JSON object and nothing else.
    """
    if resume and out is None:
        raise UserError("--resume needs the run's folder: give --out.")
    with several_processes.joined(config.device):
        resume = several_processes.goes_on(out, resume)
        return _train(config, out, resume, log, quiet, as_json)


def _train(
    config: RunConfig,
    out: Path | None,
    resume: bool,
    log: tuple[tracking.Kind, ...],
    quiet: bool,
    as_json: bool,
) -> int:
    """`train`, in one of the processes that share the run."""
    several, first = several_processes.started() > 1, several_processes.rank() == 0
    check_rate(config)
    name = f"{parse(config.task)[0]}-{parse(config.optimizer)[0]}-{config.seed}"
    path = out or new_folder(name)
    console.quiet = as_json or not first
    keep_freed_memory()
    with (
        tracking.trackers(log if first else (), path) as tracked,
        comparison.interruptible() as stop,
        progress_bars(quiet or as_json or not first) as bars,
    ):
        bar = bars.add_task("training", total=1.0, note="", visible=False)
        show = Show(bars, bar)

        def listen(progress: TrainingProgress) -> None:
            show(progress)
            tracked(progress)

        def stops() -> bool:
            return any_of(stop.is_set()) if several else stop.is_set()

        result = run_one(
            config, path, resume, listen, stops, given,
            lambda task: announce(task, quiet or as_json),
        )  # fmt: skip
        tracked.finish(result)
    for sentence in tracked.lost:
        complain(f"{sentence}; the rest of the run is in its folder alone.")
    if as_json and first:
        for_script({"folder": path, **result})
    name = result.get("metric", "metric")
    if "test_metric" in result:
        best = result["best"]
        console.print(
            f"test {name} {result['test_metric']:.4f} at the best validation {name}"
            f" {best['validation_metric']:.4f} ({best['evaluations']:.6g} of"
            f" {result['evaluations']:.6g}"
            f" evaluations, {result['seconds']:.1f} s)"
        )
    if result.get("nonfinite"):
        left_out = {"skip": "were left out", "restore": "led back to the last checkpoint"}
        policy = folders.RunFolder(path).read_config().on_nonfinite
        console.print(f"{result['nonfinite']} steps were not finite and {left_out[policy]}")
    over = resume and not show.moved
    note = ", which it had before: nothing was left to do" if over else ""
    console.print(f"status {result['status']}{note}", highlight=False)
    console.print(f"run folder {path}", highlight=False, markup=False, soft_wrap=True)
    return {"interrupted": 130, "diverged": 1}.get(result["status"], 0)


def compare(
    shared: Annotated[SharedConfig, tyro.conf.OmitArgPrefixes],
    optimizers: tuple[str, ...] = ("adam", "frank-wolfe"),
    seeds: tuple[int, ...] = (0, 1, 2),
    tune: int | None = None,
    tune_budget: str | None = None,
    out: Path | None = None,
    workers: int = 0,
    resume: bool = False,
    quiet: bool = False,
    as_json: AsJson = False,
) -> int:
    """Train the same network with several optimizers and seeds, at the same budget.

    Writes a table (report.md), a figure (report.png) of loss and metric against gradient
    evaluations and against seconds, and a page of all that (report.html); keeps every run's folder.

    Args:
        shared: what all runs have in common.
        optimizers: "name" or "name:option=value,…", such as adam:lr=0.003,clip=1.
        seeds: every optimizer runs with each.
        tune: learning rates that each optimizer tries first, on a seed of its own (1000), around
            its rate in half decades; the reported seeds run with the best on validation data.
            Unset means no tuning.
        tune_budget: budget of each of these trials; unset means that of the reported runs.
        out: folder of the comparison; unset means a new one below runs/.
        workers: processes at once; 0 means one a processor. Runs side by side slow each other, so
            take 1 where the seconds matter.
        resume: continue a comparison that was interrupted in --out.
        quiet: print the names of the written files only.
        as_json: print one JSON object and nothing else.
    """
    if workers < 0:
        raise UserError(f"workers must be at least 0, got {workers}.")
    if resume and out is None:
        raise UserError("--resume needs the comparison's folder: give --out.")
    if tune_budget is not None and tune is None:
        raise UserError("--tune-budget needs --tune, the number of trials.")
    out = out or new_folder(f"compare-{parse(shared.task)[0]}")
    workers = workers or max(1, processors() // shared.threads)
    names = list(optimizers)
    console.quiet = as_json
    jobs = comparison.plan(
        shared, names, list(seeds), out, resume, lambda task: announce(task, quiet or as_json)
    )
    candidates = []
    if tune is not None:
        if tuning.TUNING_SEED in seeds:
            raise UserError(f"seed {tuning.TUNING_SEED} is for tuning: report others.")
        budget = tune_budget or shared.budget
        candidates = tuning.plan(shared, names, tune, budget, out, resume)
    tuned: list[tuning.Tuned] = []
    failures: list[str] = []
    with (
        folders.RunFolder(out).locked(),
        comparison.interruptible() as stop,
        progress_bars(quiet or as_json) as bars,
    ):

        def do(stage: str, jobs: list[comparison.Job]) -> list[str]:
            bar = bars.add_task(stage, total=1.0, note="")
            count = min(workers, len(jobs))
            return comparison.work(jobs, count, lambda now: tell_stage(bars, bar, now), stop)

        if candidates:
            tuned, failures = tuning.tune(candidates, partial(do, "tuning"), out)
            names = [one.specification for one in tuned]
            # The chosen rates stand with the optimizers.
            shared = replace(shared, lr=None)
            jobs = comparison.plan(shared, names, list(seeds), out, resume) if tuned else []
        if jobs:
            all_bars = {o: bars.add_task(o, total=1.0, note="") for o in names}

            def tell(jobs: list[comparison.Job]) -> None:
                tell_jobs(bars, all_bars, jobs)

            failures += comparison.work(jobs, min(workers, len(jobs)), tell, stop)
            tell(jobs)
    for failure in failures:
        complain(f"failed: {failure}")
    if tuned and not quiet:
        _print_tuned(tuned)
    begun = [job.path for job in jobs if (job.path / "config.json").exists()]
    if begun:
        _report(begun, out, quiet)
    if as_json:
        runs = [{"folder": path, **_summary(path)} for path in begun]
        status = "interrupted" if stop.is_set() else "over"
        found = {"tuned": [tuning.facts(one) for one in tuned], "failures": failures}
        for_script({"status": status, "folder": out, "runs": runs, **found})
    if stop.is_set():
        console.print(f"interrupted; the same command with --out {out} --resume continues it.")
        return 130
    return 1 if failures else 0


def _summary(path: Path) -> dict[str, Any]:
    """What a run folder says of its run, in one object."""
    folder = folders.RunFolder.open(path)
    config = folder.read_config()
    return {"optimizer": config.optimizer, "seed": config.seed, **folder.read_result()}


def _print_tuned(tuned: list[tuning.Tuned]) -> None:
    """Prints the chosen rates and what the others led to."""
    table = Table(title="learning rates, by the best validation metric", title_justify="left")
    for heading in ("optimizer", "chosen lr", "tried"):
        table.add_column(heading, overflow="fold")
    for one in tuned:
        metrics = ((lr, "–" if m is None else f"{m:.4g}") for lr, m in one.trials.items())
        tried = ", ".join(f"{lr:g}: {metric}" for lr, metric in metrics)
        table.add_row(one.optimizer, f"{one.lr:g}" + "*" * one.at_edge, tried)
    console.print(table)
    if any(one.at_edge for one in tuned):
        say("* at an end of the grid: more trials, or another lr to begin with, may find better.")


def report_runs(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path | None = None,
    html: bool = True,
    scores: bool = True,
) -> int:
    """Make table, figure and page of runs: RUNS are run folders or folders that hold some.

    Args:
        runs: folders to read.
        out: where report.md, report.png and report.html go; unset means RUNS itself, or runs/report
            where it is several.
        html: also write report.html, which needs no other file and no network.
        scores: the page also has confusion matrices, scores of the classes and gradients through
            time of the best weights. Needs the data, and seconds for each optimizer.
    """
    if not runs:
        raise UserError("report needs at least one run folder.")
    place = out or (runs[0] if len(runs) == 1 else Path("runs/report"))
    _report(list(runs), place, html=html, scores=scores)
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
            table.add_row(*row)
        console.print(table)
    for finding in findings:
        console.print(finding.sentence, highlight=False, markup=False, soft_wrap=True)
        for advice in finding.advice:
            console.print(f"  try {advice}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"status {watched.training.status}", highlight=False)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return {"interrupted": 130, "diverged": 1}.get(watched.training.status, 0)


def _print_help() -> None:
    """One line a verb; tyro would print the whole of what each does."""
    say("usage: rnnopt VERB [OPTIONS]\n")
    say("Train recurrent networks where ordinary training struggles.\n")
    width = max(map(len, VERBS))
    for name, verb in VERBS.items():
        say(f"  • {name:{width}}  {(verb.__doc__ or '').partition(chr(10))[0]}")
    say("\n`rnnopt VERB --help` says more of a verb, `rnnopt --version` which rnnopt it is.")


def _run_verb(arguments: list[str]) -> int:
    """Reads the command line and does what it says."""
    for verb in VERBS.values():  # tyro would keep the line breaks within the words on an option
        verb.__doc__ = re.sub(r"\n {8,}", " ", inspect.cleandoc(verb.__doc__ or ""))
    return tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="rnnopt",
        description="Train recurrent networks where ordinary training struggles.",
        args=arguments,
        sort_subcommands=False,
    )


VERBS: dict[str, Callable[..., int]] = {
    "list": list_all,
    "train": train,
    "compare": compare,
    "report": report_runs,
    "reproduce": reproduce_published,
    "diagnose": diagnose,
    "sweep": sweep,
    "doctor": look_around,
    **DATA_VERBS,
    "completion": completion,
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
    console.quiet = False
    if arguments in ([], ["--help"], ["-h"]):
        _print_help()
        sys.exit(0)
    names = (a[2:].partition("=")[0].removeprefix("no-") for a in arguments if a[:2] == "--")
    given.clear()
    given.update(name.replace("-", "_") for name in names)
    try:
        if {"data", "task"} <= given:
            raise UserError("--data takes the place of --task: give one of them.")
        _check_environment()
        if arguments[0][:1] != "-" and arguments[0] not in VERBS:
            raise unknown_name("verb", arguments[0], VERBS)
        if several_processes.started() > 1 and arguments[0] != "train":
            raise UserError(f"{arguments[0]} works in one process: start it without torchrun.")
        with download_bar():
            code = _run_verb(arguments)
    except UserError as error:
        if several_processes.rank() == 0:
            complain(f"rnnopt: {error}")
        code = 2
    except KeyboardInterrupt:
        errors.print("interrupted")
        code = 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        problem = f"rnnopt: failed with {type(error).__name__}: {error}"
        complain(problem)
        code = 1
    sys.exit(code)


def _check_environment() -> None:
    try:
        cpu.switched_off()
    except ValueError as error:
        raise UserError(str(error)) from error


def _report(
    paths: list[Path], out: Path, quiet: bool = False, html: bool = True, scores: bool = True
) -> None:
    """Prints the tables and writes the report."""
    runs = report.read_runs(folders.find_runs(paths))
    try:
        written = report.write_report(runs, out)
        if html:
            written.append(report_page.write_page(runs, out, scores))
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error}.") from error
    for task, groups in [] if quiet else report.group_runs(runs).items():
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
