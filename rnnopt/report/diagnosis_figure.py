"""The figure of a diagnosis: heat maps of ‖dL/dh_t‖ over training, and what else was measured."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rnnopt.report.style import COLORS
from rnnopt.tasks.names import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS = 4  # heat maps that there is room for
CURVES = 5  # snapshots whose curvature is drawn

Snapshot = dict[str, Any]
Record = dict[str, float]


def figure(
    snapshots: Sequence[Snapshot],
    records: Sequence[Record],
    directions: Sequence[Record],
    title: str,
) -> "Figure":
    """Heat maps of up to four layers; spectral radius, saturation, loss, noise, angle, curvature.

    Args:
        snapshots, records, directions: of `Diagnosis`; at least one snapshot.
        title: above all.
    """
    from matplotlib.figure import Figure

    result = Figure(figsize=(13, 10), layout="constrained")
    result.suptitle(plain(title, 300), fontsize=11, wrap=True)
    parts: Any = result.subfigures(2, 1, height_ratios=(1, 1.6))
    upper, lower = parts
    names = list(snapshots[0]["layers"])
    last = len(names) - 1
    shown = names if last < MAPS else [names[i * last // (MAPS - 1)] for i in range(MAPS)]
    for axis, name in zip(upper.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _heat_map(axis, snapshots, name)
    axes = lower.subplots(2, 3)
    _spectra(axes[0][0], snapshots)
    _lines(axes[0][1], snapshots, "saturated", "saturated states, dead units")
    _losses(axes[0][2], snapshots, records)
    _noise(axes[1][0], snapshots)
    _angles(axes[1][1], snapshots, directions)
    for axis in axes.flat:
        axis.set_xlim(0, max(snapshots[-1]["gradient_evaluations"], 1))
    _curvature(axes[1][2], snapshots)
    axes[1][2].autoscale(axis="x")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, framealpha=0.6)
    return result


def _heat_map(axis: "Axes", snapshots: Sequence[Snapshot], name: str) -> None:
    """One layer's norms, time step against evaluations, the colour their logarithm."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    norms = np.array([snapshot["layers"][name]["norms"] for snapshot in snapshots], dtype=float).T
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log10(norms)
    colors = np.ma.masked_invalid(logarithms)
    places = [float(snapshot["gradient_evaluations"]) for snapshot in snapshots]
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    # A column reaches half way to its neighbours, the outer ones from 0 and to the last snapshot.
    left, right = 0.0, max(places[-1], 1.0)
    steps = np.arange(len(norms) + 1) + 0.5
    axis.set_facecolor("#cccccc")  # shows where there is no number, or zero
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("gradient evaluations")
    axis.set_ylabel("time step t")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    if colors.count():
        drawn = axis.pcolormesh([left, *middles, right], steps, colors, cmap="viridis")
        axis.figure.colorbar(drawn, ax=axis, label="log10 of the norm of dL/dh_t")
    else:
        axis.text(0.5, 0.5, "no gradient", transform=axis.transAxes, ha="center")


