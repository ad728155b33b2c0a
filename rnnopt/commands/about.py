"""`rnnopt list` and `rnnopt doctor`: what there is, and what this machine makes of it."""

from dataclasses import asdict

from rich.table import Table

from rnnopt import doctor
from rnnopt.config import MODELS
from rnnopt.optimizers.by_name import OPTIMIZERS
from rnnopt.tasks import TASKS
from rnnopt.terminal import AsJson, console, for_script, say


def list_all(quiet: bool = False, as_json: AsJson = False) -> int:
    """List the tasks, models and optimizers, with one line each.

    Args:
        quiet: print the names only, one a line.
        as_json: print one JSON object and nothing else.
    """
    entries = {
        "tasks": {name: (build.__doc__ or "").split("\n")[0] for name, build in TASKS.items()},
        "models": {name: summary for name, (_, summary) in MODELS.items()},
        "optimizers": {n: f"{c.summary} (lr {c.lr:g})" for n, c in OPTIMIZERS.items()},
    }
    if as_json:
        for_script(entries)
        return 0
    for title, named in entries.items():
        if quiet:
            for name in named:
                say(name)
            continue
        table = Table("name", "what it is", title=title, title_justify="left", min_width=70)
        for name, summary in named.items():
            table.add_row(name, summary)
        console.print(table)
    if not quiet:
        console.print(
            'Options go behind a colon: --task adding:length=400 --optimizer "frank-wolfe:norm=inf"'
            ".",
            style="dim",
        )
    return 0


def look_around(quiet: bool = False, as_json: AsJson = False) -> int:
    """Say which code runs the recurrent layers here, why, and how to get the fastest.

    Measures a small network, for which it takes about a second.

    Args:
        quiet: print the advice only: nothing where there is none.
        as_json: print one JSON object and nothing else.
    """
    findings = doctor.examine()
    if as_json:
        for_script({"findings": [asdict(finding) for finding in findings]})
        return 0
    if not quiet:
        table = Table("what", "found", min_width=70)
        for finding in findings:
            table.add_row(finding.subject, finding.answer)
        console.print(table)
    for finding in findings:
        if finding.advice:
            say(finding.advice)
    return 0
