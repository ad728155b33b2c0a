"""The subject of Theorems 1 to 3: Lagrangian, residuals and change of ADMM on one batch."""

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnopt.admm.lagrangian import Variables
from rnnopt.admm.network import read_weights
from rnnopt.admm.options import ADMMOptions
from rnnopt.admm.trainer import ADMM
from rnnopt.experiments.reproduce.engine import Tell
from rnnopt.experiments.reproduce.results import Table, write_table
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks import Batches, build_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, TITLE = "admm/convergence", "block-wise ADMM on one batch of MNIST rows"
PAPER = ADMMOptions(coupling=False, inner_penalty=1e-2)
VARIANTS: dict[str, dict[str, Any]] = {
    "blocks, backward": dict(variant="blocks"),
    "blocks, r = 10": dict(variant="blocks", proximal_weight=10.0),
    "blocks, parallel": dict(variant="blocks", options=ADMMOptions(order="parallel")),
    "blocks, multipliers at all steps": dict(
        variant="blocks", options=ADMMOptions(multipliers="all")
    ),
    "blocks, relaxed 1.5": dict(variant="blocks", options=ADMMOptions(relaxation=1.5)),
    "paper": dict(variant="paper", options=PAPER),
    "paper, r = 1": dict(variant="paper", proximal_weight=1.0, options=PAPER),
    "paper, r = 10": dict(variant="paper", proximal_weight=10.0, options=PAPER),
}
# Number of samples and of iterations.
SIZES = {"cpu": (200, 60), "full": (5000, 1000), "quick": (20, 3)}
DIVERGED = 1e3  # loss of a diverged network
HEADINGS = (
    "variant", "Lagrangian", "relative residuals of a, s, o", "relative dual residuals",
    "least change of θ squared",
    "loss, network", "loss, auxiliary o", "training accuracy, network, %",
)  # fmt: skip


def follow(options: dict[str, Any], samples: int, iterations: int) -> dict[str, list[float]]:
    """The course of one variant."""
    task = build_task("mnist-rows")
    batch = Batches(task, samples, seed=0).draw()
    torch.manual_seed(0)
    model = SequenceModel(task.input_size, task.hidden_size, task.output_size)
    trainer = ADMM(model, task.loss, keep_batch=True, **options)
    course: dict[str, list[float]] = {}
    before: list[Tensor] = []
    for _ in range(iterations):
        trainer.step(batch)
        now = [*read_weights(model)[0], *(trainer.state[name] for name in Variables._fields)]
        now = [t.clone() for t in now]
        report = trainer.report()
        if before:
            moved = (float((a - b).square().sum()) for a, b in zip(now, before, strict=True))
            report["change"] = sum(moved)
        before = now
        with torch.no_grad():
            answers = model(batch.inputs).argmax(-1)
        report["accuracy"] = 100 * float((answers == batch.targets).double().mean())
        for name, value in report.items():
            course.setdefault(name, []).append(value)
    return course


def run(form: str, out: Path, tell: Tell, stop: threading.Event) -> tuple[list[Table], list[str]]:
    """Writes the table of last values and the figure of courses."""
    samples, iterations = SIZES[form]
    courses = {}
    for label, options in VARIANTS.items():
        if stop.is_set():
            return [], []
        courses[label] = follow(options, samples, iterations)
    rows = []
    for label, course in courses.items():
        last = {name: values[-1] for name, values in course.items()}
        primal, dual = (
            ", ".join(f"{last[f'{kind}_{n}']:.1e}" for n in Variables._fields)
            for kind in ("residual", "dual")
        )
        rows.append(
            [label, f"{last['lagrangian']:.4g}", primal, dual, f"{min(course['change']):.2e}",
             f"{last['loss']:.4f}", f"{last['auxiliary_loss']:.4f}", f"{last['accuracy']:.1f}"]
        )  # fmt: skip
    remarks = [
        f"{samples} training images, {iterations} iterations, ν = ρ = 1 and r = 0.1 unless stated;"
        " paper: ν = 0.01 and the least r that cannot raise the Lagrangian, unless stated.",
        "The rate O(1/k) of Theorem 3 applies to the least squared change of θ, because its"
        " printed form is zero by definition.",
        "The auxiliary o has seen the label; the network's loss is the one that counts.",
    ]
    lost = [label for label, course in courses.items() if not course["loss"][-1] < DIVERGED]
    if lost:
        remarks.append(f"Diverged and not drawn: {'; '.join(lost)}.")
    drawn = {label: course for label, course in courses.items() if label not in lost}
    table = write_table(out, f"{NAME}: {TITLE}", HEADINGS, rows, remarks, _figure(drawn))
    return table, []


def _figure(courses: dict[str, dict[str, list[float]]]) -> "Figure":
    """Lagrangian, residuals, change and loss over iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7.5), layout="constrained")
    figure.suptitle(f"{NAME}: {TITLE}")
    names = {
        "lagrangian": "augmented Lagrangian",
        "residual": "relative primal residuals",
        "dual": "relative dual residuals",
        "change": "squared change of θ",
        "auxiliary_loss": "loss of the auxiliary o",
        "loss": "loss of the network",
    }
    for axis, (panel, name) in zip(figure.subplots(2, 3).flat, names.items(), strict=True):
        for label, course in courses.items():
            values = course.get(panel, [])
            if panel in ("residual", "dual"):
                parts = zip(*(course[f"{panel}_{n}"] for n in Variables._fields), strict=True)
                values = [math.sqrt(sum(r * r for r in three)) for three in parts]
            first = 2 if panel == "change" else 1
            axis.plot(range(first, first + len(values)), values, label=label)
        axis.set_ylabel(name)
        axis.set_xlabel("iteration")
        axis.set_yscale("symlog" if panel == "lagrangian" else "log")
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
