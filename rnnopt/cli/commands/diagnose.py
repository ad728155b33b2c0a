"""`rnnopt diagnose`: one run, and what its gradients do."""

from collections.abc import Collection
from pathlib import Path

from rich.table import Table

from rnnopt.cli.commands.train import EXIT_CODES
from rnnopt.cli.interrupt import interruptible
from rnnopt.cli.terminal import console, print_error, print_line, progress_bars
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.diagnostics.diagnosis import Diagnosis
from rnnopt.report import diagnosis as diagnosis_report
from rnnopt.runs.folder import new_folder
from rnnopt.training.build import build_training
from rnnopt.training.malloc import keep_freed_memory
from rnnopt.training.option_checks import refuse_contradictions, refuse_splits, warnings_of
from rnnopt.training.progress_bars import RunProgressBar
from rnnopt.training.resolve import check_conflicts, fill_from_task, resolve

# Long enough to see where the gradients go, short enough to wait for.
SHORT_RUN = RunConfig(budget="5epochs")


def diagnose(
    config: RunConfig = SHORT_RUN,
    *,
    out: Path | None = None,
    looks: int = 20,
    quiet: bool = False,
    given: Collection[str] = (),
) -> int:
    """Train one network and say what its gradients do.

    They may vanish, explode or drown in noise. Writes diagnosis.json and diagnosis.png: the norm of
    dL/dh_t at every time step t of every layer over training, spectral radius of the recurrent
    matrices, saturated units, gradient noise scale, angle between steps and gradient, curvature. A
    look at them costs about twenty gradient evaluations; the run is bit for bit that of `rnnopt
    train`.

    Args:
        config: The run.
        out: Folder to write to. Unset: a new one below runs/.
        looks: Number of looks at the gradients, evenly over the budget.
        quiet: Output of the verdict and the last lines only.

    Examples:
        rnnopt diagnose --task adding --model rnn
        rnnopt diagnose --data train.csv --model lstm --budget 2m --looks 10
    """
    if looks < 1:
        raise UserError(f"--looks must be at least 1, got {looks}.")
    check_conflicts(config, given)
    refuse_contradictions(config, given)
    out = out or new_folder(f"diagnose-{parse(config.task)[0]}")
    keep_freed_memory()
    training = build_training(config)
    refuse_splits(training.task, given)
    for sentence in () if quiet else warnings_of(config, training):
        print_error(f"warning: {sentence}.")
    watched = Diagnosis(training, looks, config.seed)
    diagnosis_report.create_folder(out)
    with interruptible() as stop, progress_bars(quiet) as bars:
        show = RunProgressBar(bars, bars.add_task("diagnosing", total=1.0, note="", visible=False))
        for progress in watched.run(stop.is_set):
            show(progress)
    findings, written = diagnosis_report.write(
        watched, fill_from_task(resolve(config), watched.training.task), out
    )
    if not quiet:
        _print_looks(config, watched)
    for finding in findings:
        print_line(finding.sentence)
        for advice in finding.advice:
            print_line(f"  try {advice}")
    console.print(f"status {watched.training.status}", highlight=False)
    for path in written:
        print_line(f"wrote {path}")
    return EXIT_CODES.get(watched.training.status, 0)


def _print_looks(config: RunConfig, watched: Diagnosis) -> None:
    """A table of what was seen, a row a look."""
    table = Table(title=f"{config.task}, {config.model}, {config.optimizer}")
    for i, heading in enumerate(diagnosis_report.columns(watched.snapshots)):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in diagnosis_report.rows(watched.snapshots):
        table.add_row(*row)
    console.print(table)
