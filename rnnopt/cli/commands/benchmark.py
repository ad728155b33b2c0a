"""`rnnopt benchmark`: an optimizer on the workloads of the benchmark, and the leaderboard."""

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from rich.progress import TaskID
from rich.table import Table

from rnnopt.cli.engines import engine_of
from rnnopt.cli.interrupt import interruptible
from rnnopt.cli.progress import Board
from rnnopt.cli.terminal import console, print_error, print_line, progress_bars
from rnnopt.config.cluster_config import HERE, ClusterConfig
from rnnopt.config.errors import UserError, unknown_name, writing
from rnnopt.config.specs import parse
from rnnopt.experiments.benchmark import leaderboard
from rnnopt.experiments.benchmark.entry import Entry, Track, checked_name, entries, load_entry
from rnnopt.experiments.benchmark.measure import Do, differences, measure, repeat
from rnnopt.experiments.benchmark.suite import BY_NAME, SUITES, SuiteName
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.experiments.mirrored import mirrored
from rnnopt.runs.folder import folder_of

FILE = "entry.json"
Run = Callable[[Do], tuple[Entry | None, list[str]]]


def benchmark(
    on: ClusterConfig = HERE,
    *,
    optimizer: str | None = None,
    name: str | None = None,
    quick: bool = False,
    self_tuning: bool = False,
    workloads: tuple[str, ...] = (),
    verify: Path | None = None,
    seed: int = 0,
    write: Path | None = None,
    out: Path | None = None,
    given: Collection[str] = (),
) -> int:
    """Measure an optimizer on the benchmark, or print the leaderboard.

    Without options it prints the leaderboard. With --optimizer it trains on every workload: five
    learning rates on a seed of their own, then the best of them on five seeds. The same command
    continues after Ctrl-C. docs/benchmark.md explains the rules and how to enter.

    Args:
        on: Where the runs are trained.
        optimizer: What to measure: a name, or module:Class, file.py:Class, with options after it.
        name: Name of the entry. Unset: the optimizer's.
        quick: Five workloads, minutes on two cores; without it all, hours.
        self_tuning: One run per seed at the optimizer's own learning rate, without tuning.
        workloads: Names of the workloads to train on. Unset: all of the suite.
        verify: Entry (a .json file) of which one run is repeated, on the first of --workloads.
            Where the entry's optimizer is code of others, name it by --optimizer, too.
        seed: Seed of the run that --verify repeats.
        write: Page into which the leaderboard is written, between its marks.
        out: Folder of the runs. Unset: one below runs/benchmark.

    Examples:
        rnnopt benchmark
        rnnopt benchmark --optimizer adam:clip=1 --quick
        rnnopt benchmark --optimizer my_optimizer.py:Mine --name mine
        rnnopt benchmark --verify entry.json --workloads counting --seed 3
    """
    _check_choice(optimizer, verify, write, given)
    for one in workloads:
        if one not in BY_NAME:
            raise unknown_name("workload", one, BY_NAME)
    if write is not None:
        for path in leaderboard.write_page(write, entries()):
            print_line(f"wrote {path}")
        return 0
    engine = engine_of(on)
    if verify is not None:
        return _verify(load_entry(verify), workloads, seed, engine, out, optimizer)
    if optimizer is None:
        return _print_leaderboard(entries())
    suite: SuiteName = "quick" if quick else "full"
    name = checked_name(name or folder_of(parse(optimizer)[0]).replace("_", "-").lower())
    track: Track = "self-tuning" if self_tuning else "tuned"
    out = out or Path("runs/benchmark") / name
    chosen = [BY_NAME[one] for one in workloads] or list(SUITES[suite])
    with mirrored(out, on.mirror, resume=True) as engine.mirror:
        return _measure(
            engine, out, name, lambda do: measure(name, optimizer, track, chosen, out, do)
        )


