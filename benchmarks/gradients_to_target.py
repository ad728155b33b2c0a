"""How many gradient evaluations does an optimizer need to a target, and where does it end?

Every task has a target, a budget and an interval of evaluations on validation data, all declared
below. Every contender has the same network, batches, cosine schedule and number of tuning trials
per rate. SOAP, Muon and the others are measured twice in each run: with their weights, and with
their running mean (the mean that FrankWolfe shows in eval mode), whichever is better counts.

1. Tuning: one run of every setting of a contender's grid on a separate seed, ranked by gradient
   evaluations to the target, then by the best validation metric.
2. Report: the best setting of each contender on the reported seeds. The test set is evaluated once,
   with the weights of the best validation metric.

Finished runs are appended to the output file and not repeated.

    python benchmarks/gradients_to_target.py --task digits-pixels --out runs/digits-pixels.jsonl
    python benchmarks/gradients_to_target.py --quick
"""

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from rnnopt import SequenceModel
from rnnopt.config.data_config import DataConfig
from rnnopt.config.run_config import MODELS
from rnnopt.layers.network_options import Readout
from rnnopt.tasks import Batches, Task, build_task
from rnnopt.tasks.user_data.load import own_task
from rnnopt.training.registry import build_optimizer

CPU = torch.device("cpu")
TUNING_SEED = 1000


@dataclass(frozen=True)
class Race:
    """A task, its network, and what is declared about them in advance."""

    task: str
    target: float
    budget: int
    look: int
    units: int
    model: str = "rnn"
    readout: Readout = "last"


RACES = {
    "digits-pixels": Race("digits-pixels", 0.9, 1500, 10, 64),
    "mnist-rows": Race("mnist-rows", 0.97, 2000, 25, 100),
    "counting": Race("counting", 0.1, 3000, 25, 24),
    "hapt2": Race("hapt2", 0.87, 2000, 25, 80),
    "noisy-hapt2": Race("noisy-hapt2", 0.85, 2000, 25, 80),
    "adding-100": Race("adding:length=100", 0.01, 4000, 100, 128),
    "adding-400": Race("adding:length=400", 0.01, 6000, 200, 128),
    "mnist-permuted": Race("mnist-permuted", 0.8, 600, 25, 128),
    "text": Race("metamorphosis", 1.8, 1000, 25, 100, "rnn", "every"),
    "text-gru": Race("metamorphosis", 1.8, 500, 12, 100, "gru", "every"),
    "mnist-gru": Race("mnist-rows", 0.97, 600, 12, 100, "gru"),
    "mnist-lstm": Race("mnist-rows", 0.97, 600, 12, 100, "lstm"),
    "vowels-gru": Race("vowels", 0.95, 600, 10, 64, "gru"),
    "indrnn-6": Race("hapt2", 0.87, 600, 12, 64, "indrnn-6"),
}
QUICK = {"quick": Race("digits-rows", 0.8, 60, 10, 16)}
GRIDS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    # rates, and option strings: every pair is one trial
    "frank-wolfe": ((1e-2,), ("",)),
    "soap": ((1e-3, 3e-3, 1e-2, 2e-2, 4e-2), ("precondition_frequency=1", "")),
    "muon": ((1e-3, 3e-3, 1e-2, 2e-2, 4e-2), ("",)),
    "psgd-kron": ((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), ("",)),
    "adam": ((1e-3, 3e-3, 1e-2, 2e-2, 4e-2), ("clip=1",)),
}
# Further rates, where the best one would be at an end of the grid.
WIDER: dict[tuple[str, str], tuple[float, ...]] = {
    **{(name, race): (8e-2, 1.6e-1) for name in ("soap", "muon", "adam")
       for race in ("text", "text-gru", "vowels-gru")},
    ("muon", "counting"): (8e-2, 1.6e-1),
    ("soap", "adding-100"): (1e-4, 3e-4),
    ("soap", "adding-400"): (1e-4, 3e-4),
}  # fmt: skip


