"""`rnnopt train --folds`: a run for each fold, in folders of one, and a table of them."""

import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from rnnopt.cli.terminal import console, print_json, print_line
from rnnopt.config.errors import UserError, option
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import is_import_path, parse
from rnnopt.report import folds as report
from rnnopt.runs.collection import read_runs
from rnnopt.runs.files import json_bytes, read_json
from rnnopt.runs.folder import RunFolder, write_atomically
from rnnopt.training.imported import check_trusted

FILE = "folds.json"  # the settings that all folds share
TABLE = "folds.md"
# Trains the run of a config in a folder, or goes on with it; returns its exit code.
TrainOne = Callable[[RunConfig, Path, bool, bool], int]


def is_begun(out: Path | None) -> bool:
    """Whether a cross-validation was begun in a folder."""
    with suppress(OSError):  # of a name that no folder can have
        return out is not None and (out / FILE).is_file()
    return False


def begin(config: RunConfig, out: Path, resume: bool, given: Collection[str]) -> RunConfig:
    """The settings of a new cross-validation, written to its folder, or those it was begun with.

    Raises:
        UserError: the folder holds other runs; or with `resume` an option is another one.
    """
    if not resume:
        RunFolder(out).refuse_run()
        if is_begun(out):
            raise UserError(
                f"{out} already holds folds: continue with --resume or choose another --out."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / FILE, json_bytes(config.to_dict()))
        return config
    try:
        begun = RunConfig.from_dict(read_json(out / FILE))
    except UserError as error:
        raise UserError(f"{out / FILE}: {error}") from error
    for field in fields(RunConfig):
        now, before = getattr(config, field.name), getattr(begun, field.name)
        if field.name in given and now != before:
            raise UserError(
                f"the folds in {out} were begun with {option(field.name)} {before}, they cannot"
                f" resume with {now}."
            )
    check_trusted(begun.optimizer, config.optimizer, f"the cross-validation in {out}")
    return begun


def train_folds(
    config: RunConfig,
    out: Path,
    resume: bool,
    quiet: bool,
    as_json: bool,
    given: Collection[str],
    train_one: TrainOne,
) -> int:
    """Trains the folds one after another; the exit code.

    Args:
        config: settings of all folds.
        out: folder of the folders fold-1, fold-2, ….
        resume: whether to go on with folds that were begun.
        quiet: whether to print only the table.
        as_json: whether to print one JSON object.
        given: options that the user passed.
        train_one: trains one; its last argument is whether it prints of the data.
    """
    config = begin(config, out, resume, given)
    codes = []
    for fold in range(1, (config.folds or 0) + 1):
        path = out / f"fold-{fold}"
        if not (quiet or as_json):
            print_line(f"fold {fold} of {config.folds}: {path}")
        goes_on = (path / "config.json").exists()
        with _nothing_left(out, resume or fold > 1):
            codes.append(train_one(replace(config, fold=fold), path, goes_on, fold > 1))
        if codes[-1] == 130:
            code = is_import_path(parse(config.optimizer)[0])  # runs where a command names it
            named = f" --optimizer {shlex.quote(config.optimizer)}" if code else ""
            print_line(
                f"interrupted; rnnopt train --out {out} --resume{named} continues the folds."
            )
            return 130
    _tell(config, out, as_json)
    return max(codes)


@contextmanager
def _nothing_left(out: Path, begun: bool) -> Iterator[None]:
    """Removes what `begin` wrote if the first run is refused, so that the folder can be used."""
    try:
        yield
    except UserError:
        if not begun and not (out / "fold-1").exists():
            (out / FILE).unlink()
            if not any(out.iterdir()):
                out.rmdir()
        raise


def _tell(config: RunConfig, out: Path, as_json: bool) -> None:
    """Prints and writes the table."""
    paths = [out / f"fold-{i + 1}" for i in range(config.folds or 0)]
    runs = read_runs([RunFolder.open(path) for path in paths])
    write_atomically(out / TABLE, report.markdown(runs).encode())
    if as_json:
        print_json(facts(runs, out))
        return
    table = Table(*report.headings(runs), title=f"{config.task}: {config.folds} folds")
    table.title_justify = "left"
    for row in report.rows(runs):
        table.add_row(*row)
    console.print(table)
    print_line(f"wrote {out / TABLE}")


def facts(runs: list[Any], out: Path) -> dict[str, Any]:
    """What the folds gave, ready for JSON."""
    tests = [run.result["test_metric"] for run in runs if "test_metric" in run.result]
    mean, width = report.mean_and_width(tests) if tests else (None, None)
    folds = [{"folder": run.path, "fold": run.config.fold, **run.result} for run in runs]
    return {"folder": out, "folds": folds, "test_metric": mean, "half_width": width}
