"""What earlier versions called things in run folders, and what they are called now.

A folder that version 0.1 wrote is read, reported on and resumed like a new one.
"""

import re
from collections.abc import Mapping
from typing import Any

# Lines of metrics.jsonl, result.json, trials of a sweep.
RECORD = {"evaluations": "gradient_evaluations"}
TRAINING = {"next_look": "next_evaluation"}  # of a checkpoint
NONFINITE = {"met": "skipped", "in_a_row": "consecutive"}  # of a checkpoint


def renamed(saved: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`saved` with its old keys replaced."""
    return {names.get(key, key): value for key, value in saved.items()}


def current_budget(text: str) -> str:
    """A budget as it reads now: 1500evaluations are 1500gradients."""
    return re.sub(r"evaluation(s?)\b", r"gradient\1", text)


def current_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings with their budgets as they read now, and lists for tuples, as in JSON."""
    saved = with_waiting(saved) if "schedule" in saved else saved
    saved = {name: [*v] if isinstance(v, tuple) else v for name, v in saved.items()}
    budgets = ("budget", "tune_budget")
    return {
        name: current_budget(value) if name in budgets and isinstance(value, str) else value
        for name, value in saved.items()
    }


def with_waiting(saved: Any) -> Any:
    """A saved config; of an earlier version without the patience that its schedule ignored, and
    without the batch normalisation that nobody had asked to leave out."""
    if not isinstance(saved, Mapping) or "metric" in saved:
        return saved
    schedule = str(saved.get("schedule", ""))
    kept = schedule.startswith("plateau") or "patience" not in saved
    saved = saved if kept else {**saved, "patience": None}
    unsaid = saved.get("batch_norm") is False and "stem" not in saved
    return {**saved, "batch_norm": None} if unsaid else saved
