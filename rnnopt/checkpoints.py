"""Which checkpoint of a run folder to go on from: the last that is whole, with its metrics."""

import json
from pathlib import Path
from typing import Any

import torch

from rnnopt.checksums import Damaged, unpack
from rnnopt.config import RunConfig
from rnnopt.errors import UserError
from rnnopt.metrics_file import NAME as METRICS
from rnnopt.metrics_file import read_history

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
SETTINGS = "config"  # what of a checkpoint holds the run's config, as JSON


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
            lack = read_history(path, required).lack(looks_before(state))
            if lack:
                raise Damaged(f"{path / METRICS}, {lack}")
        except Damaged as error:
            damage.append(str(error))
            continue
        return state, damage
    if damage:
        raise UserError(f"{'; '.join(damage)}: begin anew with another --out.")
    return None, []


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
