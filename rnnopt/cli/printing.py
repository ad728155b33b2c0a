"""What the verbs for own data have in common when they print."""

from collections.abc import Collection, Iterable, Sequence

from rich.table import Table

from rnnopt.cli.terminal import console, print_error, print_line
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training.option_checks import refuse_splits

FEW = 3  # series of a class: one to learn from, one to validate and one to test on
SHOWN = 5  # classes with fewer that are named


def print_lines(lines: Iterable[tuple[str, str]], title: str) -> None:
    """A table of two columns."""
    table = Table("what", "found", title=title, title_justify="left", min_width=70)
    for subject, answer in lines:
        table.add_row(subject, answer)
    console.print(table)


def announce(
    task: Task,
    given: Collection[str],
    told: Sequence[str] = (),
    quiet: bool = False,
    chosen: str = "",
) -> None:
    """Says what was understood of a user's own data, and warns.

    Args:
        task: the task; nothing is said of one on board.
        given: names of the options that were asked for.
        told: what to warn of, a sentence each.
        quiet: say nothing.
        chosen: what --model auto chose, "" for nothing.

    Raises:
        UserError: an option holds out series that the data have apart.
    """
    refuse_splits(task, given)
    for sentence in () if quiet else told:
        print_error(f"warning: {sentence}.")
    if task.data is not None and not quiet:
        print_lines(task.data.understood, f"{task.name}, as understood")
        for doubt in task.data.doubts:
            print_error(f"warning: {doubt}.")
        if rare := rare_classes(task, task.data.preparation.classes):
            print_error(f"warning: {rare}.")
    if chosen and not quiet:
        print_line(f"model: {chosen}")


def rare_classes(task: Task, classes: Sequence[str]) -> str:
    """Which classes of own data have too few series to learn, choose and test with; else ""."""
    parts = {"validate": task.validation, "test": task.test}
    parts = {verb: part for verb, part in parts.items() if isinstance(part, Examples)}
    if not isinstance(task.train, Examples) or task.labels:
        return ""
    told = []
    for number, name in enumerate(classes):
        held = {verb: int((part.targets == number).sum()) for verb, part in parts.items()}
        count = int((task.train.targets == number).sum()) + sum(held.values())
        lacking = " or ".join(verb for verb, there in held.items() if not there)
        if count < FEW and lacking:
            series = "one series" if count == 1 else f"{count} series"
            told.append(f"class {name!r} has {series}: none to {lacking} on")
    more = f"; {len(told) - SHOWN} more classes have as few" if len(told) > SHOWN else ""
    return "; ".join(told[:SHOWN]) + more
