"""The fenced blocks of the project's Markdown pages, for the tests that run them."""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# An optional remark "needs FOLDER", the code, and what it prints.
BLOCK = re.compile(
    r"(?:<!-- needs (?P<needs>\S+) -->\n)?"
    r"```(?P<language>python|bash)\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<output>.*?)```)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Args:
        page: path below the root of the repository.
        language: "python" or "bash".
        code: its lines.
        output: what the page says that it prints; None if it says nothing.
        needs: folder of the data that it needs, below RNNOPT_DATA; None for none.
    """

    page: str
    language: str
    code: str
    output: str | None
    needs: str | None


def blocks(page: str) -> list[Block]:
    """The blocks in Python and for the shell, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(page, **match.groupdict()) for match in BLOCK.finditer(text)]


def run_python(block: Block, names: dict[str, object]) -> str:
    """What the code prints, run among `names`, to which it adds its own."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code, block.page, "exec"), names)
    return printed.getvalue()
