"""The verdict of a diagnosis: findings, the gravest first, each with advice.

THRESHOLDS defines vanishing, exploding and noisy. Values are medians over the snapshots; of several
layers the worst one counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rnnopt.config.run_config import MODELS, RunConfig
from rnnopt.config.specs import parse
from rnnopt.diagnostics.gradient_flow import finite_median

THRESHOLDS = {
    "vanishing": 1e-4,  # ‖dL/dh_1‖ / ‖dL/dh_T‖ below this
    "exploding": 1e4,  # the same above this
    "noisy": 10.0,  # noise scale above this many minibatches
}


ESTIMATES = 2  # least number of snapshots with an estimate of the noise scale


BOUNDED = ("rnn", "lstm", "gru")  # cells with states in -1 … 1


Snapshot = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One problem of a run, or the finding that it has none.

    Args:
        kind: "not finite", "learns", "exploding", "vanishing", "noisy", "overfits" or
            "healthy".
        sentence: the finding with its numbers.
        advice: what to try, the most promising first.
    """

    kind: str
    sentence: str
    advice: tuple[str, ...] = ()


def verdict(
    snapshots: Sequence[Snapshot], status: str, batch_size: int, config: RunConfig
) -> list[Finding]:
    """The problems of a run, the gravest first; one healthy finding if there is none.

    If a run reached its target, the first finding is that it learns. Snapshots in which noise hides
    the mean gradient give no estimate of the noise scale and do not enter its median.

    Args:
        snapshots: those of a `Diagnosis`, at least one.
        status: status with which the run ended.
        batch_size: sequences per minibatch of the run.
        config: config of the run, so that the advice leaves out what it already does.
    """
    found = [_not_finite(snapshots, status, config)]
    sound = [snapshot for snapshot in snapshots if _is_finite(snapshot)]
    learns = status == "reached target" and not found[0]
    if learns:
        found.append(Finding("learns", "learns: the run reached its target on validation data."))
    grave = len(found)
    if sound:
        ratios = {
            name: finite_median([snapshot["layers"][name]["ratio"] for snapshot in sound])
            for name in sound[0]["layers"]
        }
        high, low = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
        if ratios[high] > THRESHOLDS["exploding"]:
            found.append(_of_flow("exploding", "above", high, ratios[high], sound, config))
        if ratios[low] < THRESHOLDS["vanishing"]:
            found.append(_of_flow("vanishing", "below", low, ratios[low], sound, config))
        scales = [snapshot["noise"]["scale"] for snapshot in sound]
        scales = [scale for scale in scales if math.isfinite(scale)]
        scale = finite_median(scales) if len(scales) >= ESTIMATES else math.nan
        if scale > THRESHOLDS["noisy"] * batch_size:
            found.append(_noisy(scale, batch_size, config, learns))
        if not any(found[grave:]) and not found[0]:
            noise = f"is {scale:.3g} sequences at a batch size of {batch_size}"
            if math.isnan(scale):
                noise = (
                    f"has too few snapshots with an estimate ({len(scales)} of {len(snapshots)})"
                )
            sentence = (
                f"healthy: the gradient at the first step is {ratios[low]:.2g} of that at the last"
                f" in {low}, where it is weakest (median of {_count(sound)}), and the noise scale"
                f" {noise}."
            )
            found.append(Finding("healthy", sentence))
    return [finding for finding in found if finding]


def _is_finite(snapshot: Snapshot) -> bool:
    whole = all(layer["finite"] for layer in snapshot["layers"].values())
    return whole and math.isfinite(snapshot["loss"])


def _count(snapshots: Sequence[Snapshot]) -> str:
    return "1 snapshot" if len(snapshots) == 1 else f"{len(snapshots)} snapshots"


def _not_finite(snapshots: Sequence[Snapshot], status: str, config: RunConfig) -> Finding | None:
    bad = [snapshot["gradient_evaluations"] for snapshot in snapshots if not _is_finite(snapshot)]
    if not bad and status != "diverged":
        return None
    where = bad[0] if bad else snapshots[-1]["gradient_evaluations"]
    what = "the gradients" if bad else "the loss of the run"
    sentence = f"not finite: at {where:g} gradients {what} held NaN or infinity"
    sentence += f", and the run ended with status {status}."
    advice = ["a lower --lr", *_advice_exploding(config)]
    return Finding("not finite", sentence, tuple(advice))


