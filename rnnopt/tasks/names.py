"""Names from files: of classes, channels and series.

They appear in terminals, tables, pages and figures, and must not contain control sequences or
markup for these.
"""

import re
from collections.abc import Iterable

IN_FIGURES = 80  # characters
LONGEST = 256  # characters; an array of words reserves the longest for each
MARKUP = re.compile(r"[\\`*<>|\[\]&]")
# Control characters, line ends, marks of the writing direction, surrogates.
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with control characters and direction marks escaped, such as \\x1b."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def check_names(names: Iterable[str], what: str) -> None:
    """Raises ValueError for a name that is too long or has invisible characters.

    Args:
        names: the names.
        what: what they name, such as "class".
    """
    for name in names:
        if len(name) > LONGEST:
            raise ValueError(
                f"the name of a {what} must have {LONGEST} characters at most, got {len(name)}:"
                f" {name[:20]!r}…"
            )
        if STEERING.search(name):
            raise ValueError(
                f"the name of a {what} must have no control characters, got {name[:40]!r}."
            )


def for_markdown(text: str) -> str:
    """`text` escaped for Markdown: one line, no markup, no end of a table cell."""
    return MARKUP.sub(r"\\\g<0>", visible(text))


def plain(text: str, longest: int = IN_FIGURES) -> str:
    """`text` for matplotlib: no formula between dollars, no control characters, not too long."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return visible(cut).replace("$", r"\$")