class RunningMean:
    """The weights' running mean, with the weights of FrankWolfe's eval mode; None is off."""

    def __init__(self, params: list[nn.Parameter], r: float = 8.0):
        self.params, self.r, self.t, self.peak = params, r, 0, 0.0
        self.mean = [p.detach().clone() for p in params]

    @torch.no_grad()
    def update(self, lr: float) -> None:
        """Takes in the weights after a step of rate lr."""
        self.t += 1
        self.peak = max(self.peak, lr)
        weight = (self.r + 1) / (self.t + self.r) * self.peak / max(lr, 1e-12)
        torch._foreach_lerp_(self.mean, list[Tensor](self.params), min(1.0, weight))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the mean and the weights."""
        for p, mean in zip(self.params, self.mean, strict=True):
            kept = p.clone()
            p.copy_(mean)
            mean.copy_(kept)


def task_of(race: Race, folder: Path) -> Task:
    """The race's task; `folder` holds the archive's data sets."""
    if race.task != "vowels":
        return build_task(race.task)
    at = folder / "ucr" / "JapaneseVowels"
    files = {name: str(at / f"JapaneseVowels_{name.upper()}.ts") for name in ("train", "test")}
    return own_task(DataConfig(data=files["train"], test=files["test"]), "vowels")


def build_model(race: Race, task: Task) -> SequenceModel:
    """The race's network; weights are drawn from torch's generator."""
    settings = dict(MODELS[race.model][0])
    return SequenceModel(
        task.input_size, race.units, task.output_size, readout=race.readout, steps=task.steps,
        **settings,
    )  # fmt: skip


def run(race: Race, task: Task, build: Callable[..., Any], seed: int, clip: float = 0.0,
        stop_after: float = math.inf) -> dict[str, Any]:  # fmt: skip
    """One run; it ends after `stop_after` times as many gradients as it took to the target.

    Returns:
        For the weights ("own") and their running mean ("mean"): the gradient evaluations to the
        target or None, the curve of the validation metric, and the test metric at its best. Besides
        the median milliseconds of a gradient and of a step.
    """
    torch.manual_seed(seed)
    model = build_model(race, task)
    batches = Batches(task, task.batch_size, seed)
    optimizer = build(list(model.named_parameters()))
    base = [group["lr"] for group in optimizer.param_groups]
    params = list(model.parameters())
    mean = None if hasattr(optimizer, "committed") else RunningMean(params)
    judge = Judge(race, task, model, optimizer, mean)
    seconds: dict[str, list[float]] = dict(gradient=[], step=[])
    for step in range(1, race.budget + 1):
        factor = 0.5 * (1 + math.cos(math.pi * (step - 1) / race.budget))
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * factor
        batch = batches.draw()
        start = time.perf_counter()
        for p in params:
            p.grad = None
        loss: Tensor = task.loss_of(model(batch.inputs, batch.lengths), batch)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(params, clip)
        between = time.perf_counter()
        optimizer.step()
        seconds["gradient"].append(between - start)
        seconds["step"].append(time.perf_counter() - between)
        if mean is not None:
            mean.update(factor)
        if not math.isfinite(loss.item()):
            break
        if step % race.look == 0 or step == race.budget:
            judge.look(step)
            if step >= judge.hit * stop_after:
                break
    result = {"seed": seed, "stopped_at": step} | judge.results()
    for name, times in seconds.items():
        result[f"{name}_ms"] = round(1e3 * statistics.median(times), 3)
    return result


class Judge:
    """Evaluates a model with its weights, and with their mean if there is one."""

    def __init__(
        self, race: Race, task: Task, model: nn.Module, optimizer: Any, mean: RunningMean | None
    ):
        self.race, self.task, self.model, self.optimizer = race, task, model, optimizer
        self.means = {"own": None} if mean is None else {"own": None, "mean": mean}
        self.sign = 1 if task.metric == "accuracy" else -1
        self.curves: dict[str, list[tuple[int, float, float]]] = {kind: [] for kind in self.means}
        self.best: dict[str, tuple[float, float]] = {}  # rank, test metric
        self.hit = math.inf  # gradient evaluations to the target

    def look(self, step: int) -> None:
        """Evaluates on validation data, and on test data if that is the best so far."""
        for kind, curve in self.curves.items():
            with shown(self.optimizer, self.means[kind]):
                self.model.eval()
                value, metric = self.task.evaluate(self.model, self.task.validation, CPU)
                self.model.train()
            curve.append((step, value, metric))
            if self.reached(metric):
                self.hit = min(self.hit, step)
            rank = self.sign * metric
            if math.isfinite(metric) and rank > self.best.get(kind, (-math.inf, 0.0))[0]:
                with shown(self.optimizer, self.means[kind]):
                    test = self.task.evaluate(self.model, self.task.test, CPU)[1]
                self.best[kind] = rank, test

    def reached(self, metric: float) -> bool:
        """Whether a metric is at least as good as the target."""
        return self.sign * (metric - self.race.target) >= 0

    def results(self) -> dict[str, Any]:
        """What `run` returns of each kind of weights."""
        found = {}
        for kind, curve in self.curves.items():
            hits = [step for step, _, metric in curve if self.reached(metric)]
            rank, test = self.best.get(kind, (None, None))
            found[kind] = dict(
                to_target=hits[0] if hits else None,
                best=None if rank is None else self.sign * rank,
                test=test,
                last_loss=curve[-1][1] if curve else None,
                curve=[round(metric, 5) for _, _, metric in curve],
            )
        return found


@contextmanager
def shown(optimizer: Any, mean: RunningMean | None) -> Iterator[None]:
    """The weights to evaluate, inside the `with` block."""
    if mean is None:
        with getattr(optimizer, "committed", nullcontext)():
            yield
        return
    mean.swap()
    try:
        yield
    finally:
        mean.swap()


def contender(name: str, options: str, rate: float) -> tuple[Callable[..., Any], float]:
    """How to build an optimizer, and its gradient clipping."""
    words = [word for word in options.split(",") if word]
    clip = sum(float(word[5:]) for word in words if word.startswith("clip="))
    kept = ",".join(word for word in words if not word.startswith("clip="))
    specification = f"{name}:{kept}" if kept else name
    return lambda named: build_optimizer(specification, named, rate), clip


class Runs:
    """Finished runs in a file, one JSON object a line."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.done = {self.key(record): record for record in map(json.loads, lines)}

    @staticmethod
    def key(record: dict[str, Any]) -> tuple:
        """What identifies a run."""
        return tuple(record[name] for name in ("race", "optimizer", "options", "lr", "seed"))

    def get(self, task: Task, race: str, name: str, options: str, lr: float, seed: int,
            label: str = "") -> dict:  # fmt: skip
        """The run's record, with `label` in place of the name; trains if it is not stored."""
        record = dict(race=race, optimizer=label or name, options=options, lr=lr, seed=seed)
        if self.key(record) not in self.done:
            build, clip = contender(name, options, lr)
            record |= run(ALL[race], task, build, seed, clip)
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(summary(record), file=sys.stderr, flush=True)
            self.done[self.key(record)] = record
        return self.done[self.key(record)]


