"""Which checkpoint of a run folder to go on from: the last that is whole, with its metrics."""

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
# What of a checkpoint holds the run's config, as JSON, and the evaluations at the last look.
SETTINGS, LAST_LOOK = "config", "last_look"


def last_good(
    path: Path, required: bool, config: RunConfig
) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint to go on from, None before any; and what is wrong with one passed over.

    Args:
        path: the run folder.
        required: whether its files must have checksums.
        config: the run's.

    Raises:
        UserError: there are checkpoints, but no good one, or one of another run.
    """
    damage: list[str] = []
    for name in (CHECKPOINT, PREVIOUS):
        if not (path / name).exists():
            continue
        try:
            state = read_tensors(path / name, required)
            check_run(path, state, config)
            wrong = _of_another_look(read_history(path, required), state)
            if wrong:
                raise Damaged(f"{path / METRICS}, {wrong}")
        except Damaged as error:
            damage.append(str(error))
            continue
        return state, damage
    if damage:
        raise UserError(f"{'; '.join(dict.fromkeys(damage))}: begin anew with another --out.")
    lines = len(read_history(path, required).records)
    if lines > 1:  # the first is written before the first checkpoint
        raise UserError(
            f"{path} must have {CHECKPOINT}, for {METRICS} has {lines} lines, got none: begin anew"
            " with another --out."
        )
    return None, []


def _of_another_look(history: History, state: Any) -> str:
    """How it shows that the lines are not those before a checkpoint; "" where they are."""
    looks = looks_before(state)
    lack = history.lack(looks)
    if lack or not looks:
        return lack
    last = state.get(LAST_LOOK)  # a checkpoint of before has none
    found = history.records[looks - 1].get("gradient_evaluations")
    if last is None or found == last:
        return ""
    return f"line {looks} must be of {last} gradients, got {found}"


def read_tensors(path: Path, required: bool, device: torch.device | None = None) -> dict[str, Any]:
    """What `pack` wrote to a file.

    Raises:
        Damaged: it cannot be read, or is not what was written.
    """
    try:
        return unpack(path.read_bytes(), required, device)
    except (OSError, Damaged) as error:
        raise Damaged(f"{path} is not a readable checkpoint: {error}") from error


def check_run(path: Path, state: Any, config: RunConfig) -> None:
    """Raises UserError if a checkpoint says that it is of a run with other settings."""
    settings = state.get(SETTINGS) if isinstance(state, dict) else None
    if settings is None:
        return
    try:
        same = RunConfig.from_dict(json.loads(settings)) == config
    except (TypeError, ValueError, AttributeError, RecursionError, UserError):
        same = False
    if not same:
        raise UserError(
            f"{path / CHECKPOINT} is no checkpoint of this run: its settings are not those of"
            f" {path / 'config.json'}."
        )


def looks_before(state: Any) -> int:
    """Looks at the validation set before a checkpoint; 0 for what is none, as training will say."""
    looks = state.get("records") if isinstance(state, dict) else 0
    return looks if isinstance(looks, int) else 0
