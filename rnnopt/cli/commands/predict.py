"""rnnopt predict: what a trained network answers to new series."""

import csv
import io
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from rnnopt.cli.outputs import check_output
from rnnopt.cli.streaming import answer_rows
from rnnopt.cli.terminal import print_error, print_line
from rnnopt.config.data_config import Decimal
from rnnopt.config.data_files import brief, inputs_in, joined
from rnnopt.config.errors import UserError, writing
from rnnopt.runs.folder import write_atomically
from rnnopt.runs.prediction import TrainedModel, own_metric, rows, scores, step_rows
from rnnopt.runs.step_scores import lines_of
from rnnopt.tasks.free_run import FreeRun
from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.checks import far_lengths
from rnnopt.tasks.user_data.feedback import unmeasured
from rnnopt.tasks.user_data.forecasting import with_forecasts
from rnnopt.tasks.user_data.overview import read_as
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.intervals import with_interval_labels
from rnnopt.tasks.user_data.readers.several import read_data
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.series import cut_padding


def predict_data(
    run: Path,
    /,
    *,
    data: tuple[str, ...] = (),
    stream: bool = False,
    out: Path = Path("predictions.csv"),
    labels: Path | None = None,
    unlabelled: bool = False,
    decimal: Decimal | None = None,
    given: Collection[str] = (),
) -> int:
    """Predict new series with a trained network.

    The network has the best weights of a run on data of your own. Writes a line a series: its name,
    its label if the file has one, the predicted class and the probability of each, or the predicted
    number; of several labels 0 or 1 and a probability for each. A run on windows writes a line a
    window, with its first step and its end. A network with targets at every step writes a line a
    step; one that forecasts, the forecasts from each step.
    Says how good that is where there are labels.

    Args:
        run: Folder of the run.
        data: File or folder of new series, or several, as for `rnnopt train --data`, with or
            without labels.
        stream: Predictions of rows as they come, in place of --data: each line of standard input is
            a step, each answer a line of standard output. A blank line begins a new series.
        out: File to write: .csv.
        labels: Table of intervals with labels of the recordings, as for `rnnopt train --labels`.
        unlabelled: Absence of labels, in a text file without column names. Otherwise each line is
            expected to have its label first, or where `train --label` placed it.
        decimal: Decimal sign in a text file. Unset: the one given to `rnnopt train`, else the one
            that the file seems to use; with --stream a point.

    Examples:
        rnnopt predict runs/own --data new.csv
        rnnopt predict runs/own --data new.csv --unlabelled --out answers.csv
        sensor | rnnopt predict runs/own --stream
    """
    if stream:
        return _stream(run, decimal, given)
    if not data:
        raise UserError("predict needs the series, --data, or --stream for rows as they come.")
    trained = TrainedModel.open(run)
    text, config = joined(data), trained.config
    inputs = [*inputs_in(text), *inputs_in(config.data), *inputs_in(config.test)]
    check_output(out, ".csv", inputs)
    bare = unlabelled or labels is not None or config.labels is not None
    series, test = read_data(text, _columns(trained, bare, decimal))
    if labels is not None:
        _check_takes_labels(run, trained.preparation)
        series, test = with_interval_labels(labels, series, test, keep=True)
    if test is not None:
        series = test
        print_line(f"{brief(text)} holds training and test series: these are the test series.")
    predict = _predict_steps if trained.preparation.each_step else _predict_series
    return predict(trained, text, series, out)


def _stream(run: Path, decimal: Decimal | None, given: Collection[str]) -> int:
    """`predict_data` for rows on standard input."""
    for name in ("data", "out", "labels", "unlabelled"):
        if name in given:
            raise UserError(
                f"--stream reads standard input and writes standard output: leave out --{name}."
            )
    trained = TrainedModel.open(run)
    return answer_rows(trained, decimal or trained.config.decimal)


def _check_takes_labels(run: Path, p: Preparation) -> None:
    """Raises UserError if labels of steps are of no use to a run."""
    windows = p.sampling is not None and p.sampling.window is not None
    if p.horizon or not (windows or p.each_step):
        raise UserError(
            f"--labels is for a run on windows or with targets at every step, and {run} is none."
        )


def _labelled(series: Recordings) -> np.ndarray:
    """Positions of the series with a label: a window may have none."""
    if series.targets is None:
        return np.zeros(0, int)
    rows = series.targets.reshape(len(series), -1)
    missing = rows == "" if rows.dtype.kind == "U" else np.isnan(rows)
    return np.flatnonzero(~missing.any(1))


