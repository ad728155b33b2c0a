"""Finds the checkpoint to resume from: the last one that is intact, with its metrics."""

import json
from pathlib import Path
from typing import Any

import torch

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.checksums import Damaged, unpack
from rnnopt.runs.metrics import NAME as METRICS
from rnnopt.runs.metrics import History, read_history

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
# Keys of a checkpoint: the run's config as JSON, and the gradient evaluations at the last line.
SETTINGS, LAST_EVALUATION = "config", "last_look"


def last_good(
    path: Path, required: bool, config: RunConfig
) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint to resume from, None before any; and the damage of one that was skipped.

    Args:
        path: the run folder.
        required: whether its files must have checksums.
        config: config of the run.

    Raises:
        UserError: no checkpoint is intact, or one belongs to another run.
    """
    damage: list[str] = []
    for name in (CHECKPOINT, PREVIOUS):
        if not (path / name).exists():
            continue
        try:
            state = read_tensors(path / name, required)
            check_run(path, state, config)
            wrong = _mismatch(read_history(path, required), state)
            if wrong:
                raise Damaged(f"{path / METRICS}, {wrong}")
        except Damaged as error:
            damage.append(str(error))
            continue
        return state, damage
    if damage:
        raise UserError(f"{'; '.join(dict.fromkeys(damage))}: begin again with another --out.")
    lines = len(read_history(path, required).records)
    if lines > 1:  # the first is written before the first checkpoint
        raise UserError(
            f"{path} must have {CHECKPOINT}, for {METRICS} has {lines} lines, got none: begin"
            " again with another --out."
        )
    return None, []


def _mismatch(history: History, state: Any) -> str:
    """How the lines differ from those before a checkpoint; "" if they match."""
    count = evaluations_before(state)
    lack = history.lack(count)
    if lack or not count:
        return lack
    last = state.get(LAST_EVALUATION)  # missing in older checkpoints
    found = history.records[count - 1].get("gradient_evaluations")
    if last is None or found == last:
        return ""
    return f"line {count} must be of {last} gradients, got {found}"


def read_tensors(path: Path, required: bool, device: torch.device | None = None) -> dict[str, Any]:
    """Reads a file of `pack`.

    Raises:
        Damaged: the file cannot be read, or is not what was written.
    """
    try:
        return unpack(path.read_bytes(), required, device)
    except (OSError, Damaged) as error:
        raise Damaged(f"{path} is not a readable checkpoint: {error}") from error


def check_run(path: Path, state: Any, config: RunConfig) -> None:
    """Raises UserError if a checkpoint belongs to a run with other settings."""
    settings = state.get(SETTINGS) if isinstance(state, dict) else None
    if settings is None:
        return
    try:
        same = RunConfig.from_dict(json.loads(settings)) == config
    except (TypeError, ValueError, AttributeError, RecursionError, UserError):
        same = False
    if not same:
        raise UserError(
            f"{path / CHECKPOINT} is not a checkpoint of this run: its settings are not those of"
            f" {path / 'config.json'}."
        )


def evaluations_before(state: Any) -> int:
    """Number of evaluations before a checkpoint; 0 if invalid, which loading it will report."""
    count = state.get("records") if isinstance(state, dict) else 0
    return count if isinstance(count, int) else 0
