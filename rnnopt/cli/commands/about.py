"""`rnnopt list` and `rnnopt doctor`: what there is, and what this machine makes of it."""

from dataclasses import asdict

from rich.table import Column, Table

from rnnopt.cli.commands import catalogue
from rnnopt.cli.terminal import AsJson, console, print_json, print_line
from rnnopt.runs import doctor
from rnnopt.training.resolve import loop_options_of


def list_all(name: str | None = None, /, *, quiet: bool = False, as_json: AsJson = False) -> int:
    """List tasks, models and optimizers, or describe one.

    Args:
        name: Task, model or optimizer to describe: its options with their defaults; of a task also
            its sizes, metric and target, and where its data come from.
        quiet: Output of the names only, one a line; with NAME, of the names of its options.
        as_json: Output of one JSON object and nothing else.

    Examples:
        rnnopt list
        rnnopt list frank-wolfe
        rnnopt list digits-pixels --json
    """
    if name is not None:
        return _tell(catalogue.describe(name), quiet, as_json)
    entries = catalogue.summaries()
    if as_json:
        print_json(entries)
        return 0
    for title, named in entries.items():
        if quiet:
            for name in named:
                print_line(name)
            continue
        table = Table("name", "what it is", title=title, title_justify="left", min_width=70)
        for name, summary in named.items():
            table.add_row(name, summary)
        console.print(table)
    if not quiet:
        for line in (
            "Options go behind a colon: --task adding:length=400 --optimizer frank-wolfe:norm=inf",
            "`rnnopt list NAME` says which there are.",
        ):
            console.print(line, style="dim", highlight=False)
    return 0


def _tell(entry: catalogue.Entry, quiet: bool, as_json: bool) -> int:
    """Prints what a name stands for; the exit code."""
    if as_json:
        print_json(asdict(entry))
        return 0
    if quiet:
        for option in entry.options:
            print_line(option.name)
        return 0
    article = "an" if entry.kind == "optimizer" else "a"
    console.print(f"{entry.name}, {article} {entry.kind}: {entry.summary}", highlight=False)
    if entry.about:
        console.print(entry.about, highlight=False)
    if entry.facts:
        facts = Table(*(("setting", "value") if entry.kind == "model" else ("what", "found")))
        for subject, value in entry.facts.items():
            facts.add_row(subject, catalogue.shown(value))
        console.print(facts)
    if entry.options:
        options = Table(
            Column("option", no_wrap=True), Column("default", no_wrap=True), "what it is"
        )
        for option in entry.options:
            options.add_row(option.name, catalogue.shown(option.default), option.sentence)
        console.print(options)
    if entry.kind == "optimizer":
        console.print(
            f"As options go also: {', '.join(loop_options_of(entry.name))}.", highlight=False
        )
    for line in ("for example", *(f"  {example}" for example in entry.examples)):
        print_line(line)
    return 0


def look_around(*, quiet: bool = False, as_json: AsJson = False) -> int:
    """Say which code runs the layers here, and how to speed it up.

    Measures a small network, for which it takes about a second.

    Args:
        quiet: Output of the advice only; none where there is none.
        as_json: Output of one JSON object and nothing else.

    Examples:
        rnnopt doctor
        rnnopt doctor --json
    """
    findings = doctor.examine()
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
        return 0
    if not quiet:
        table = Table("what", "found", min_width=70)
        for finding in findings:
            table.add_row(finding.subject, finding.answer)
        console.print(table)
    for finding in findings:
        if finding.advice:
            print_line(finding.advice)
    return 0
