"""Whether what saved files say has the form that is needed.

A folder may come from anybody, and JSON holds anything where a number is expected.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from rnnopt.config.errors import UserError, unknown_name

T = TypeVar("T")

Count = Annotated[int, Meta(ge=1, lt=2**53, description="a whole number of at least 1")]
NotNegative = Annotated[int, Meta(ge=0, lt=2**53, description="a whole number of at least 0")]
Finite = Annotated[
    float, Meta(ge=-sys.float_info.max, le=sys.float_info.max, description="a finite number")
]
Positive = Annotated[
    float, Meta(gt=0, le=sys.float_info.max, description="a positive finite number")
]
# A number that float64 holds, NaN and infinity among them.
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float
Numbers = dict[str, Number]
NEEDED = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path",
    NoneType: "null",
}  # fmt: skip


class Result(TypedDict, total=False):
    """What reports need of result.json; it may say more."""

    status: str
    metric: str
    loss: str
    summary: str
    target: Number
    seconds: Number
    gradient_evaluations: Number
    test_loss: Number
    test_metric: Number
    constant_metric: Number
    no_better: str
    nonfinite: Number
    best: Numbers | None
    to_target: Numbers | None
    test_scores: dict[str, Numbers]


def converted(value: Any, kind: type[T], name: str) -> T:
    """What `name` is, read from JSON, as a `kind`.

    Raises:
        UserError: it is of another type.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
        raise UserError(f"{name} must be {needed(kind)}, got {shown(value)}.") from error


def needed(kind: Any) -> str:
    """A type in words."""
    kinds = get_args(kind)
    match get_origin(kind):
        case None:
            return NEEDED.get(kind, "an object")
        case origin if origin is Annotated:
            return getattr(kinds[1], "description", None) or needed(kinds[0])
        case origin if origin is Literal:
            return " or ".join(map(repr, kinds))
        case origin if origin is dict:
            return f"an object, each value {needed(kinds[1])}"
        case origin if origin in (Union, UnionType):
            words = [needed(one) for one in kinds]
            if "a number" in words and "a whole number" in words:
                words.remove("a whole number")
            return " or ".join(words)
        case _:
            return f"a list, each value {needed(kinds[0])}"


def checked(saved: Any, kind: type[T], what: str) -> T:
    """An object of JSON as a dataclass or typed dictionary, of which it must have no other fields.

    Raises:
        UserError: which field is wrong, what is needed and what was got.
    """
    hints = get_type_hints(kind, include_extras=True)
    for name, value in converted(saved, dict[str, Any], what).items():
        if name not in hints:
            raise unknown_name(f"field of {what}:", name, hints)
        converted(value, hints[name], name)
    return converted(saved, kind, what)


def checked_result(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result of a run, if words are words and figures numbers.

    Raises:
        UserError: what is not.
    """
    known = {name: result[name] for name in Result.__annotations__ if name in result}
    try:
        best = checked(known, Result, "result").get("best")
        if best and "validation_metric" not in best:
            raise UserError(f"best must have a validation_metric, got {shown(best)}.")
    except UserError as error:
        raise UserError(f"{folder / 'result.json'}: {error}") from error
    return result


def checked_records(records: Sequence[Any], folder: Path) -> list[dict[str, float]]:
    """The history of a run, if every figure in it is a number.

    Raises:
        UserError: what is not.
    """
    for number, record in enumerate(records, start=1):
        converted(record, Numbers, f"{folder / 'metrics.jsonl'}: line {number}")
    return list(records)


def shown(value: object) -> str:
    """A value, short enough for a sentence."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else text[:59] + "…"
