"""The paper's grid search: learning rate, batch size and decay factor on validation data."""

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rnnopt.config import seeds
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.reproduce.engine import (
    Tell,
    configure,
    grid_of,
    place,
    read_run,
    run_study,
)
from rnnopt.experiments.reproduce.frank_wolfe.methods import ours, row
from rnnopt.experiments.reproduce.results import Table, write_table
from rnnopt.experiments.reproduce.study import Column, Form, Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (2e-5, 2e-4, 6e-4, 1e-3)
BATCHES = (32, 64, 128, 256, 512)
DECAYS = (0.1, 0.5, 0.9)


def setting(batch: int, decay: float) -> Row:
    """A row of the grid: batch size and decay factor."""
    return row(f"batch {batch}, decay {decay}", ours(5), batch_size=batch, decay=decay)


ROWS = tuple(setting(batch, decay) for decay in DECAYS for batch in BATCHES)
GRID = Study(
    name="frank-wolfe/grid",
    title="the paper's 60 settings of K=5, p=2 on activity windows",
    claim="a grid search over learning rate, batch size and decay factor on validation data, whose"
    " outcome is not given.",
    rows=ROWS,
    forms={
        "cpu": Form(
            (Column("HAR-2", "hapt2"),),
            "20epochs",
            "20epochs",
            RATES,
            seeds=(),
            widen=False,
            settings=dict(schedule="plateau", patience=4.0),
        ),
        "full": Form(
            (Column("HAR-2", "har2"),),
            "300epochs",
            "300epochs",
            RATES,
            seeds=(),
            widen=False,
            settings=dict(schedule="plateau", patience=20.0),
        ),
        "quick": Form(
            (Column("HAR-2", "hapt2"),),
            "2gradients",
            "2gradients",
            RATES[-2:],
            seeds=(),
            widen=False,
            settings=dict(schedule="plateau", patience=1.0),
            rows=tuple(row.label for row in (setting(32, 0.5), setting(64, 0.5))),
        ),
    },
)


def run(
    form_name: str, out: Path, engine: Engine, tell: Tell, stop: threading.Event
) -> tuple[list[Table], list[str]]:
    """Trains every setting once and writes the table and a map of the validation accuracy."""
    form = GRID.forms[form_name]
    failures = run_study(GRID, form, out, engine, tell, stop)
    return ([] if stop.is_set() else _write(form, out)), failures


def _write(form: Form, out: Path) -> list[Table]:
    """Writes the table and the map of the existing runs."""
    column, found = form.columns[0], {}
    for r in GRID.rows:
        for rate in grid_of(form, r):
            path = place(out, column, r, configure(form, column, r, rate, seeds.TUNING))
            if (path / "config.json").exists():
                found[(r.label, rate)] = read_run(path)
    rows = []
    for (label, rate), one in sorted(found.items(), key=lambda item: item[1].rank, reverse=True):
        best = one.result.get("best") or {}
        accuracy = 100 * best.get("validation_metric", math.nan)
        rows.append(
            [f"{label}, lr {rate:g}", f"{accuracy:.2f}", one.result["status"],
             f"{one.result.get('seconds', math.nan):.0f}"]
        )  # fmt: skip
    best_of = {k: r.result.get("best") or {} for k, r in found.items()}
    drawn = _map(form, best_of) if any(best_of.values()) else None
    return write_table(
        out,
        f"{GRID.name}: {GRID.title}",
        ("setting", "best validation accuracy", "status", "seconds"),
        rows,
        [
            f"One run per setting (seed {seeds.TUNING}), as in the paper; the learning rate is"
            f" multiplied by the decay factor after {form.settings['patience']:g} epochs without a"
            " better validation accuracy (the paper gives no schedule).",
        ],
        drawn,
    )


def _map(form: Form, best: dict[tuple[str, float], dict[str, float]]) -> "Figure":
    """Validation accuracy over learning rate and batch size, one panel per decay factor."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(f"{GRID.name}: best validation accuracy, %")
    rates = list(form.rates)
    values = np.array(
        [
            [
                [
                    100 * best.get((setting(batch, decay).label, rate), {}).get(
                        "validation_metric", math.nan
                    )
                    for rate in rates
                ]
                for batch in BATCHES
            ]
            for decay in DECAYS
        ]
    )  # fmt: skip
    low, high = np.nanmin(values), np.nanmax(values)
    axes = figure.subplots(1, len(DECAYS), sharey=True)
    for axis, decay, table in zip(axes, DECAYS, values, strict=True):
        image = axis.imshow(table, aspect="auto", cmap="viridis", vmin=low, vmax=high)
        axis.set_title(f"decay factor {decay}")
        axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axis.set_yticks(range(len(BATCHES)), [str(batch) for batch in BATCHES])
        axis.set_xlabel("learning rate")
        for i, line in enumerate(table):
            for j, value in enumerate(line):
                if np.isfinite(value):
                    dark = value < (low + high) / 2
                    axis.text(
                        j, i, f"{value:.1f}", ha="center", va="center",
                        color="white" if dark else "black", fontsize=9,
                    )  # fmt: skip
    axes[0].set_ylabel("batch size")
    figure.colorbar(image, ax=list(axes))
    return figure
