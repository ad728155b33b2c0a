"""Names that come out of files: of classes, channels and series. They end up in terminals, tables,
pages and figures, so that nothing in them may steer one of these."""

import re
from collections.abc import Iterable

IN_FIGURES = 80  # characters
LONGEST = 256  # characters; a table of words takes as much for each as its longest
MARKUP = re.compile(r"[\\`*<>|\[\]&]")
# Control characters, line ends, marks that turn the direction of writing round, halves of a pair.
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with what would steer a terminal or turn a line round written out, such as \\x1b."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def check_names(names: Iterable[str], what: str) -> None:
    """Raises ValueError for a name that is too long or has characters that cannot be seen.

    Args:
        names: of things of a kind.
        what: the kind, such as "class".
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
    """`text` as Markdown shows it as it is: in one line, no markup, no end of a table's cell."""
    return MARKUP.sub(r"\\\g<0>", visible(text))


def plain(text: str, longest: int = IN_FIGURES) -> str:
    """`text` for matplotlib: no formula between dollars, nothing that steers, not too long."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return visible(cut).replace("$", r"\$")
