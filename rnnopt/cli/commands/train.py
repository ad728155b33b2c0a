"""`rnnopt train`: one run, kept in a folder."""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rnnopt.cli.folds import is_begun, train_folds
from rnnopt.cli.interrupt import interruptible
from rnnopt.cli.printing import announce
from rnnopt.cli.terminal import AsJson, console, print_error, print_json, print_line, progress_bars
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import is_import_path, parse
from rnnopt.runs import loggers as tracking
from rnnopt.runs.calibration import line_of
from rnnopt.runs.folder import RunFolder, new_folder
from rnnopt.runs.runner import run as run_one
from rnnopt.runs.shared_folder import goes_on
from rnnopt.runs.step_scores import lines_of
from rnnopt.training.automatic import settled
from rnnopt.training.data_parallel import joined, rank, started
from rnnopt.training.loop import Progress
from rnnopt.training.malloc import keep_freed_memory
from rnnopt.training.option_checks import refuse_contradictions
from rnnopt.training.progress_bars import RunProgressBar
from rnnopt.training.resolve import check_conflicts

ADVICE = (
    "take a smaller lr, clip the gradient (--clip 1), or look for values"
    " that are far too large in the data (rnnopt inspect)"
)
NOT_LEARNT = "rnnopt diagnose says why, --class-weight balanced and a longer --budget may help"
EXIT_CODES = {"interrupted": 130, "diverged": 1}  # of a run's status; 0 of any other


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    log: tuple[tracking.Kind, ...] = (),
    quiet: bool = False,
    as_json: AsJson = False,
    given: Collection[str] = (),
) -> int:
    """Train one network and keep the run in a folder.

    The folder holds config.json, environment.json, metrics.jsonl, checkpoint.pt, best.pt (the
    weights that were best on validation data) and result.json. Ctrl-C ends the run after the
    current step; --resume then continues it as if nothing had happened. With --folds, there is such
    a folder for each fold, fold-1, fold-2, …, below --out, and a table of them, folds.md.

    Args:
        config: The run.
        out: Folder of the run. Unset: a new one below runs/.
        resume: Continuation of the run in --out, with its own settings.
        log: Places that get the curves, too: tensorboard (in the run's folder) and mlflow (where
            MLFLOW_TRACKING_URI says, else mlflow.db here). Give it again with --resume.
        quiet: Output of the last lines only.
        as_json: Output of one JSON object and nothing else.

    Examples:
        rnnopt train --task digits-rows --budget 5epochs --out runs/first
        rnnopt train --out runs/first --resume
        rnnopt train --data train.csv --test test.csv
        rnnopt train --data steps.csv --window 256 --group person --folds 5
    """
    if resume and out is None:
        raise UserError("--resume needs the run's folder: give --out.")
    if not resume and config.folds is None and is_begun(out):
        raise UserError(f"{out} holds folds: choose another --out, or continue with --resume.")
    check_conflicts(config, given)
    refuse_contradictions(config, given)
    with joined(config.device):
        if (config.folds is not None and config.fold is None) or (resume and is_begun(out)):
            return _cross_validate(config, out, resume, log, quiet, as_json, given)
        resume = goes_on(out, resume)
        return _train(config, out, resume, log, quiet, as_json, given)


def _cross_validate(
    config: RunConfig,
    out: Path | None,
    resume: bool,
    log: tuple[tracking.Kind, ...],
    quiet: bool,
    as_json: bool,
    given: Collection[str],
) -> int:
    """A run for each fold."""
    if started() > 1:
        raise UserError("--folds trains one run after another in one process: leave out torchrun.")
    path = out or new_folder(f"{config.task}-{config.folds}-folds")

    def train_one(config: RunConfig, path: Path, goes_on: bool, silent: bool) -> int:
        own = () if goes_on else given
        if goes_on:  # with the settings of its own; the optimizer is named where it is code
            named = is_import_path(parse(config.optimizer)[0])
            config = RunConfig(optimizer=config.optimizer) if named else RunConfig()
        return _train(config, path, goes_on, log, quiet or as_json, False, own, silent, as_json)

    return train_folds(config, path, resume, quiet, as_json, given, train_one)


