"""Results of a sweep: the best trials, the command that repeats the best one, two figures."""

import io
import math
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.metric_names import OF_LOSS, lower_is_better
from rnnopt.config.old_names import RECORD, renamed
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.database import quiet
from rnnopt.experiments.sweeps.spaces import Choices, Range, configure
from rnnopt.experiments.sweeps.study import Sweep
from rnnopt.report.figures import legend_below, log_axis
from rnnopt.report.style import COLORS
from rnnopt.runs.files import write_json
from rnnopt.runs.folder import write_atomically
from rnnopt.tasks.ranking import rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

GREY = "#8c8c8c"


def complete(study: "Study") -> "list[FrozenTrial]":
    """The complete trials, the best first; at the same metric, the lower loss first."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    lower = study.direction.name == "MINIMIZE"
    return sorted(
        trials,
        key=lambda t: rank(t.value or 0.0, t.user_attrs.get("validation_loss", math.inf), lower),
        reverse=True,
    )


def counts(study: "Study") -> dict[str, int]:
    """Numbers of complete, pruned, failed, running and waiting trials.

    Trials that were requeued or came too late do not count.
    """
    result = dict.fromkeys(("complete", "pruned", "failed", "running", "waiting"), 0)
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name != "FAIL":
            result[trial.state.name.lower()] += 1
        elif "error" in trial.user_attrs:
            result["failed"] += 1
    return result


def errors_of(study: "Study") -> list[str]:
    """One sentence for each trial that raised an error."""
    return [
        f"trial {trial.number}: {trial.user_attrs['error']}"
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name == "FAIL" and "error" in trial.user_attrs
    ]


def columns(sweep: Sweep) -> list[str]:
    """Headings of `row`."""
    loss = ["its loss"] if sweep.metric not in OF_LOSS else []  # otherwise the metric is the loss
    return ["trial", f"best validation {sweep.metric}", *loss, *sweep.space, "gradients"]


def row(sweep: Sweep, trial: "FrozenTrial") -> list[str]:
    """A complete trial as text."""
    values = [_shown(trial.params[name]) for name in sweep.space]
    spent = f"{renamed(trial.user_attrs, RECORD)['gradient_evaluations']:.6g}"
    found = trial.user_attrs.get("validation_loss")
    shown = "–" if found is None else f"{found:.4g}"
    loss = [shown] if sweep.metric not in OF_LOSS else []
    return [str(trial.number), f"{trial.value:.4g}", *loss, *values, spent]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else str(value)


def command_of(config: RunConfig) -> str:
    """The shell command that repeats a run."""
    words = ["rnnopt", "train"]
    for field in fields(RunConfig):
        value = getattr(config, field.name)
        if value == field.default or (field.name == "task" and config.data is not None):
            continue  # the data determine their task
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def best_of(sweep: Sweep, trial: "FrozenTrial") -> dict[str, Any]:
    """The content of best.json."""
    config = configure(sweep.config, trial.params)
    return {
        "trial": trial.number,
        "folder": trial.user_attrs["folder"],
        "metric": sweep.metric,
        "value": trial.value,
        "values": trial.params,
        "command": command_of(config),
        "config": config.to_dict(),
    }


def write_results(sweep: Sweep, study: "Study") -> list[Path]:
    """Writes best.json, slices.png and importance.png; returns the paths."""
    trials = complete(study)
    if not trials:
        return []
    paths = [sweep.out / "best.json"]
    write_json(paths[0], best_of(sweep, trials[0]))
    drawn = {"slices.png": slices(sweep, study)}
    shares = importances(study)
    if shares:
        drawn["importance.png"] = importance(sweep, shares, len(trials))
    for name, figure in drawn.items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=130)
        paths.append(sweep.out / name)
        write_atomically(paths[-1], picture.getvalue())
    return paths


def importances(study: "Study") -> dict[str, float]:
    """Share of each varied name in the variance of the metric (fANOVA); {} if it is unknown."""
    trials = complete(study)
    if len(trials) < 4 or len({trial.value for trial in trials}) < 2:
        return {}
    with quiet() as optuna:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return shares if all(map(math.isfinite, shares.values())) else {}


def importance(sweep: Sweep, shares: dict[str, float], trials: int) -> "Figure":
    """Bars of the shares, the greatest on top."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(7, 1.4 + 0.45 * len(shares)), layout="constrained")
    axis = result.subplots()
    names = sorted(shares, key=lambda name: shares[name])
    bars = axis.barh(names, [shares[name] for name in names], color=COLORS[0], height=0.6)
    axis.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=4)
    axis.set_xlim(0, 1.12)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.set_xlabel(f"share in the variance of the metric over {trials} complete trials (fANOVA)")
    axis.spines[["top", "right"]].set_visible(False)
    result.suptitle(f"{sweep.config.task}, {sweep.config.optimizer}: what mattered")
    return result


def slices(sweep: Sweep, study: "Study") -> "Figure":
    """The metric against each varied name: complete trials as dots, stopped ones as crosses."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(sweep.space)
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    size = (max(6.0, 4.0 * across + 0.8), 3.6 * down + 0.6)
    result = Figure(figsize=size, layout="constrained")
    axes = result.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis, name in zip(axes, names, strict=False):
        dots = _slice(axis, sweep, study, name)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    if lower_is_better(sweep.metric):
        log_axis(axes[0])
    for axis in axes[::across]:
        axis.set_ylabel(f"best validation {sweep.metric}")
    ticks = MaxNLocator(integer=True)
    result.colorbar(dots, ax=axes, label="trial", pad=0.01, aspect=40, ticks=ticks)
    legend_below(result, axes, ["complete", "stopped early", "best"], across=3)
    result.suptitle(f"{sweep.config.task}, {sweep.config.optimizer}")
    return result


def _slice(axis: "Axes", sweep: Sweep, study: "Study", name: str) -> Any:
    """Draws one panel; returns its dots, for the colour bar."""
    space = sweep.space[name]
    trials = complete(study)
    stopped = [t for t in study.get_trials(deepcopy=False) if t.state.name == "PRUNED"]
    stopped = [t for t in stopped if name in t.params and t.intermediate_values]
    best = min if lower_is_better(sweep.metric) else max
    bests = [best(t.intermediate_values.values()) for t in stopped]
    axis.scatter(
        [_place(space, t, name) for t in stopped], bests, marker="x", s=26, color=GREY,
        linewidths=1, label="stopped early",
    )  # fmt: skip
    dots = axis.scatter(
        [_place(space, t, name) for t in trials], [t.value or 0.0 for t in trials],
        c=[t.number for t in trials], cmap="viridis", s=34, edgecolors="white", linewidths=0.5,
        zorder=3, label="complete",
    )  # fmt: skip
    top = trials[0]
    axis.scatter(
        [_place(space, top, name)], [top.value or 0.0], s=110, facecolors="none",
        edgecolors=COLORS[1], linewidths=1.5, zorder=4, label="best",
    )  # fmt: skip
    if isinstance(space, Choices):
        axis.set_xticks(range(len(space.values)), [_shown(v) for v in space.values])
        axis.set_xlim(-0.5, len(space.values) - 0.5)
    elif space.log:
        axis.set_xscale("log")
    axis.set_xlabel(name)
    axis.grid(alpha=0.3)
    return dots


def _place(space: Range | Choices, trial: "FrozenTrial", name: str) -> float:
    """Position of a trial on the axis of `name`; equal choices are spread a little."""
    value = trial.params[name]
    if isinstance(space, Choices):
        return space.values.index(value) + (trial.number % 7 - 3) * 0.06
    return float(value)
