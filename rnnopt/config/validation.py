"""Whether what run folders say of their runs has the form that reports and predictions need.

A folder may come from anybody, and JSON holds anything where a number is expected.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError

WORDS = ("status", "metric", "loss", "summary")
FIGURES = ("target", "seconds", "gradient_evaluations", "test_loss", "test_metric", "nonfinite")
GROUPS = ("best", "to_target")  # of figures
BEST = "validation_metric"


def checked_result(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result of a run, if words are words and figures numbers.

    Raises:
        UserError: what is not.
    """
    place = folder / "result.json"
    for name in WORDS:
        if not isinstance(result.get(name, ""), str):
            raise UserError(f"{place}: {name} must be a word, got {shown(result[name])}.")
    for name in FIGURES:
        if name in result and not is_number(result[name]):
            raise UserError(f"{place}: {name} must be a number, got {shown(result[name])}.")
    for name in GROUPS:
        group = result.get(name) or {}
        if not isinstance(group, dict) or not all(map(is_number, group.values())):
            raise UserError(f"{place}: {name} must hold numbers by name, got {shown(group)}.")
    if result.get("best") and BEST not in result["best"]:
        raise UserError(f"{place}: best must have a {BEST}, got {shown(result['best'])}.")
    return result


def checked_records(records: Sequence[Any], folder: Path) -> list[dict[str, float]]:
    """The history of a run, if every figure in it is a number.

    Raises:
        UserError: what is not.
    """
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not all(map(is_number, record.values())):
            raise UserError(
                f"{folder / 'metrics.jsonl'}: look {number} must hold numbers by name, got"
                f" {shown(record)}."
            )
    return list(records)


def is_number(value: object) -> bool:
    """Whether it is a number that float64 holds, NaN and infinity among them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def shown(value: object) -> str:
    """A value, short enough for a sentence."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else text[:59] + "…"


# -- data.json -------------------------------------------------------------------------------------

COUNTS = ("steps", "shortest", "longest", "subsample")
BY_CHANNEL = ("fill", "mean", "deviation")
BY_TARGET = ("target_mean", "target_deviation")
NAMES = ("channels", "classes")
CHOICES = {
    "kind": ("classification", "regression"),
    "missing": ("error", "zero", "mean", "interpolate"),
}


def check_preparation(saved: Any) -> None:
    """Raises ValueError unless a saved preparation has the form that `Preparation` needs."""
    if not isinstance(saved, dict):
        raise ValueError(f"preparation must be an object, got {shown(saved)}.")
    _check_known(saved, COUNTS + BY_CHANNEL + BY_TARGET + NAMES + (*CHOICES, "padded", "table"))
    for name in COUNTS:
        if type(saved.get(name)) is not int or not 1 <= saved[name] < 2**53:
            raise ValueError(f"{name} must be a whole number from 1, got {shown(saved.get(name))}.")
    for name in NAMES:
        if not _list_of(saved.get(name), str):
            raise ValueError(f"{name} must be a list of names, got {shown(saved.get(name))}.")
    for name in BY_CHANNEL + BY_TARGET:
        _check_numbers(name, saved.get(name), name in BY_CHANNEL, len(saved["channels"]))
    if len(saved["target_mean"]) != len(saved["target_deviation"]) and saved["target_mean"]:
        raise ValueError("target_mean and target_deviation must be as long.")
    for name, allowed in CHOICES.items():
        if saved.get(name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}.")
    if not isinstance(saved.get("padded"), bool):
        raise ValueError(f"padded must be true or false, got {shown(saved.get('padded'))}.")
    _check_table(saved.get("table"))


def _check_numbers(name: str, values: Any, by_channel: bool, channels: int) -> None:
    """One list of statistics; what is divided by must not be zero."""
    fine = isinstance(values, list | tuple) and all(map(is_number, values))
    if not fine or not all(map(math.isfinite, values)) or (by_channel and len(values) != channels):
        count = f"{channels} " if by_channel else ""
        raise ValueError(f"{name} must be a list of {count}numbers, got {shown(values)}.")
    if "deviation" in name and not all(value > 0 for value in values):
        raise ValueError(f"{name} must be above zero, got {shown(values)}.")


def _check_table(table: Any) -> None:
    """What the columns of a table were taken for; None where it was none."""
    if table is None:
        return
    if not isinstance(table, dict) or table.get("layout") not in ("wide", "long"):
        raise ValueError(f"table must have a layout, wide or long, got {shown(table)}.")
    _check_known(table, ("layout", "label", "id", "time", "steps", "dropped", "first"))
    for name in ("steps", "dropped"):
        if not _list_of(table.get(name), str):
            raise ValueError(f"{name} of the table must be names, got {shown(table.get(name))}.")
    for name in ("label", "id", "time"):
        if not isinstance(table.get(name), str | None):
            raise ValueError(f"{name} of the table must be a name, got {shown(table[name])}.")


def _check_known(saved: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = next((name for name in saved if name not in known), None)
    if unknown is not None:
        raise ValueError(f"{shown(unknown)} is nothing that a preparation has.")


def _list_of(values: Any, kind: type) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(one, kind) for one in values)
