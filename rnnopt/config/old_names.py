"""What earlier versions called things in run folders, and what they are called now.

A folder that version 0.1 wrote is read, reported on and resumed like a new one.
"""

from collections.abc import Mapping
from typing import Any

RECORD = {"evaluations": "gradient_evaluations"}  # lines of metrics.jsonl, result.json
TRAINING = {"next_look": "next_evaluation"}  # of a checkpoint
NONFINITE = {"met": "skipped", "in_a_row": "consecutive"}  # of a checkpoint


def renamed(saved: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`saved` with its old keys replaced."""
    return {names.get(key, key): value for key, value in saved.items()}
