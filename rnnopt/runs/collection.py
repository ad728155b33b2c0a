"""Runs read from their folders, and groups of runs that differ only in the seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnopt.config.metric_names import lower_is_better
from rnnopt.config.run_config import RunConfig
from rnnopt.config.validation import checked_records, checked_result
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks.ranking import WORST, Rank, loss_of_best, rank


@dataclass(frozen=True)
class Run:
    """The contents of one run folder."""

    config: RunConfig
    records: list[dict[str, float]]
    result: dict[str, Any]
    path: Path

    @property
    def rank(self) -> Rank:
        """Rank among several runs: that of its best evaluation, if there is one."""
        best = self.result.get("best")
        if not best:
            return WORST
        lower = lower_is_better(self.result.get("metric"))
        return rank(best["validation_metric"], loss_of_best(best, self.records), lower)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, or in the fold of a cross-validation."""

    label: str
    runs: list[Run]


def read_runs(folders: Sequence[RunFolder]) -> list[Run]:
    """Reads the run folders.

    Raises:
        UserError: a folder has content that a run does not write.
    """
    return [
        Run(
            f.read_config(),
            checked_records(f.read_records(), f.path),
            checked_result(f.read_result(), f.path),
            f.path,
        )
        for f in folders
    ]


def group_runs(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """The groups of each task, in order of first appearance.

    A group's label is its optimizer and every other setting in which the task's groups differ. A
    task on which runs have different metrics is several, named with the metric: a table, and an
    axis, is of one.
    """
    metrics: dict[str, dict[str, None]] = {}
    for run in runs:
        metrics.setdefault(run.config.task, {})[run.result.get("metric", "metric")] = None
    by_task: dict[str, dict[tuple, list[Run]]] = {}
    for run in runs:
        settings = run.config.to_dict()
        del settings["seed"], settings["fold"]
        task = run.config.task
        if len(metrics[task]) > 1:
            task += f", {run.result.get('metric', 'metric')}"
        by_task.setdefault(task, {}).setdefault(tuple(settings.items()), []).append(run)
    result = {}
    for task, groups in by_task.items():
        columns = [set(values) for values in zip(*groups, strict=True)]
        differing = [next(iter(c))[0] for c in columns if len(c) > 1]
        labels = [_label(dict(settings), differing) for settings in groups]
        result[task] = [Group(*item) for item in zip(labels, groups.values(), strict=True)]
    return result


def _label(settings: dict[str, Any], differing: list[str]) -> str:
    extra = [
        f"{n}={settings[n]}" for n in differing if n != "optimizer" and settings[n] is not None
    ]
    return " ".join([settings["optimizer"], *extra])


def facts_of(groups: Sequence[Group]) -> dict[str, Any]:
    """Summary, loss, metric and target of the groups' task, as recorded in its runs."""
    facts: dict[str, Any] = dict(summary="", loss="loss", metric="metric", target=math.nan)
    for run in (run for group in groups for run in group.runs):
        facts |= {name: run.result[name] for name in facts if name in run.result}
    return facts