def _measure(engine: Engine, out: Path, name: str, run: Run) -> int:
    """Makes an entry and prints where it stands; the exit code."""
    with writing(out):
        entry, failures, stopped = _with_progress(engine, run)
        if entry is not None:
            entry.save(out / FILE)
    for failure in failures:
        print_error(f"failed: {failure}")
    if stopped:
        print_line("interrupted; the same command continues it.")
        return 130
    if entry is None:
        return 1
    known = [one for one in entries() if one.name != name]
    _print_leaderboard([*known, entry], only=[name])
    print_line(f"wrote {out / FILE}")
    return 0


def _check_choice(
    optimizer: str | None, verify: Path | None, write: Path | None, given: Collection[str]
) -> None:
    """Raises UserError for options that exclude each other."""
    chosen = {"--optimizer": optimizer, "--verify": verify, "--write": write}
    said = [name for name, value in chosen.items() if value is not None]
    if len(said) > 1 and write is not None:
        raise UserError(f"benchmark takes one of {', '.join(chosen)}, got {' and '.join(said)}.")
    for option in ("name", "quick", "self_tuning"):
        if option in given and optimizer is None:
            raise UserError(f"--{option.replace('_', '-')} needs --optimizer, what to measure.")
        if option in given and verify is not None:
            raise UserError(f"--{option.replace('_', '-')} cannot go with --verify: leave it out.")
    if "workloads" in given and optimizer is None and verify is None:
        raise UserError("--workloads needs --optimizer or --verify, what to train.")
    if "mirror" in given and optimizer is None:
        raise UserError("--mirror needs --optimizer, what to measure.")
    if "seed" in given and verify is None:
        raise UserError("--seed needs --verify, the entry of which a run is repeated.")


def _with_progress(engine: Engine, run: Run) -> tuple[Entry | None, list[str], bool]:
    """Runs with bars on the terminal; also returns whether it was interrupted."""
    stages: dict[str, TaskID] = {}
    with engine, interruptible() as stop, progress_bars() as bars:
        board = Board(bars)

        def do(stage: str, jobs: list[Job]) -> list[str]:
            def tell(now: list[Job]) -> None:
                if stage not in stages:
                    stages[stage] = bars.add_task(stage, total=1.0, note="")
                board.draw_stage(stages[stage], now)

            return engine.work(jobs, tell, stop)

        entry, failures = run(do)
    return entry, failures, stop.is_set()


def _verify(
    entry: Entry,
    workloads: tuple[str, ...],
    seed: int,
    engine: Engine,
    out: Path | None,
    asked: str | None,
) -> int:
    """Repeats a run; the exit code is 1 if a figure differs."""
    workload = workloads[0] if workloads else next(iter(entry.workloads))
    with tempfile.TemporaryDirectory() as folder, engine, interruptible() as stop:

        def do(stage: str, jobs: list[Job]) -> list[str]:
            return engine.work(jobs, lambda now: None, stop)

        said, found = repeat(entry, workload, seed, out or Path(folder), do, asked)
    differing = differences(said, found)
    for difference in differing:
        print_error(f"{workload}, seed {seed}: {difference}")
    if differing:
        there = entry.environment.get("processor")
        print_line(f"the entry was made on: {there}; another processor rounds differently.")
        return 1
    print_line(f"{workload}, seed {seed}: every figure of {entry.name} is the same.")
    return 0


def _print_leaderboard(found: list[Entry], only: Collection[str] = ()) -> int:
    """Prints the standings of each suite, and of `only` these entries the workloads."""
    shown = False
    tracks: tuple[Track, ...] = ("tuned", "self-tuning")
    for suite in SUITES:
        for track in tracks:
            rows = leaderboard.standings(found, suite, track)
            if not rows or (only and not any(row[0] in only for row in rows)):
                continue
            table = Table(title=f"{suite} suite, {track}", title_justify="left")
            for heading in leaderboard.HEADINGS:
                table.add_column(heading, overflow="fold")
            for row in rows:
                table.add_row(*row)
            console.print(table)
            shown = True
    if not shown:
        print_line("no suite is complete: the leaderboard ranks entries with all workloads of one.")
    return 0
