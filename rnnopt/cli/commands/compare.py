"""`rnnopt compare`: several optimizers and seeds, tuned alike if asked for."""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.table import Table

from rnnopt.cli.commands.report import show_report
from rnnopt.cli.engines import engine_of
from rnnopt.cli.interrupt import interruptible
from rnnopt.cli.printing import announce
from rnnopt.cli.progress import BarRunner
from rnnopt.cli.tables import Name, column_of
from rnnopt.cli.terminal import AsJson, console, print_error, print_json, print_line, progress_bars
from rnnopt.config.cluster_config import HERE, ClusterConfig
from rnnopt.config.run_config import SharedConfig
from rnnopt.config.specs import is_import_path, parse
from rnnopt.experiments.comparison import ComparisonResult, ComparisonSpec, check_folder
from rnnopt.experiments.comparison_file import as_begun, keep
from rnnopt.experiments.mirror import without_secrets
from rnnopt.experiments.mirrored import mirrored
from rnnopt.experiments.tuning import Tuned, facts
from rnnopt.runs.folder import RunFolder, new_folder
from rnnopt.training.option_checks import refuse_contradictions


def compare(
    shared: SharedConfig,
    optimizers: tuple[str, ...] = ("adam", "frank-wolfe"),
    on: ClusterConfig = HERE,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    tune: int | None = None,
    tune_budget: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    as_json: AsJson = False,
    given: Collection[str] = (),
) -> int:
    """Compare optimizers on one network, over several seeds.

    All runs have the same budget. Writes a table (report.md), a figure (report.png) of loss and
    metric against gradient evaluations and against seconds, and a page of all that (report.html);
    keeps every run's folder.

    Args:
        shared: What all runs have in common.
        optimizers: Optimizers to compare: names, or name:option=value,… such as
            adam:lr=0.003,clip=1. Such an option takes precedence over the common one.
        on: Where the runs are trained.
        seeds: Seeds that every optimizer runs with.
        tune: Number of learning rates that each optimizer tries first, in half decades around its
            own, on a seed apart (1000). The reported seeds run with the rate that was best on
            validation data. Unset: no tuning.
        tune_budget: Length of each tuning run. Unset: that of the reported runs.
        out: Folder of the comparison. Unset: a new one below runs/.
        resume: Continuation of the comparison in --out as it was begun. Optimizers, seeds and
            tuning may be others.
        quiet: Output of the names of the written files only.
        as_json: Output of one JSON object and nothing else.

    Examples:
        rnnopt compare --task digits-pixels --optimizers adam frank-wolfe muon:lr=0.01
        rnnopt compare --optimizers adam sgd --tune 5 --out runs/tuned
        rnnopt compare --out runs/tuned --resume
    """
    refuse_contradictions(shared, given)
    with mirrored(out, on.mirror, resume) as url_of:
        check_folder(out, resume)
        out = out or new_folder(f"compare-{parse(shared.task)[0]}")
        asked = ComparisonSpec(
            shared, list(optimizers), list(seeds), tune, tune_budget, out, resume
        )
        if resume:
            asked = as_begun(asked, given)
        asked.check()
        silent = quiet or as_json
        console.quiet = as_json
        jobs, candidates = asked.plan(lambda task, told: announce(task, given, told, silent))
        with (
            engine_of(on, asked.shared.threads, url_of) as engine,
            RunFolder(out).locked(),
            interruptible() as stop,
            progress_bars(silent) as bars,
        ):
            keep(asked)
            done = asked.train(jobs, candidates, BarRunner(bars, engine, stop))
        return _tell(done, asked, on.mirror, stop.is_set(), quiet, as_json)


def again(asked: ComparisonSpec, mirror: str | None = None) -> str:
    """The command that goes on with a comparison; it names optimizers that are code."""
    words = ["rnnopt", "compare", "--out", str(asked.out), "--resume"]
    if mirror is not None:
        words += ["--mirror", without_secrets(mirror)]
    if any(is_import_path(parse(one)[0]) for one in asked.optimizers):
        words += ["--optimizers", *asked.optimizers]
    return shlex.join(words)


def _tell(
    done: ComparisonResult,
    asked: ComparisonSpec,
    mirror: str | None,
    interrupted: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Prints what came out, writes the report; the exit code."""
    out = asked.out
    for failure in done.failures:
        print_error(f"failed: {failure}")
    if done.tuned and not quiet:
        _print_tuned(done.tuned)
    begun = [job.path for job in done.jobs if (job.path / "config.json").exists()]
    if begun:
        show_report(begun, out, quiet)
    diverged = _say_what_was_not_finite(begun)
    if as_json:
        runs = [{"folder": path, **_summary(path)} for path in begun]
        status = "interrupted" if interrupted else "over"
        found = {
            "tuned": [facts(one) for one in done.tuned],
            "failures": done.failures,
            "diverged": diverged,
        }
        print_json({"status": status, "folder": out, "runs": runs, **found})
    if interrupted:
        how = again(asked, mirror)
        console.print(f"interrupted; {how} continues it.", highlight=False, soft_wrap=True)
        return 130
    return 1 if done.failures or diverged else 0


def _say_what_was_not_finite(runs: list[Path]) -> list[Path]:
    """Says which runs met numbers that are not finite; those that have diverged."""
    diverged = []
    for path in runs:
        result = RunFolder.open(path).read_result()
        count = result.get("nonfinite", 0)
        met = f"{count} steps were not finite" if count else ""
        if result["status"] == "diverged":
            diverged.append(path)
            print_error(f"diverged: {path}{met and f' ({met})'}")
        elif met:
            print_error(f"{path}: {met}")
    return diverged


def _summary(path: Path) -> dict[str, Any]:
    """What a run folder says of its run, in one object."""
    folder = RunFolder.open(path)
    config = folder.read_config()
    return {"optimizer": config.optimizer, "seed": config.seed, **folder.read_result()}


def _print_tuned(tuned: list[Tuned]) -> None:
    """Prints the chosen rates and what the others led to."""
    names = column_of(one.optimizer for one in tuned)
    title = "learning rates, chosen by the best evaluation on validation data"
    table = Table(names, "chosen lr", "tried", title=title, title_justify="left")
    for one in tuned:
        metrics = ((lr, "–" if m is None else f"{m:.4g}") for lr, m in one.trials.items())
        tried = ", ".join(f"{lr:g}: {metric}" for lr, metric in metrics)
        table.add_row(Name(one.optimizer), f"{one.lr:g}" + "*" * one.at_edge, tried)
    console.print(table)
    if any(one.at_edge for one in tuned):
        print_line(
            "* at an end of the grid: more trials, or another lr to begin with, may find better."
        )
