"""The charts of a report: curves, time to target, performance profile, gradients through time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rnnopt.config.metric_names import ends_of, is_error
from rnnopt.report.best_weights import Findings
from rnnopt.report.statistics import Curve, mean_curve
from rnnopt.report.style import short
from rnnopt.runs.collection import Group, Run, facts_of

COSTS = {"gradient_evaluations": "gradient evaluations", "seconds": "training seconds"}
MOST_CELLS = 128  # of a layer's strip in the heat map


@dataclass(frozen=True)
class Chart:
    """What a chart shows; `figures` draws it.

    Args:
        title: what the y axis shows.
        x_label: what the x axis shows.
        summary: what the chart says, for those who cannot see it.
        lines: each with the number and the label of its group.
        log_x, log_y: which axes are logarithmic.
        y_range: ends of the y axis; None means those of the lines and the target.
        steps: lines go level to the next point, then up.
        target: to mark on the y axis; NaN for none.
    """

    title: str
    x_label: str
    summary: str
    lines: list[tuple[int, str, Curve]]
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None
    steps: bool = False
    target: float = math.nan


def curves(groups: Sequence[Group], numbers: dict[str, int]) -> list[Chart]:
    """Training loss and validation metric of a task against evaluations and against seconds.

    Args:
        groups: of the task.
        numbers: of the groups' lines, by label.
    """
    facts = facts_of(groups)
    metric = facts["metric"]
    # Of quantities that fall: their name, whether the axis is logarithmic, its ends, the target.
    panels: dict[str, tuple[str, bool, tuple[float, float] | None, float]] = {
        "train_loss": (f"training loss ({facts['loss']})", True, None, math.nan),
        "validation_metric": (
            f"validation {metric}",
            is_error(metric),
            ends_of(metric),
            facts["target"],
        ),
    }
    charts = []
    for quantity, (title, log, ends, target) in panels.items():
        for cost, unit in COSTS.items():
            means = [(group.label, curve_of(group, cost, quantity, log)) for group in groups]
            lines = [(numbers[label], label, curve) for label, curve in means if curve]
            said = [f"{label} ends at {curve.mean[-1]:.3g}" for _, label, curve in lines]
            summary = f"{title} against {unit}: {'; '.join(said)}."
            charts.append(
                Chart(title, unit, summary, lines, log_y=log, y_range=ends, target=target)
            )
    return charts


def curve_of(group: Group, cost: str, quantity: str, log: bool) -> Curve | None:
    """The mean over a group's runs, as in `mean_curve`."""
    return mean_curve([run.records for run in group.runs], cost, quantity, log)


def time_to_target(groups: Sequence[Group], numbers: dict[str, int]) -> list[Chart]:
    """Share of each group's runs that met the task's target, against what they had spent by then.

    The empirical distribution of the cost to the target; runs that missed it, or are not over,
    count as never. Empty where no run met it.
    """
    if not any(run.result.get("to_target") for run in _runs(groups)):
        return []
    charts = []
    for cost, unit in COSTS.items():
        ends = [record.get(cost, math.nan) for run in _runs(groups) for record in run.records]
        end = max((value for value in ends if math.isfinite(value)), default=0.0)
        lines, said = [], []
        for group in groups:
            spent = sorted(value for value in _costs(group, cost) if math.isfinite(value))
            shares = [(k + 1) / len(group.runs) for k in range(len(spent))]
            last = shares[-1] if shares else 0.0
            curve = Curve([0.0, *spent, max(end, *spent, 0.0)], [0.0, *shares, last])
            lines.append((numbers[group.label], group.label, curve))
            said.append(f"{group.label}: {len(spent)} of {len(group.runs)}")
        title = "share of runs at the target"
        summary = f"{title} against {unit}: {'; '.join(said)}."
        charts.append(Chart(title, unit, summary, lines, y_range=(0, 1), steps=True))
    return charts


def _runs(groups: Sequence[Group]) -> list[Run]:
    return [run for group in groups for run in group.runs]


def _costs(group: Group, cost: str) -> list[float]:
    """What each run of a group spent to meet its target; infinite for a miss."""
    return [(run.result.get("to_target") or {}).get(cost, math.inf) for run in group.runs]


@dataclass(frozen=True)
class Profile:
    """A performance profile: its chart, the groups in it, and on how many problems they were."""

    chart: Chart
    labels: list[str]
    problems: int


