"""The angle between the gradient and the Frank-Wolfe direction, over 200 epochs of HAR-2.

The paper: "within ±45°, mean -4.19°, std 0.51°", in support of its assumption A5. Angles above two
dimensions have no sign, so ours are unsigned: arccos ⟨g, -Δω⟩ / (‖g‖ ‖Δω‖), all weights as one
vector, g the gradient of the first inner minibatch. With K = 1, p = 2 and one ball for all weights
the angle is 0 by construction.
"""

import math
import statistics
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.diagnostics.step_direction import StepDirectionRecorder
from rnnopt.experiments.reproduce.engine import Tell
from rnnopt.experiments.reproduce.results import Table, write_table
from rnnopt.runs.files import read_json, write_json
from rnnopt.training.build import build_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "frank-wolfe/a5-angle"
TITLE = "angle between the gradient and the Frank-Wolfe direction"
FORMS = {
    "cpu": ("hapt2", "200epochs"),
    "full": ("har2", "200epochs"),
    "quick": ("hapt2", "60gradients"),
}
INNER_STEPS, BALLS = (1, 5, 10), ("global", "tensor")


def measure(task: str, budget: str, inner_steps: int, ball: str, stop: threading.Event) -> Any:
    """Angles and ratios of one training run at lr 1e-3; None if it was interrupted."""
    optimizer = f"frank-wolfe:norm=2,outer=adam,scale=norm,momentum=0,inner_steps={inner_steps}"
    config = RunConfig(
        task=task, budget=budget, optimizer=f"{optimizer},ball={ball}", lr=1e-3, schedule="constant"
    )
    training = build_training(config)
    with StepDirectionRecorder(training.optimizer) as directions:
        for _ in training.run(stop.is_set):
            pass
    if training.status == "interrupted":
        return None
    records = [r for r in directions.records if math.isfinite(r["angle"] + r["ratio"])]
    if len(records) < 2:
        raise UserError(f"{task} for {budget} has too few steps with a direction: {len(records)}.")
    best = training.best["validation_metric"]
    return dict(
        angles=[r["angle"] for r in records], ratios=[r["ratio"] for r in records], best=best
    )


def label(inner_steps: int, ball: str) -> str:
    """A setting in words."""
    return f"K={inner_steps}, one ball" + (" a tensor" if ball == "tensor" else "")


def run(form: str, out: Path, tell: Tell, stop: threading.Event) -> tuple[list[Table], list[str]]:
    """Measures what is missing, in this process, and writes the table and the histograms."""
    task, budget = FORMS[form]
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for inner_steps in INNER_STEPS:
        for ball in BALLS:
            path = out / f"angles-{task}-K{inner_steps}-{ball}-{budget}.json"
            if not path.exists():
                measured = measure(task, budget, inner_steps, ball, stop)
                if measured is None:
                    return [], []
                write_json(path, measured)
            found[(inner_steps, ball)] = read_json(path)
    rows = []
    for (inner_steps, ball), one in found.items():
        angles = one["angles"]
        ratio = statistics.median(one["ratios"])
        share = 100 * statistics.mean(a <= 45 for a in angles)
        rows.append(
            [label(inner_steps, ball),
             f"{statistics.mean(angles):.2f}", f"{statistics.stdev(angles):.2f}",
             f"{max(angles):.1f}", f"{share:.1f}", f"{ratio:.3g}", str(len(angles))]
        )  # fmt: skip
    rows.insert(
        0, ["printed (K, ball not given)", "-4.19 (signed)", "0.51", "≤ 45", "100", "–", "–"]
    )
    tables = write_table(
        out,
        f"{NAME}: {TITLE} ({task}, {budget})",
        ("setting", "mean angle, degrees", "standard deviation", "largest", "share ≤ 45°, %",
         "median of ‖g + Δω‖ / ‖Δω‖", "steps"),
        rows,
        [
            "p = 2, radius tied to lr 1e-3, Adam outside, batch 64. Angles are unsigned.",
            "A5 requires a ratio ‖g + Δω‖ / ‖Δω‖ of at most √(1 - Lη) < 1; an angle below 45°"
            " alone does not verify it.",
        ],
        _figure(found),
    )  # fmt: skip
    return tables, []


def _figure(found: dict[tuple[int, str], dict[str, list[float]]]) -> "Figure":
    """Histograms of the angles, and the angles over the training."""
    from matplotlib.figure import Figure

    from rnnopt.report.style import COLORS

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{NAME}: {TITLE}")
    for i, ((inner_steps, ball), one) in enumerate(found.items()):
        angles = one["angles"]
        right.hist(
            angles, bins=60, range=(0, 120), histtype="step", color=COLORS[i],
            label=label(inner_steps, ball),
        )  # fmt: skip
        width = max(1, len(angles) // 100)
        means = [statistics.mean(angles[j : j + width]) for j in range(0, len(angles), width)]
        at = [100 * (j + 0.5) / len(means) for j in range(len(means))]
        left.plot(at, means, color=COLORS[i])
    for axis, mark in ((left, left.axhline), (right, right.axvline)):
        mark(45, color="#666666", linewidth=1, linestyle="--")
        axis.grid(alpha=0.3)
    left.set_xlabel("share of training, %")
    left.set_ylabel("angle, degrees (mean of a hundredth)")
    right.set_xlabel("angle, degrees (dashed: 45°)")
    right.set_ylabel("steps")
    right.set_yscale("log")
    right.legend(frameon=False, fontsize=9)
    return figure
