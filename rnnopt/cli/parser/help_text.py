"""A verb's help, as it is printed: lines that fit, and commands to begin with at the end."""

import io
import re
import textwrap
from collections.abc import Callable

from rnnopt.cli.parser.docstrings import examples_of
from rnnopt.cli.terminal import console

CODE = re.compile(r"\x1b\[[\d;]*m")  # that colours what follows
BLANK = re.compile(r"│ *│")  # a line of a box with nothing in it


class Held(io.StringIO):
    """Keeps what is printed, and looks to tyro, which asks, like the stream it stands for.

    Args:
        instead_of: the stream; None means a file in UTF-8.
    """

    def __init__(self, instead_of: io.TextIOBase | None = None):
        super().__init__()
        self.instead_of = instead_of

    @property
    def encoding(self) -> str:  # type: ignore[override]  # text, there
        """On which it depends how boxes are drawn."""
        return ((self.instead_of and self.instead_of.encoding) or "utf-8").lower()

    def isatty(self) -> bool:
        """On which it depends whether there are colours."""
        return self.instead_of is not None and self.instead_of.isatty()


def finished(shown: str, verb: Callable[..., int]) -> str:
    """What tyro shows as the help of a verb, with its sentences wrapped and its examples behind."""
    lines: list[str] = []
    for line in shown.rstrip("\n").split("\n"):
        bare = CODE.sub("", line)
        if len(bare) > console.width:
            lines += textwrap.wrap(bare, console.width)
        elif not BLANK.fullmatch(bare):
            lines.append(line)
    if examples := examples_of(verb):
        lines += ["", "for example", *(f"  {example}" for example in examples)]
    return "\n".join(lines)