def profile(by_task: dict[str, list[Group]], numbers: dict[str, int]) -> Profile | None:
    """The performance profile over tasks, of Dolan and Moré (2002), in evaluations to the target.

    A problem is a task with a seed. The profile of a group at τ is the share of the problems on
    which it met the target with at most τ times the evaluations of the fastest group. Only groups
    with the same label on every task, and the problems that all of them have, take part.

    Returns:
        None unless two groups or more have two tasks or more in common.
    """
    if len(by_task) < 2:
        return None
    costs: dict[str, dict[tuple[str, int], float]] = {}
    for task, groups in by_task.items():
        for group in groups:
            spent = _costs(group, "gradient_evaluations")
            mine = {(task, r.config.seed): c for r, c in zip(group.runs, spent, strict=True)}
            costs.setdefault(group.label, {}).update(mine)
    labels = [name for name, mine in costs.items() if {task for task, _ in mine} == set(by_task)]
    if len(labels) < 2:
        return None
    problems = [p for p in costs[labels[0]] if all(p in costs[name] for name in labels)]
    if not problems:
        return None
    ratios: dict[str, list[float]] = {name: [] for name in labels}
    for problem in problems:
        # A target met before the first step is as good as met at it.
        spent = [max(1.0, costs[name][problem]) for name in labels]
        for name, one in zip(labels, spent, strict=True):
            ratios[name].append(one / min(spent) if math.isfinite(one) else math.inf)
    return Profile(_profile_chart(ratios, numbers, len(problems)), labels, len(problems))


def _profile_chart(ratios: dict[str, list[float]], numbers: dict[str, int], problems: int) -> Chart:
    finite = [r for mine in ratios.values() for r in mine if math.isfinite(r)]
    end = max(2.0, 1.1 * max(finite, default=1.0))
    lines, said = [], []
    for label, mine in ratios.items():
        solved = [r for r in mine if math.isfinite(r)]
        at = [1.0, *sorted(set(solved) - {1.0}), end]
        shares = [sum(r <= ratio for r in solved) / problems for ratio in at]
        lines.append((numbers[label], label, Curve(at, shares)))
        first = sum(r == 1 for r in solved)
        said.append(f"{label} is fastest on {first} of {problems} and solves {len(solved)}")
    title = "share of problems solved"
    unit = "gradients ÷ those of the fastest"
    summary = f"{'; '.join(said)}."
    return Chart(title, unit, summary, lines, log_x=True, y_range=(0, 1), steps=True)


@dataclass(frozen=True)
class Strip:
    """A layer's row in the heat map: of each cell a colour and what it stands for; its two ends."""

    layer: str
    cells: list[tuple[str, str]]
    first: str
    last: str

    @property
    def summary(self) -> str:
        """What the strip shows, for those who cannot see it."""
        return f"{self.layer}, norm of the gradient: {self.first}, {self.last}"


@dataclass(frozen=True)
class HeatMap:
    """Gradients through time of several networks, in one scale of colours.

    Args:
        strips: of each network, by its label.
        scale: colours from the least norm to the greatest.
        low, high: the least norm and the greatest, as text.
    """

    strips: dict[str, list[Strip]]
    scale: list[str]
    low: str
    high: str


NO_NUMBER = "#808080"


def heat_map(findings: dict[str, Findings]) -> HeatMap | None:
    """Norms of dL/dh_t at every step of every layer, on a logarithmic scale; None without any."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    flows = {label: found.flow for label, found in findings.items() if found.flow}
    norms = [v for flow in flows.values() for row in flow.values() for v in row]
    positive = [v for v in norms if 0 < v < math.inf]
    if not positive:
        return None
    high = max(positive)
    low = max(min(positive), 1e-12 * high)  # further down, all is as good as nothing
    span = math.log(high / low) or 1.0
    colors = colormaps["cividis"]  # told apart with any colour vision, and in grey

    def color(norm: float) -> str:
        if not math.isfinite(norm):
            return NO_NUMBER
        share = math.log(max(norm, low) / low) / span
        return to_hex(colors(min(1.0, share)))

    strips = {
        label: [_strip(layer, row, color) for layer, row in flow.items()]
        for label, flow in flows.items()
    }
    scale = [to_hex(colors(i / 31)) for i in range(32)]
    return HeatMap(strips, scale, short(low), short(high))


def _strip(layer: str, norms: Sequence[float], color: Any) -> Strip:
    """A row of at most MOST_CELLS cells, each the geometric mean of its steps."""
    count = min(MOST_CELLS, len(norms))
    edges = [round(i * len(norms) / count) for i in range(count + 1)]
    cells = []
    for start, end in pairwise(edges):
        value = _geometric_mean(norms[start:end])
        steps = f"step {start + 1}" if end - start == 1 else f"steps {start + 1} to {end}"
        cells.append((color(value), f"{steps}: {short(value)}"))
    first, last = f"step 1: {short(norms[0])}", f"step {len(norms)}: {short(norms[-1])}"
    return Strip(layer, cells, first, last)


def _geometric_mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return math.exp(sum(math.log(max(v, 1e-300)) for v in values) / len(values))