def summary(record: dict[str, Any]) -> str:
    """A run in one line."""
    text = f"{record['race']} {record['optimizer']} {record['options']} lr={record['lr']:g}"
    for kind in ("own", "mean"):
        if kind in record:
            r = record[kind]
            text += f" | {kind}: {r['to_target']}, best {r['best']}, test {r['test']}"
    return text + f" | {record['gradient_ms']} + {record['step_ms']} ms"


def kinds_of(record: dict[str, Any]) -> list[str]:
    """Which weights a run evaluated."""
    return [kind for kind in ("own", "mean") if kind in record]


def rank(record: dict[str, Any], kind: str, sign: int) -> tuple[float, float]:
    """The smaller, the better: gradient evaluations to the target, then the best metric."""
    r = record[kind]
    to_target = math.inf if r["to_target"] is None else r["to_target"]
    return to_target, -sign * r["best"] if r["best"] is not None else math.inf


def study(race: str, names: list[str], seeds: range, runs: Runs, folder: Path) -> list[dict]:
    """Tuning and reported runs of every contender; one row each."""
    task = task_of(ALL[race], folder)
    sign = 1 if task.metric == "accuracy" else -1
    rows = []
    for name in names:
        rates, options = GRIDS[name]
        rates += WIDER.get((name, race), ())
        trials = [
            runs.get(task, race, name, option, rate, TUNING_SEED)
            for option, rate in itertools.product(options, rates)
        ]
        for kind in kinds_of(trials[0]):
            best = min(trials, key=lambda t: rank(t, kind, sign))
            reported = [
                runs.get(task, race, name, best["options"], best["lr"], seed) for seed in seeds
            ]
            rows.append(row(name, kind, best, reported))
    return rows


def row(name: str, kind: str, best: dict[str, Any], reported: list[dict[str, Any]]) -> dict:
    """Medians and means over the reported seeds."""
    every = [run[kind] for run in reported]
    targets = sorted(math.inf if r["to_target"] is None else r["to_target"] for r in every)
    tests = [r["test"] for r in every if r["test"] is not None]
    width = math.nan
    if len(tests) > 1:
        width = stats.t.ppf(0.975, len(tests) - 1) * statistics.stdev(tests) / len(tests) ** 0.5
    return dict(
        name=f"{name}, mean" if kind == "mean" else name,
        setting=f"{best['lr']:g} {best['options']}".strip(),
        to_target=statistics.median(targets),
        targets=targets,
        test=statistics.mean(tests),
        width=width,
        gradient_ms=statistics.median(run["gradient_ms"] for run in reported),
        step_ms=statistics.median(run["step_ms"] for run in reported),
    )


def table(race: str, rows: list[dict]) -> str:
    """A race as a Markdown table."""
    about = ALL[race]
    lines = [
        f"### {race}: {about.target:g} within {about.budget} gradient evaluations",
        "",
        "| optimizer | setting | gradients to target, median (seeds) | test, mean ± 95 % |"
        " ms a gradient + a step |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        seeds = " ".join("-" if t == math.inf else f"{t:g}" for t in r["targets"])
        median = "never" if r["to_target"] == math.inf else f"{r['to_target']:g}"
        lines.append(
            f"| {r['name']} | {r['setting']} | {median} ({seeds}) | {r['test']:.4g} ±"
            f" {r['width']:.2g} | {r['gradient_ms']:.2f} + {r['step_ms']:.2f} |"
        )
    return "\n".join(lines) + "\n"


ALL = RACES | QUICK


def main() -> None:
    """Reads the arguments, runs the study, prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=["digits-pixels"], choices=list(ALL))
    parser.add_argument("--contenders", nargs="+", default=["frank-wolfe", "soap"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RNNOPT_DATA", "data")))
    parser.add_argument("--out", type=Path, default=None, help="file of finished runs")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.task, args.seeds, args.contenders = ["quick"], 2, ["frank-wolfe", "adam"]
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary) / "runs.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        for race in args.task:
            print(table(race, study(race, args.contenders, seeds, Runs(out), args.data)))


if __name__ == "__main__":
    main()
