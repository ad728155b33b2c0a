"""The report of a diagnosis: table, figure and file."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rnnopt.config.errors import UserError, writing
from rnnopt.config.run_config import RunConfig
from rnnopt.diagnostics.diagnosis import Diagnosis
from rnnopt.diagnostics.gradient_flow import finite_median
from rnnopt.diagnostics.overfitting import measured, overfitting
from rnnopt.diagnostics.verdict import THRESHOLDS, Finding, Snapshot, verdict
from rnnopt.report.style import any_script
from rnnopt.runs.files import finite, write_atomically

# -- table and file --------------------------------------------------------------------------------


def columns(snapshots: Sequence[Snapshot]) -> list[str]:
    """Headings of `rows`: the first, the middle and the last snapshot."""
    return [
        "what",
        *(f"at {snapshot['gradient_evaluations']:g}" for snapshot in _chosen(snapshots)),
    ]


def rows(snapshots: Sequence[Snapshot]) -> list[list[str]]:
    """The table as text, one row a quantity."""
    chosen = _chosen(snapshots)
    table = [["loss of a fixed minibatch", *(_text(snapshot["loss"]) for snapshot in chosen)]]
    for name in snapshots[0]["layers"]:
        layers = [snapshot["layers"][name] for snapshot in chosen]
        table.append([f"{name}: ‖dL/dh‖ first / last step", *(_text(x["ratio"]) for x in layers)])
        table.append([f"{name}: saturated share", *(f"{x['saturated']:.0%}" for x in layers)])
        for key, title in (("radius", "spectral radius"), ("norm", "spectral norm")):
            spectra = [snapshot["spectra"].get(name, {}).values() for snapshot in chosen]
            if all(spectra):
                values = [_text(max(s[key] for s in one)) for one in spectra]
                table.append([f"{name}: {title}", *values])
    table.append(["noise scale, sequences", *(_text(x["noise"]["scale"]) for x in chosen)])
    table.append(["angle of the steps to the gradient", *(_text(x["angle"], "°") for x in chosen)])
    curvature = [finite_median([step["directional"] for step in x["curvature"]]) for x in chosen]
    table.append(["curvature in the ball", *map(_text, curvature)])
    return table


def _chosen(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    places = sorted({0, len(snapshots) // 2, len(snapshots) - 1})
    return [snapshots[place] for place in places]


def _text(value: float, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:.3g}{unit}"


def create_folder(out: Path) -> None:
    """Makes the folder to write to, before the run, and refuses one that is in use.

    Raises:
        UserError: it holds a diagnosis or a run, or cannot be made.
    """
    if any((out / name).exists() for name in ("diagnosis.json", "config.json")):
        raise UserError(f"{out} already holds a diagnosis or a run: choose another --out.")
    with writing(f"the diagnosis to {out}"):
        out.mkdir(parents=True, exist_ok=True)


def write(diagnosis: Diagnosis, config: RunConfig, out: Path) -> tuple[list[Finding], list[Path]]:
    """Writes diagnosis.json and diagnosis.png into the folder `out`; the verdict and paths.

    Raises:
        UserError: the folder cannot be written.
    """
    from rnnopt.report.diagnosis_figure import figure

    training = diagnosis.training
    early = training.status == "stopped early" and training.to_target
    status = "reached target" if early else training.status
    found = verdict(diagnosis.snapshots, status, diagnosis.batch_size, config)
    both = measured(training)
    gap = None if both is None or training.status == "diverged" else overfitting(both, config)
    if gap is not None:
        found = [*(finding for finding in found if finding.kind != "healthy"), gap]
    content = dict(
        config=config.to_dict(),
        status=training.status,
        gradient_evaluations=training.closure.gradient_evaluations,
        batch_size=diagnosis.batch_size,
        thresholds=THRESHOLDS,
        verdict=[asdict(finding) for finding in found],
        looks=diagnosis.snapshots,
        directions=diagnosis.directions.records,
        records=diagnosis.records,
    )
    paths = [out / "diagnosis.json", out / "diagnosis.png"]
    image = io.BytesIO()
    title = f"{config.task}, {config.model}, {config.optimizer}: {found[0].kind}"
    drawn = figure(diagnosis.snapshots, diagnosis.records, diagnosis.directions.records, title)
    with any_script():
        drawn.savefig(image)
    with writing(f"the diagnosis to {out}"):
        write_atomically(paths[0], (json.dumps(finite(content)) + "\n").encode())
        write_atomically(paths[1], image.getvalue())
    return found, paths