def _predict_series(trained: TrainedModel, data: str, series: Recordings, out: Path) -> int:
    """`predict_data` for an answer to each series or window."""
    try:
        series = trained.preparation.shaped(series)
        answers = trained.answer(series)
        known = _labelled(series)
        told = {}
        if len(known):
            labelled = series.select(known)
            told = scores(trained.preparation, answers[known], labelled)
            told = own_metric(trained, answers[known], labelled) | told
    except ValueError as error:
        raise UserError(f"{brief(data)}: {error}") from error
    _check_labels(data, trained.preparation, series)
    _warn_of_lengths(trained.preparation, series)
    headings, lines = rows(trained.preparation, answers, series)
    _write(out, headings, lines)
    for subject, how in (*read_as(series), *series.lines):
        print_line(f"{subject}: {how}")
    for name, value in told.items():
        print_line(f"{name} {value:.4f}" if abs(value) < 100 else f"{name} {value:.6g}")
    print_line(f"wrote {out} ({len(series)} {'series' if series.spans is None else 'windows'})")
    return 0


def _predict_steps(trained: TrainedModel, data: str, series: Recordings, out: Path) -> int:
    """`predict_data` for targets at every step, or forecasts."""
    p = trained.preparation
    try:
        series = p.shaped(series)
        if p.horizon:
            series = with_forecasts(aligned(series, p.channels, p.table), p.horizon, p.forecasts)
        answers, told = trained.answer_steps(series)
    except ValueError as error:
        raise UserError(f"{brief(data)}: {error}") from error
    headings, lines = step_rows(p, answers, series)
    _write(out, headings, lines)
    for subject, how in (*read_as(series), *series.lines):
        print_line(f"{subject}: {how}")
    if p.free_run is not None:
        print_line(_fed_back(p.free_run, p, series))
    for line in lines_of(told):
        print_line(line)
    print_line(f"wrote {out} ({len(series)} series, {sum(map(len, answers))} steps)")
    return 0


def _fed_back(free: FreeRun, p: Preparation, series: Recordings) -> str:
    """Where a free run has its first outputs from."""
    means = zip(p.outputs_named, p.target_mean, strict=True)
    before = ", ".join(f"{name} {mean:.6g}" for name, mean in means)
    bare = len(unmeasured(series, p.lags))
    if bare == len(series):
        return f"free run from the first step: the file has no outputs, before it they are {before}"
    steps = f"the first {free.start} steps" if free.start > 1 else "the first step"
    some = f"; {bare} series without outputs run free from the first step, after {before}"
    return (
        f"free run: the outputs of {steps} are those of the file, then the network's own"
        + some * bool(bare)
    )


def _write(out: Path, headings: list[str], lines: Iterable[list[str]]) -> None:
    """Writes a table as .csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *lines])
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.getvalue().encode())


def _columns(trained: TrainedModel, unlabelled: bool, decimal: Decimal | None) -> Columns:
    """Where to look in a file to be read as the run's own was."""
    preparation, config = trained.preparation, trained.config
    alike = preparation.shortest == preparation.longest
    columns = Columns.of(
        config,
        label=None if preparation.horizon else config.label,
        # Runs of before took it for a channel in folders of text.
        time=None if config.time in preparation.channels else config.time,
        unlabelled=unlabelled or preparation.horizon > 0,
        steps=preparation.longest if alike else None,
        optional=True,
        decimal=decimal or config.decimal,
        each_step=preparation.each_step and not preparation.horizon,
        single=preparation.each_step,
    )
    return columns.like(preparation.table)


def _warn_of_lengths(preparation: Preparation, series: Recordings) -> None:
    """Says so if series are much shorter or longer than any of the training data."""
    whole = cut_padding(series.series) if preparation.padded else series.series
    far = far_lengths([len(one) for one in whole], preparation.shortest, preparation.longest)
    if far is not None:
        print_error(f"warning: {far}.")


def _check_labels(data: str, preparation: Preparation, series: Recordings) -> None:
    """Says how many labels are none of the run's classes; refuses a file where all are."""
    if series.targets is None or preparation.kind != "classification":
        return
    known = _labelled(series)
    unknown = int((preparation.positions(series.targets[known]) < 0).sum())
    if unknown == len(known) > 0:
        raise UserError(
            f"{brief(data)}: no label is one of the run's classes"
            f" ({', '.join(preparation.classes)}): say --unlabelled if it has none."
        )
    if unknown:
        print_line(f"{unknown} labels are none of the run's classes: they count as wrong.")
