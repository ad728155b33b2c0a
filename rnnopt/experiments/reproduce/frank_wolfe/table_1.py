"""Table I: sizes of the data sets. Nothing is trained."""

import threading
from pathlib import Path

from rnnopt.config.errors import UserError
from rnnopt.experiments.reproduce.engine import Tell
from rnnopt.experiments.reproduce.results import Table, write_table
from rnnopt.tasks import Task, build_task
from rnnopt.tasks.examples import Examples

# Name in the paper, task here, and the printed sizes: train, test, steps, features.
PRINTED: tuple[tuple[str, str, tuple[int, ...] | None], ...] = (
    ("HAR-2", "har2", (7352, 2947, 128, 9)),
    ("Noisy-HAR-2", "noisy-har2", (7352, 2947, 128, 9)),
    ("Pixel-MNIST", "mnist-pixels", (60000, 10000, 784, 1)),
    ("Permute-MNIST", "mnist-permuted", (60000, 10000, 784, 1)),
    ("HAPT windows (not in the paper)", "hapt2", None),
    ("noisy HAPT windows (not in the paper)", "noisy-hapt2", None),
)
QUICK = ("hapt2", "noisy-hapt2")
HEADINGS = (
    "data", "published", "train + validation, test, steps, features", "mean, deviation",
    "majority",
)  # fmt: skip


def statistics(task: Task) -> list[str]:
    """Sizes and moments of a task, as the table's cells."""
    if not isinstance(task.train, Examples):
        raise TypeError(f"{task.name} generates its sequences: it has no sizes.")
    targets = task.test.targets.flatten()
    majority = max(float((targets == c).float().mean()) for c in targets.unique())
    mean, deviation = float(task.train.inputs.mean()), float(task.train.inputs.std())
    return [
        f"{len(task.train)} + {len(task.validation)}, {len(task.test)}, {task.steps},"
        f" {task.input_size}",
        f"{mean:.3f}, {deviation:.3f}",
        f"{100 * majority:.2f} %",
    ]


def run(form: str, out: Path, tell: Tell, stop: threading.Event) -> tuple[list[Table], list[str]]:
    """Writes the table; for a missing data set it names the reason."""
    rows: list[list[str]] = []
    remarks = [
        "Published: training and test sequences, steps, features. Mean and deviation are those"
        " of the network's training inputs. Noise is added after normalisation, so noisy data"
        " have √(1 + 2). Majority: share of the largest class in the test data."
    ]
    for label, name, printed in PRINTED:
        if form == "quick" and name not in QUICK:
            continue
        numbers = "–" if printed is None else ", ".join(map(str, printed))
        try:
            rows.append([label, numbers, *statistics(build_task(name))])
        except UserError as error:
            rows.append([label, numbers, "not here", "–", "–"])
            remarks.append(f"{label} is not here: {error}")
    tables = write_table(
        out,
        "frank-wolfe/table-1: sizes of the data sets",
        HEADINGS,
        rows,
        remarks,
    )
    return tables, []