def _points(axis: "Axes", xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """A line through the points that are finite; none if there are none."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    if len(pairs) == 1:  # which makes no line
        style.setdefault("marker", ".")
    if pairs:
        axis.plot(*zip(*pairs, strict=True), **style)


def _lines(axis: "Axes", snapshots: Sequence[Snapshot], key: str, title: str) -> None:
    """A number of each layer over training."""
    at = [snapshot["gradient_evaluations"] for snapshot in snapshots]
    for i, name in enumerate(snapshots[0]["layers"]):
        values = [snapshot["layers"][name][key] for snapshot in snapshots]
        _points(axis, at, values, color=COLORS[i % len(COLORS)], marker=".", label=name)
    axis.set_ylabel(title)
    axis.set_xlabel("gradient evaluations")
    axis.set_ylim(-0.03, 1.03)


def _spectra(axis: "Axes", snapshots: Sequence[Snapshot]) -> None:
    """Spectral radius of each recurrent matrix; that of the gates of a layer in one colour."""
    at = [snapshot["gradient_evaluations"] for snapshot in snapshots]
    styles = ("-", "--", ":", "-.")
    several = len(snapshots[0]["spectra"]) > 1
    for i, (layer, matrices) in enumerate(snapshots[0]["spectra"].items()):
        for j, matrix in enumerate(matrices):
            values = [snapshot["spectra"][layer][matrix]["radius"] for snapshot in snapshots]
            gate = matrix.partition(".")[2] if len(matrices) > 1 else ""
            name = " ".join(filter(None, (layer if several or not gate else "", gate)))
            color = COLORS[(i if several else j) % len(COLORS)]
            style = styles[j % len(styles)] if several else "-"
            _points(axis, at, values, color=color, linestyle=style, label=name)
    axis.axhline(1, color="#666666", linewidth=1, linestyle=(0, (2, 2)))
    axis.set_ylabel("spectral radius")
    axis.set_xlabel("gradient evaluations")


def _losses(axis: "Axes", snapshots: Sequence[Snapshot], records: Sequence[Record]) -> None:
    at = [record["gradient_evaluations"] for record in records]
    for i, (key, name) in enumerate(
        (("train_loss", "training"), ("validation_loss", "validation"))
    ):
        _points(axis, at, [record[key] for record in records], color=COLORS[i], label=name)
    places = [snapshot["gradient_evaluations"] for snapshot in snapshots]
    style: dict[str, Any] = dict(color=COLORS[2], linestyle=":", label="fixed minibatch")
    _points(axis, places, [snapshot["loss"] for snapshot in snapshots], **style)
    axis.set_ylabel("loss")
    axis.set_xlabel("gradient evaluations")


def _noise(axis: "Axes", snapshots: Sequence[Snapshot]) -> None:
    from matplotlib.ticker import LogFormatter

    at = [snapshot["gradient_evaluations"] for snapshot in snapshots]
    _points(
        axis,
        at,
        [snapshot["noise"]["scale"] for snapshot in snapshots],
        color=COLORS[0],
        marker=".",
    )
    if axis.lines:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(LogFormatter())
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axis.set_ylabel("gradient noise scale, sequences")
    axis.set_xlabel("gradient evaluations")


def _angles(axis: "Axes", snapshots: Sequence[Snapshot], directions: Sequence[Record]) -> None:
    """Every step's angle, and the median since the last snapshot."""
    spent = snapshots[-1]["gradient_evaluations"]
    scale = spent / directions[-1]["step"] if directions else 1.0  # evaluations a step
    _points(
        axis,
        [record["step"] * scale for record in directions],
        [record["angle"] for record in directions],
        marker=".", linestyle="none", color=COLORS[5], markersize=3, label="a step",
    )  # fmt: skip
    at = [snapshot["gradient_evaluations"] for snapshot in snapshots]
    _points(
        axis, at, [snapshot["angle"] for snapshot in snapshots], color=COLORS[0], label="median"
    )
    axis.set_ylim(0, 185)
    axis.set_yticks(range(0, 181, 45))
    axis.set_ylabel("angle of step to gradient, degrees")
    axis.set_xlabel("gradient evaluations")


def _curvature(axis: "Axes", snapshots: Sequence[Snapshot]) -> None:
    """Curvature along the inner steps at a few snapshots, early ones pale."""
    from matplotlib.ticker import MaxNLocator

    last = len(snapshots) - 1
    chosen = sorted({i * last // (CURVES - 1) for i in range(CURVES)})
    for number, i in enumerate(chosen):
        values = [step["directional"] for step in snapshots[i]["curvature"]]
        shade = 0.25 + 0.75 * (number + 1) / len(chosen)
        label = f"at {snapshots[i]['gradient_evaluations']:g}"
        at = range(1, len(values) + 1)
        _points(axis, at, values, color=COLORS[0], alpha=shade, marker=".", label=label)
    drawn = [abs(step["directional"]) for i in chosen for step in snapshots[i]["curvature"]]
    drawn = [size for size in drawn if 0 < size < math.inf]
    if drawn and max(drawn) > 100 * min(drawn):
        axis.set_yscale("symlog", linthresh=max(drawn) / 1000)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("curvature along the inner step")
    axis.set_xlabel("inner step k in the ball")
