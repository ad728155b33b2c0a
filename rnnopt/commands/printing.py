"""What the verbs for own data have in common when they print."""

from collections.abc import Iterable

from rich.table import Table

from rnnopt.tasks.task import Task
from rnnopt.terminal import console


def print_lines(lines: Iterable[tuple[str, str]], title: str) -> None:
    """A table of two columns."""
    table = Table("what", "found", title=title, title_justify="left", min_width=70)
    for subject, answer in lines:
        table.add_row(subject, answer)
    console.print(table)


def announce(task: Task, quiet: bool = False) -> None:
    """Says what was understood of a user's own data; nothing of a task on board."""
    if task.data is not None and not quiet:
        print_lines(task.data.understood, f"{task.name}, as understood")
