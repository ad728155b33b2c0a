"""Which settings of FrankWolfe, and which optimizer, learn best at equal gradient evaluations?

Every contender gets the same number of tuning trials: one run per learning rate of one grid, on a
separate seed, ranked by the best validation metric. Then the chosen rate runs on the reported
seeds; each run evaluates the test set once, with the weights of the best validation metric. All
runs have the same network, batches, budget and cosine schedule. Finished runs are stored in the
output file and not repeated.

    python benchmarks/choose_defaults.py --task mnist-rows --out runs/mnist-rows.jsonl
    python benchmarks/choose_defaults.py --quick

The runs behind docs/experiment-log.md are in docs/measurements; passed as --out, their table is
printed again without training.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from scipy import stats

from rnnopt.config.run_config import RunConfig
from rnnopt.tasks import Task, build_task
from rnnopt.training.build import build_training

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEED = 1000
# Switches off what FrankWolfe adds to the algorithm as printed.
OFF = "normalize=false,adapt=0,nesterov=false,average=none"
CONTENDERS = [
    "adam",
    "adam:clip=1",
    "rmsprop",
    "muon",
    "soap",
    "frank-wolfe",
    *(
        f"frank-wolfe:norm={norm},inner_steps={steps},outer={outer},momentum=0,{OFF}"
        for steps in (1, 5)
        for norm in ("2", "inf", "spectral")
        for outer in ("adam", "plain")
    ),
    f"frank-wolfe:norm=2,inner_steps=5,outer=adam,momentum=0,ball=tensor,scale=norm,{OFF}",  # paper
    f"frank-wolfe:norm=2,inner_steps=1,outer=plain,momentum=0.9,{OFF}",
    f"frank-wolfe:norm=spectral,inner_steps=1,outer=plain,momentum=0.9,{OFF}",
    f"frank-wolfe:norm=spectral,inner_steps=5,outer=plain,momentum=0.9,{OFF}",
]


def train(task: Task, optimizer: str, rate: float, seed: int, settings: dict[str, Any]) -> dict:
    """One run: its best validation metric, test metric, cost to the target, seconds."""
    config = RunConfig(optimizer=optimizer, lr=rate, seed=seed, **settings)
    training = build_training(config, task)
    last = [progress.record for progress in training.run() if progress.record][-1]
    return dict(
        task=settings["task"],
        budget=settings["budget"],
        optimizer=optimizer,
        lr=rate,
        seed=seed,
        status=training.status,
        validation=training.best.get("validation_metric", math.nan),
        last_validation_loss=last["validation_loss"],
        test=training.test()[1] if training.best_weights else math.nan,
        to_target=training.to_target.get("gradient_evaluations"),  # None: missed
        seconds=training.seconds,
        evaluations=training.closure.gradient_evaluations,  # the key in docs/measurements
    )


def study(
    task: Task,
    contenders: list[str],
    rates: tuple[float, ...],
    seeds: range,
    out: Path,
    settings: dict[str, Any],
) -> list[dict]:
    """All runs of the study; appends each to `out` and skips those already stored there."""
    lines = out.read_text().splitlines() if out.exists() else []
    identity = ("task", "budget", "optimizer", "lr", "seed")
    done = {tuple(r[name] for name in identity): r for r in map(json.loads, lines)}

    def result(optimizer: str, rate: float, seed: int) -> dict:
        key = (settings["task"], settings["budget"], optimizer, rate, seed)
        if key not in done:
            done[key] = train(task, optimizer, rate, seed, settings)
            with out.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(json.dumps(done[key]), file=sys.stderr)
        return done[key]

    rows = []
    sign = 1 if task.metric == "accuracy" else -1
    for optimizer in contenders:
        trials = [result(optimizer, rate, TUNING_SEED) for rate in rates]
        best = max(trials, key=lambda t: rank(sign, t))
        runs = [result(optimizer, best["lr"], seed) for seed in seeds]
        rows.append(summary(optimizer, best["lr"], runs))
    return sorted(rows, key=lambda row: -sign * row["test"])


def rank(sign: int, trial: dict) -> tuple[float, float]:
    """Rank of a trial, the greater the better; NaN has the lowest."""
    metric, loss = trial["validation"], trial["last_validation_loss"]
    worst = -math.inf
    return (sign * metric if math.isfinite(metric) else worst, -loss if loss == loss else worst)


def summary(optimizer: str, rate: float, runs: list[dict]) -> dict:
    """Means over the seeds, with the half width of the 95 % interval of the test metric."""
    tests = [run["test"] for run in runs]
    targets = [math.inf if run["to_target"] is None else run["to_target"] for run in runs]
    width = math.nan
    if len(tests) > 1:
        width = stats.t.ppf(0.975, len(tests) - 1) * statistics.stdev(tests) / len(tests) ** 0.5
    return dict(
        optimizer=optimizer,
        lr=rate,
        test=statistics.mean(tests),
        width=width,
        lowest=min(tests),
        highest=max(tests),
        reached=sum(target < math.inf for target in targets),
        runs=len(runs),
        to_target=statistics.median(targets),
        milliseconds=1e3 * statistics.mean(r["seconds"] / max(1, r["evaluations"]) for r in runs),
    )


def table(task: Task, rows: list[dict]) -> str:
    """The study as a Markdown table."""
    lines = [
        f"| optimizer | lr | test {task.metric}, mean ± 95 % | range | reached {task.target:g} |"
        " gradients to target, median | ms per gradient |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['optimizer']} | {r['lr']:g} | {r['test']:.4f} ± {r['width']:.4f} |"
            f" {r['lowest']:.4f} … {r['highest']:.4f} | {r['reached']}/{r['runs']} |"
            f" {r['to_target']:g} | {r['milliseconds']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Reads the arguments, runs the study, prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="digits-pixels")
    parser.add_argument("--budget", default="2000gradients")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--out", type=Path, default=None, help="file of finished runs")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    args = parser.parse_args()
    settings = dict(schedule="cosine", budget=args.budget, task=args.task)
    if args.quick:
        args.seeds, args.contenders, args.rates = 2, ["adam", "frank-wolfe"], (1e-3, 1e-2)
        args.task = "digits-rows"
        settings |= dict(task=args.task, budget="40gradients")
    task = build_task(args.task)
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder) / "runs.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = study(task, args.contenders, tuple(args.rates), range(args.seeds), out, settings)
    print(table(task, rows))


if __name__ == "__main__":
    main()