def _train(
    config: RunConfig,
    out: Path | None,
    resume: bool,
    log: tuple[tracking.Kind, ...],
    quiet: bool,
    as_json: bool,
    given: Collection[str],
    known: bool = False,
    nothing: bool = False,
) -> int:
    """`train`, in one of the processes that share the run; the first alone prints.

    Nothing is said of data that are `known` already, and nothing at all where `nothing` is true.
    """
    first = rank() == 0
    path = out or new_folder(f"{parse(config.task)[0]}-{parse(config.optimizer)[0]}-{config.seed}")
    console.quiet = as_json or nothing or not first
    keep_freed_memory()
    silent = quiet or as_json or not first
    result, moved = _run(config, path, resume, log if first else (), silent, given, known)
    if as_json and first:
        print_json({"folder": path, **result})
    _print_result(path, result, nothing_left=resume and not moved)
    console.print(f"run folder {path}", highlight=False, markup=False, soft_wrap=True)
    if result["status"] == "interrupted" and not nothing:
        print_line(f"interrupted; {again(path, log, config.optimizer)} continues it.")
    return EXIT_CODES.get(result["status"], 0)


def again(path: Path, log: tuple[tracking.Kind, ...], optimizer: str = "") -> str:
    """What goes on with a run; torchrun has words of its own, which are not known here."""
    words = ["--out", str(path), "--resume", *(["--log", *log] if log else [])]
    if is_import_path(parse(optimizer)[0]):  # code runs only where the command names it
        words += ["--optimizer", optimizer]
    options = shlex.join(words)
    shared = started() > 1
    return f"the same torchrun with {options}" if shared else f"rnnopt train {options}"


def _run(
    config: RunConfig,
    path: Path,
    resume: bool,
    log: tuple[tracking.Kind, ...],
    quiet: bool,
    given: Collection[str],
    known: bool,
) -> tuple[dict[str, Any], bool]:
    """The run's result, and whether a step was taken; draws a bar unless `quiet`."""
    with (
        tracking.trackers(log, path) as tracked,
        interruptible() as stop,
        progress_bars(quiet) as bars,
    ):
        show = RunProgressBar(bars, bars.add_task("training", total=1.0, note="", visible=False))

        def listen(progress: Progress) -> None:
            show(progress)
            tracked(progress)

        result = run_one(
            config,
            path,
            resume,
            listen,
            stop.is_set,
            given,
            lambda task, told: announce(
                task, given, told, quiet or known, "" if resume else settled(config, task)[1]
            ),
        )
        tracked.finish(result)
    for sentence in tracked.lost:
        print_error(f"{sentence}; the rest of the run is in its folder alone.")
    return result, show.moved


def _print_result(path: Path, result: dict[str, Any], nothing_left: bool) -> None:
    """Says how good the network in a run's folder is, and how the run ended."""
    name = result.get("metric", "metric")
    if "test_metric" in result:
        best = result["best"]
        if again := result.get("refit"):
            print_line(
                f"refit on all {again['series']} training and validation series"
                f" ({again['gradient_evaluations']:.6g} gradients, {again['seconds']:.1f} s)"
            )
        console.print(
            f"test {name} {result['test_metric']:.4f}"
            f" {'of the refit; the first fit had' if again else 'at'} the best validation {name}"
            f" {best['validation_metric']:.4f} ({best['gradient_evaluations']:.6g} of"
            f" {result['gradient_evaluations']:.6g}"
            f" gradients, {result['seconds']:.1f} s)"
        )
    if "calibration" in result:
        print_line(line_of(result["calibration"]))
    for line in lines_of(result.get("test_scores", {})):
        print_line(line)
    if result.get("nonfinite"):
        count, policy = result["nonfinite"], RunFolder(path).read_config().on_nonfinite
        steps, were = ("step", "was") if count == 1 else ("steps", "were")
        left_out = {"skip": f"{were} left out", "restore": "led back to the last checkpoint"}
        print_line(f"{count} {steps} {were} not finite and {left_out[policy]}")
    if result.get("no_better") and result["status"] != "diverged":
        print_line(f"{result['no_better']}: {NOT_LEARNT}")
    if result["status"] == "diverged":
        learnt = result.get("best", {}).get("gradient_evaluations", 0) > 0
        found = "the weights became useless" if learnt else "nothing was learnt"
        print_line(f"{found}: {ADVICE}")
    note = ", which it had before: nothing was left to do" if nothing_left else ""
    console.print(f"status {result['status']}{note}", highlight=False)
