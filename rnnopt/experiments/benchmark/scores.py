"""Scores of entries: gradient evaluations to the target, relative to SOAP's.

A run that misses the target costs twice its budget. An entry's cost on a workload is the median
over its seeds, its ratio that cost over SOAP's, its score the geometric mean of the ratios: below 1
is faster than SOAP. Intervals are of 95 %, by bootstrap over the seeds of both. The performance
profile is the fraction of workloads on which an entry needs at most τ times the least cost of any.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rnnopt.experiments.benchmark.entry import Entry, Measured, OnWorkload
from rnnopt.experiments.benchmark.suite import BY_NAME, SUITES, SuiteName

REFERENCE = "soap"
SAMPLES = 2000
WITHIN = 1.5  # factor of the cost that a rate half a decade off may have
Quantity = Literal["gradients", "seconds"]


@dataclass(frozen=True)
class Score:
    """A geometric mean of ratios, and the interval around it."""

    value: float
    low: float
    high: float


def costs(workload: str, runs: Sequence[Measured], quantity: Quantity) -> list[float]:
    """What each run needed to the target; twice its whole length if it missed it."""
    if quantity == "seconds":
        return [
            2 * run.seconds if run.seconds_to_target is None else run.seconds_to_target
            for run in runs
        ]
    missed = 2.0 * BY_NAME[workload].budget
    return [missed if run.to_target is None else run.to_target for run in runs]


def ratios(entry: Entry, reference: Entry, suite: SuiteName, quantity: Quantity) -> list[float]:
    """The cost of an entry over that of another, by workload."""
    found = []
    for one in SUITES[suite]:
        own, other = (
            statistics.median(costs(one.name, e.workloads[one.name].runs, quantity))
            for e in (entry, reference)
        )
        found.append(own / other)
    return found


def score(
    entry: Entry, reference: Entry, suite: SuiteName, quantity: Quantity = "gradients"
) -> Score:
    """The geometric mean over the suite, with its interval."""
    value = statistics.geometric_mean(ratios(entry, reference, suite, quantity))
    if entry is reference:
        return Score(value, value, value)
    random = np.random.default_rng(0)
    logs = np.zeros(SAMPLES)
    for one in SUITES[suite]:
        for sign, e in ((1, entry), (-1, reference)):
            values = np.array(costs(one.name, e.workloads[one.name].runs, quantity))
            drawn = random.choice(values, (SAMPLES, len(values)))
            logs += sign * np.log(np.median(drawn, axis=1)) / len(SUITES[suite])
    low, high = np.exp(np.percentile(logs, (2.5, 97.5)))
    return Score(value, float(low), float(high))


def reached(entry: Entry, suite: SuiteName) -> int:
    """On how many workloads more than half of the runs met the target."""
    return sum(
        2 * sum(run.to_target is not None for run in entry.workloads[one.name].runs)
        > len(entry.workloads[one.name].runs)
        for one in SUITES[suite]
    )


def profile(all_entries: Sequence[Entry], suite: SuiteName) -> dict[str, list[float]]:
    """For each entry and workload its cost over the least of any; infinite where it is a miss."""
    found: dict[str, list[float]] = {entry.name: [] for entry in all_entries}
    for one in SUITES[suite]:
        medians = {
            entry.name: statistics.median(
                costs(one.name, entry.workloads[one.name].runs, "gradients")
            )
            for entry in all_entries
        }
        least = min(medians.values())
        for name, cost in medians.items():
            found[name].append(cost / least if cost <= one.budget else math.inf)
    return found


def robust(found: OnWorkload) -> bool | None:
    """Whether both rates half a decade off met the target within 1.5 times the chosen one's cost.

    None where that was not measured: there is no lower or no higher rate.
    """
    rates = [trial.lr for trial in found.trials]
    if not rates or found.at_edge:
        return None
    at = rates.index(found.lr)
    own = found.trials[at].to_target
    if own is None:
        return False
    sides = (found.trials[at - 1].to_target, found.trials[at + 1].to_target)
    return all(side is not None and side <= WITHIN * own for side in sides)