def _of_flow(
    kind: str, side: str, name: str, ratio: float, snapshots: Sequence[Snapshot], config: RunConfig
) -> Finding:
    """Vanishing or exploding."""
    layers = [snapshot["layers"][name] for snapshot in snapshots]
    spectra = [snapshot["spectra"].get(name, {}).values() for snapshot in snapshots]
    radius = finite_median([max((s["radius"] for s in one), default=math.nan) for one in spectra])
    saturated = finite_median([layer["saturated"] for layer in layers])
    part = "states are saturated" if _kind(config) in BOUNDED else "units are dead"
    sentence = (
        f"{kind}: in {name} the gradient at the first step is {ratio:.2g} of that at the last"
        f" (median of {_count(snapshots)}; {side} {THRESHOLDS[kind]:g} counts as {kind}), the"
        f" spectral radius is {radius:.3g} and {saturated:.0%} of the {part}."
    )
    advice = _advice_vanishing(config) if kind == "vanishing" else _advice_exploding(config)
    if saturated > 0.5:
        advice.insert(0, "a lower --lr or smaller initial weights: such units pass nothing on")
    return Finding(kind, sentence, tuple(advice))


def _noisy(scale: float, batch_size: int, config: RunConfig, learns: bool) -> Finding:
    """A noisy finding; for a run that learns only a remark, because nothing needs a fix."""
    sentence = (
        f"the noise scale is {scale:.3g} sequences, {scale / batch_size:.3g} times the batch"
        f" size {batch_size} (median over the snapshots; above {THRESHOLDS['noisy']:g} times counts"
        " as noisy)"
    )
    if learns:
        return Finding("noisy", f"a remark: {sentence}, as is usual once little is left to learn.")
    sentence = f"noisy: {sentence}: one minibatch hardly shows where the loss falls."
    options = parse(config.optimizer)[1]
    advice = [f"--batch-size {4 * batch_size}"]
    if config.schedule == "constant":
        advice.append("--schedule cosine, which averages the noise out at the end")
    if not (
        parse(config.optimizer)[0].startswith("frank-wolfe") and options.get("inner_steps", 1) != 1
    ):
        advice.append("--optimizer frank-wolfe:inner_steps=5, which averages five minibatches")
    return Finding("noisy", sentence, (*advice, "a lower --lr"))


def _kind(config: RunConfig) -> str:
    """The cell: rnn, rnn-relu, lstm, gru or indrnn."""
    options = MODELS[config.model][0]
    cell = options.get("cell", "rnn")  # of auto, which is rnn where it chooses nothing
    relu = cell == "rnn" and options.get("nonlinearity") == "relu"
    return "rnn-relu" if relu else str(cell)


def _advice_vanishing(config: RunConfig) -> list[str]:
    advice, kind = [], _kind(config)
    if kind != "indrnn" and config.initialization not in ("orthogonal", "identity"):
        advice.append(
            "--initialization orthogonal, which keeps the length of what is remembered; on hundreds"
            " of steps with a lower --lr"
        )
    if kind in ("rnn", "rnn-relu"):
        advice.append("--model lstm or --model indrnn, which remember for longer")
    elif kind in ("lstm", "gru"):
        advice.append("--model indrnn, whose recurrent weights are bounded to suit the length")
    if not parse(config.optimizer)[0].startswith("frank-wolfe"):
        advice.append("--optimizer frank-wolfe, whose steps do not shrink with the gradient")
    if config.readout in (None, "last"):
        advice.append("--readout mean, which every step reaches directly")
    return advice


def _advice_exploding(config: RunConfig) -> list[str]:
    advice, kind = [], _kind(config)
    if config.clip is None:
        advice.append("--clip 1, which bounds the gradient")
    if not parse(config.optimizer)[0].startswith("frank-wolfe"):
        advice.append("--optimizer frank-wolfe, whose steps do not grow with the gradient")
    if kind == "rnn-relu" and config.initialization != "identity":
        advice.append("--initialization identity, or --model rnn with its bounded states")
    elif kind == "rnn" and config.initialization != "orthogonal":
        advice.append("--initialization orthogonal, whose spectral radius is 1")
    if kind != "indrnn":
        advice.append("--model indrnn, whose recurrent weights are bounded")
    if config.tbptt is None:
        advice.append("--tbptt 50, which cuts gradients off after so many steps")
    return advice
