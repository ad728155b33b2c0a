"""The names of a C header and the comment at its top."""

import re
from dataclasses import dataclass

from rnnopt.config.version import VERSION
from rnnopt.tasks.names import visible

MARK = "/* rnnopt:"  # begins each header, so that no other file is taken for one


@dataclass(frozen=True)
class Description:
    """What the comment at the top of a header says.

    Args:
        run: the run that the network comes from.
        inputs: name of each input.
        outputs: meaning of each output.
    """

    run: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def identifier(text: str) -> str:
    """`text` as the beginning of C names: letters and digits, with single underscores."""
    name = re.sub("[^A-Za-z0-9]+", "_", text).strip("_")
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")


def comment(name: str, kind: str, pool: int, about: Description, memory: str) -> str:
    """The comment: what the network is, how to use it, its sizes, inputs and outputs.

    Args:
        name: beginning of the names in the header.
        kind: what network it is.
        pool: steps of which the network takes the mean.
        about: where it comes from, and its inputs and outputs.
        memory: a sentence about its sizes.
    """
    lines = [
        f"{kind}; inputs: {len(about.inputs)}, outputs: {len(about.outputs)}.",
        f"Written by rnnopt {VERSION} from {about.run}.",
        "",
        "Use, in C99 or C++ (link with -lm):",
        "",
        *(f"    {line}" for line in usage(name, pool)),
        "",
        memory,
        "",
        *(f"x[{i}]: {one}" for i, one in enumerate(about.inputs)),
        *(f"y[{i}]: {one}" for i, one in enumerate(about.outputs)),
    ]
    text = "\n".join(f"   {_harmless(line)}".rstrip() for line in lines)
    return f"{MARK} {text.lstrip()} */"


def usage(name: str, pool: int) -> list[str]:
    """Lines of C that use a header whose names begin with `name`."""
    lines = [
        f"static {name}_state state;",
        f"float x[{name}_inputs], y[{name}_outputs];",
        f"{name}_reset(&state);  // begins a series",
        "while (read_sensor(x))  // raw values, as in the training data",
    ]
    step = f"{name}_step(x, &state, y)"
    if pool == 1:
        return [*lines, f"    {step};  // y: the answer to the series so far"]
    return [
        *lines,
        f"    if ({step}) use(y);  // every {pool} steps: the answer to the series so far",
        f"if ({name}_end(&state, y)) use(y);  // at the end, if less than {pool} steps are left",
    ]


def _harmless(text: str) -> str:
    """Text that neither ends a comment nor makes a compiler warn of one."""
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", visible(text))
