"""What the verbs share to show things: two consoles, progress bars, JSON for scripts."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.progress import Progress, TaskID
from rich.segment import Segment

from rnnopt.runs.files import finite
from rnnopt.tasks import download
from rnnopt.tasks.names import visible
from rnnopt.training.progress_bars import bars_on

AsJson = Annotated[bool, Parameter(name="json")]  # an option of many verbs


class PlainConsole(Console):
    """A console on which text is what it says: no markup, and nothing in it steers the terminal.

    Names come from files and folders of anybody's.
    """

    def __init__(self, stderr: bool = False):
        super().__init__(stderr=stderr, markup=False, emoji=False)
        self._width = None  # rich would take COLUMNS of now for good

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        """Of the terminal, or as wide as COLUMNS says."""
        found, columns = super().size, os.environ.get("COLUMNS", "")
        return ConsoleDimensions(int(columns), found.height) if columns.isdigit() else found

    def on_broken_pipe(self) -> None:
        """Leaves the error to the end of the command; rich would end it with code 1."""
        raise  # rich calls this where it has caught the error

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does it, with characters that steer written out."""
        for one in super().render(renderable, options):
            if one.control or one.text == "\n":
                yield one
            else:
                yield Segment("\n".join(map(visible, one.text.split("\n"))), one.style)


console = PlainConsole()
errors = PlainConsole(stderr=True)


def print_line(text: str) -> None:
    """Prints a line as it is: no markup, no colours, no breaks."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Prints a line on standard error, in red where there are colours."""
    errors.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    """Prints one JSON object on standard output, though the console be quiet."""
    print(json.dumps(finite(value), default=os.fspath))


def progress_bars(quiet: bool = False) -> Progress:
    """Bars on standard error."""
    return bars_on(errors, quiet)


@contextmanager
def download_bar() -> Iterator[None]:
    """Draws downloads while the command runs; nothing as long as there is none."""
    bars = progress_bars()
    bar: dict[str, TaskID] = {}

    def listener(name: str, done: int, total: int) -> None:
        bars.start()
        if name not in bar:
            bar[name] = bars.add_task(name, total=total, note="download")
        bars.update(bar[name], completed=done)

    before, download.listener = download.listener, listener
    try:
        yield
    finally:
        download.listener = before
        if bar:
            bars.stop()
