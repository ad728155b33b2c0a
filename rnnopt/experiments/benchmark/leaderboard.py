"""The leaderboard: tables of entries, and the figure of their performance profiles."""

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnnopt.config.errors import UserError, writing
from rnnopt.experiments.benchmark import scores
from rnnopt.experiments.benchmark.entry import Entry, Track
from rnnopt.experiments.benchmark.suite import SUITES, SuiteName, Workload
from rnnopt.report.figures import legend_below, log_axis, usual_look
from rnnopt.runs.folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"
HEADINGS = (
    "optimizer", "gradients, relative to SOAP", "seconds", "targets met", "robust rate",
    "rate at an end",
)  # fmt: skip
MOST = 16.0  # longest τ of the figure
DRAWN = 8  # lines of the figure
Table = list[list[str]]


def complete(entries: Sequence[Entry], suite: SuiteName) -> list[Entry]:
    """The entries with all workloads of a suite, the fastest first; none without SOAP."""
    found = [entry for entry in entries if entry.covers(suite)]
    reference = next((one for one in found if one.name == scores.REFERENCE), None)
    if reference is None:
        return []
    return sorted(found, key=lambda entry: scores.score(entry, reference, suite).value)


def standings(entries: Sequence[Entry], suite: SuiteName, track: Track) -> Table:
    """A row of text per entry of a track, under HEADINGS, the fastest first."""
    found = complete(entries, suite)
    rows = []
    for entry in found:
        if entry.track != track:
            continue
        reference = next(one for one in found if one.name == scores.REFERENCE)
        by_gradients, by_seconds = (
            scores.score(entry, reference, suite, quantity) for quantity in ("gradients", "seconds")
        )
        of_suite = [entry.workloads[one.name] for one in SUITES[suite]]
        known = [found for found in map(scores.robust, of_suite) if found is not None]
        robust = f"{sum(known)}/{len(known)}" if known else "–"
        edges = sum(found.at_edge for found in of_suite)
        count = len(of_suite)
        row = [
            entry.name, interval(by_gradients),
            f"{by_seconds.value:.2f}" if entry.timed_as(reference) else "–",
            f"{scores.reached(entry, suite)}/{count}", robust,
            f"{edges}/{count}" if track == "tuned" else "–",
        ]  # fmt: skip
        rows.append(row)
    return rows


def interval(score: scores.Score) -> str:
    """A score and its interval."""
    if score.low == score.high:
        return f"{score.value:.2f}"
    return f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def by_workload(entries: Sequence[Entry], suite: SuiteName) -> Table:
    """A row per entry: median gradient evaluations to the target of each workload."""
    return [
        [entry.name, *(_cost(entry, one) for one in SUITES[suite])]
        for entry in complete(entries, suite)
    ]


def _cost(entry: Entry, one: Workload) -> str:
    runs = entry.workloads[one.name].runs
    cost = statistics.median(scores.costs(one.name, runs, "gradients"))
    met = sum(run.to_target is not None for run in runs)
    text = f"{cost:.0f}" if cost <= one.budget else "–"
    return text if met == len(runs) else f"{text} ({met}/{len(runs)})"


def finals(entries: Sequence[Entry], suite: SuiteName) -> Table:
    """A row per entry: mean test metric at the best validation metric, on each workload."""
    return [
        [entry.name, *(_final(entry, one) for one in SUITES[suite])]
        for entry in complete(entries, suite)
    ]


def _final(entry: Entry, one: Workload) -> str:
    tests = [run.test for run in entry.workloads[one.name].runs]
    known = [test for test in tests if test is not None]
    return f"{statistics.mean(known):.4f}" if len(known) == len(tests) else "diverged"


def markdown(headings: Sequence[str], rows: Table) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(headings), *lines[1:]]) + "\n"


def write_page(path: Path, entries: Sequence[Entry]) -> list[Path]:
    """Writes the tables between the marks of a page, and the figures into images beside it.

    Returns:
        The files that it wrote.

    Raises:
        UserError: the page has no marks, or there is no complete entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path} must have the lines {BEGIN} and {END}, between which tables go.")
    parts, written = [], [path]
    for suite in SUITES:
        found = complete(entries, suite)
        if not found:
            continue
        names = [one.name for one in SUITES[suite]]
        targets = [f"{one.name} ({one.target:g})" for one in SUITES[suite]]
        picture = path.parent / "images" / f"benchmark-{suite}.png"
        parts.append(f"## The {suite} suite\n")
        tracks: tuple[Track, ...] = ("tuned", "self-tuning")
        for track in tracks:
            if rows := standings(entries, suite, track):
                parts += [f"### Track: {track}\n", markdown(HEADINGS, rows)]
        parts += [
            f"![Performance profiles](images/{picture.name})\n",
            f"The figure shows the {DRAWN} fastest entries.\n" * (len(found) > DRAWN),
            "### Gradient evaluations to the target\n",
            markdown(["optimizer", *targets], by_workload(entries, suite)),
            "### Test metric at the best validation metric\n",
            markdown(["optimizer", *names], finals(entries, suite)),
        ]
        buffer = io.BytesIO()
        figure(found, suite).savefig(buffer, dpi=130)
        with writing(picture):
            picture.parent.mkdir(exist_ok=True)
            write_atomically(picture, buffer.getvalue())
        written.append(picture)
    if not parts:
        raise UserError("no suite has entries on all its workloads, SOAP among them.")
    content = before + BEGIN + "\n\n" + "\n".join(filter(None, parts)) + "\n" + END + after
    with writing(path):
        write_atomically(path, content.encode())
    return written


def figure(entries: Sequence[Entry], suite: SuiteName) -> "Figure":
    """Performance profiles: the fraction of workloads solved within τ times the least cost.

    That is the least of all entries; the first ones are drawn.
    """
    from matplotlib.figure import Figure

    result = Figure(figsize=(8, 5.5), layout="constrained")
    axis = result.subplots()
    drawn = list(scores.profile(entries, suite).items())[:DRAWN]
    for place, (name, factors) in enumerate(drawn):
        steps = sorted(factor for factor in factors if factor <= MOST)
        at = [1.0, *steps, MOST]
        solved = [sum(f <= tau for f in factors) / len(factors) for tau in at]
        axis.plot(at, solved, drawstyle="steps-post", label=name, **usual_look(place))
    axis.set_xlim(1.0, MOST)
    axis.set_ylim(0.0, 1.02)
    log_axis(axis, "x")
    axis.set_xlabel("τ: gradient evaluations, relative to the fastest entry")
    axis.set_ylabel("fraction of workloads whose target is met")
    axis.grid(alpha=0.3)
    legend_below(result, [axis], [name for name, _ in drawn], across=4)
    return result
