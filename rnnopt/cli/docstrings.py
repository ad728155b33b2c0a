"""What docstrings say of arguments, so that help and `rnnopt list` need no texts of their own."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from docstring_parser import parse

AS_IN = re.compile(r"as in `(\w+)`")


def without_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function or class below functools.partial."""
    while isinstance(function, partial):
        function = function.func
    return function


def arguments_of(
    function: Callable[..., Any], others: Mapping[str, Callable[..., Any]] | None = None
) -> dict[str, str]:
    """What the docstring of a function or class says of each argument, each in one line.

    A class has the texts of the classes that it is made from, too.

    Args:
        function: or class, or a partial of one.
        others: by name; where a text is "as in `Other`", that of Other takes its place.
    """
    function = without_partial(function)
    texts: dict[str, str] = {}
    for one in reversed(function.__mro__) if isinstance(function, type) else (function,):
        for argument in parse(inspect.cleandoc(one.__doc__ or "")).params:
            text = " ".join((argument.description or "").split())
            for name in re.split(r", *", argument.arg_name):
                texts[name] = _followed(name, text, others or {})
    return texts


def _followed(name: str, text: str, others: Mapping[str, Callable[..., Any]]) -> str:
    """The text that `text` stands for."""
    found = AS_IN.fullmatch(text.rstrip("."))
    if found is None or found[1] not in others:
        return text
    return arguments_of(others[found[1]], others).get(name, text)


def summary_of(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (without_partial(function).__doc__ or "").strip().partition("\n")[0]


def description_of(function: Callable[..., Any]) -> str:
    """A docstring before its sections, a paragraph a line."""
    found = parse(inspect.cleandoc(function.__doc__ or "")).description or ""
    return "\n\n".join(" ".join(part.split()) for part in found.split("\n\n"))


def examples_of(function: Callable[..., Any]) -> list[str]:
    """The lines of a docstring's section of examples."""
    parts = parse(inspect.cleandoc(function.__doc__ or "")).examples
    return [line.strip() for part in parts for line in (part.description or "").splitlines()]
