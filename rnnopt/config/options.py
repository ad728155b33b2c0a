"""Options objects: what few users set of a constructor, in one frozen dataclass.

A constructor names it `options`, with an instance of a subclass of `Options` as the default. Texts
such as "asnaq:memory=8,lookahead=false" name arguments and fields alike, and for one release so do
keywords of the constructor.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar


@dataclass(frozen=True)
class Options:
    """Base of all options objects; `dict(**options)` has the fields by name."""

    removed: ClassVar[Mapping[str, Any]] = {}  # options that are gone, with the value all have now
    instead: ClassVar[Mapping[str, str]] = {}  # what to use in place of them, where there is advice

    def keys(self) -> list[str]:
        """Names of the fields."""
        return [field.name for field in fields(self)]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    @classmethod
    def drop_removed(cls, given: dict[str, Any]) -> None:
        """Takes out of `given` what is gone; ValueError unless it has the value that all have."""
        for name, value in cls.removed.items():
            if name in given and (got := given.pop(name)) != value:
                who = cls.__name__.removesuffix("Options")
                advice = f": {cls.instead[name]}" if name in cls.instead else ""
                raise ValueError(
                    f"{who} no longer has the option {name}, always {value!r} now, got"
                    f" {got!r}{advice}."
                )


Given = TypeVar("Given", bound=Options)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What can be named in a call, by name: fields stand in place of the options object."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(parameter.default, Options):
            for field, value in dict(**parameter.default).items():
                found[field] = parameter.replace(
                    name=field, default=value, kind=inspect.Parameter.KEYWORD_ONLY
                )
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found[name] = parameter
    return found


def options_of(function: Callable[..., Any]) -> Options | None:
    """The options object that a call uses unless told otherwise."""
    parameter = inspect.signature(function).parameters.get("options")
    default = None if parameter is None else parameter.default
    return default if isinstance(default, Options) else None


def call_flat(function: Callable[..., Any], *args: Any, **given: Any) -> Any:
    """function(*args, **given), where `given` may name fields of its options object as well.

    Raises:
        ValueError: for an option that is gone, unless it has the value that all have now.
    """
    options = options_of(function)
    if options is not None:
        given["options"] = _replaced(given.pop("options", options), given)[0]
    return function(*args, **given)


def with_moved(kind: type[Given], options: Given, keywords: dict[str, Any]) -> Given:
    """`options` with those keywords of a constructor that are fields now; takes them out.

    Warns if there are any.

    Raises:
        TypeError: for options of another kind.
        ValueError: as `call_flat`.
    """
    if type(options) is not kind:
        raise TypeError(f"options must be of type {kind.__name__}, got {options!r}.")
    options, moved = _replaced(options, keywords)
    if moved:
        names = ", ".join(f"{name}=…" for name in moved)
        warnings.warn(
            f"{names} as an argument is deprecated: write options={kind.__name__}({names}).",
            DeprecationWarning,
            stacklevel=3,
        )
    return options


def _replaced(options: Given, given: dict[str, Any]) -> tuple[Given, list[str]]:
    """`options` with what `given` has of its fields, which it loses, and their names."""
    options.drop_removed(given)
    moved = {name: given.pop(name) for name in dict(**options) if name in given}
    return replace(options, **moved), list(moved)
