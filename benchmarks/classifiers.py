"""How good is `rnnopt train --data FILE`, typed alone, beside other libraries at equal seconds?

Rules, set before the first run:

- Data: the official split of each set; windows of HAPT are held out by person. Each library gets
  the series that rnnopt's own network gets: channels of mean 0 and deviation 1, different lengths
  padded with zeros. Rows come in an order drawn by the seed, for not all libraries shuffle them.
- auto: rnnopt with its defaults, which holds out a fifth of the training file, and then learns from
  all of it in a second fit. Its seconds are those of the whole run, from the file to the test.
- The others: the architecture that the library calls its default, its default learning rate,
  optimizer, batch size and schedule, on the whole training file. None of them offers a validation
  part by default: their last weights are tested.
  - tsai: Adam with one cycle up to lr 1e-3, minibatches of 64, as many epochs as fit; LSTM and GRU
    in both directions (the option `bidirectional`).
  - sktime: Adam, LSTM-FCN lr 1e-3 and 128 series, GRU-FCN 1e-2 and 8, GRU 1e-3 and 8. GRU-FCN has
    no default size, so it has that of sktime's own tests, 256 units in two layers. Networks with a
    GRU get `batch_first=True`: without it they run along the minibatch in place of time
    (`findings/sktime_gru_runs_along_the_batch.sh`).
- One thread. A fit has as many processor seconds as auto took on that set (mean of its seeds); with
  `--times 3` three times as many, in rows of their own. MiniRocket takes what it needs.
- Test accuracy, seeds 0, 1, 2. Nothing is tuned, nothing is left out.

A library runs in an interpreter of its own. Finished fits are appended to the output file and not
repeated.

    python benchmarks/classifiers.py --out runs/classifiers.jsonl --times 1 3 \\
        --interpreters tsai=/envs/tsai/bin/python sktime=/envs/sktime/bin/python
    python benchmarks/classifiers.py --quick
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_libraries.fit import PEERS
from own_data import auto, pairs, quick_pair, whole

from rnnopt.config.run_config import RunConfig
from rnnopt.runs.refit import all_series
from rnnopt.training.build import task_of

Record = dict[str, Any]
FIT = Path(__file__).parent / "other_libraries" / "fit.py"


def sets_in(folder: Path) -> dict[str, Record]:
    """Settings of a run on each set, by its name."""
    archive = pairs(folder / "ucr").items()
    found: dict[str, Record] = {n: dict(data=str(a), test=str(b)) for n, (a, b) in archive}
    if (windows := folder / "har" / "har.npz").exists():
        found["HAPT"] = dict(data=str(windows), group="subject")
    return found


def quick_set(folder: Path) -> dict[str, Record]:
    """The same of a small set of our own, with a few gradients."""
    files = quick_pair(folder).items()
    return {n: dict(data=str(a), test=str(b), budget="6gradients") for n, (a, b) in files}


def write_series(config: RunConfig, path: Path) -> None:
    """The series as another library gets them, in an .npz file."""
    task = all_series(task_of(config))
    steps = max(task.steps, task.test.steps)
    order = np.random.default_rng(config.seed).permutation(len(task.train))  # type: ignore[arg-type]
    parts = {
        f"{letter}_{name}": values
        for name, part in (("train", task.train), ("test", task.test))
        for letter, values in (("X", whole(part, steps)), ("y", part.targets.numpy()))  # type: ignore[union-attr]
    }
    parts |= {name: parts[name][order] for name in ("X_train", "y_train")}
    arrays: Any = {n: v.astype(np.float32) if v.ndim == 3 else v for n, v in parts.items()}
    np.savez(path, **arrays)


def fit_elsewhere(python: str, peer: str, config: RunConfig, seconds: float) -> Record:
    """What `other_libraries/fit.py` says of a fit.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.npz"
        write_series(config, path)
        call = [python, str(FIT), peer, str(path), str(config.seed), str(seconds)]
        alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(call, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise RuntimeError(f"{peer} failed: {done.stderr[-2000:]}")
    found: Record = json.loads(done.stdout.splitlines()[-1])
    return found


def fit_auto(config: RunConfig) -> Record:
    """The same of rnnopt with its defaults."""
    begun = time.process_time()
    accuracy = auto(config, 0.0)
    spent, now = time.process_time() - begun, time.strftime("%Y-%m-%d %H:%M")
    return dict(accuracy=accuracy, seconds=spent, versions=dict(torch=torch.__version__), at=now)


def seconds_of_auto(records: list[Record], name: str) -> float:
    """Mean processor seconds of auto on a set."""
    keys = (name, "auto")
    return statistics.mean(r["seconds"] for r in records if (r["data"], r["contender"]) == keys)


def print_table(records: list[Record]) -> None:
    """Prints mean test accuracy, the worst and the best, and mean seconds of each contender."""
    names = list(dict.fromkeys(one["data"] for one in records))
    print(f"| | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    rows = dict.fromkeys((one["contender"], one.get("times", 1)) for one in records)
    for contender, times in sorted(rows, key=lambda row: (row[0] != "auto", row)):
        cells = [contender if times == 1 else f"{contender}, {times:g} times the seconds"]
        for name in names:
            key = (name, contender, times)
            mine = [r for r in records if (r["data"], r["contender"], r.get("times", 1)) == key]
            cells.append(cell(mine) if mine else "–")
        print(f"| {' | '.join(cells)} |")


def cell(records: list[Record]) -> str:
    """Accuracy: the mean, the worst and the best; seconds, and epochs where they are known."""
    right, seconds = ([one[key] for one in records] for key in ("accuracy", "seconds"))
    text = f"{statistics.mean(right):.3f} ({min(right):.3f}–{max(right):.3f})"
    text += f", {len(right)} seeds, {statistics.mean(seconds):.0f} s"
    epochs = [one["epochs"] for one in records if one.get("epochs", 1) != 1]
    return text + (f", {statistics.mean(epochs):.3g} epochs" if epochs else "")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("RNNOPT_DATA", "data"))
    parser.add_argument("--folder", type=Path, default=data, help="has ucr/ and har/")
    parser.add_argument("--data", nargs="+", help="names of the sets; all unless given")
    parser.add_argument("--interpreters", nargs="*", default=[], help="library=python, …")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--times", nargs="+", type=float, default=[1])
    parser.add_argument("--out", type=Path, help="JSON lines, to go on with")
    parser.add_argument("--quick", action="store_true", help="a small set, a few gradients")
    return parser.parse_args()


def jobs(asked: argparse.Namespace, peers: list[str], names: list[str]) -> list[Record]:
    """The fits that are asked for, in order; auto first, whose seconds the others get."""
    seeds = asked.seeds[:1] if asked.quick else asked.seeds
    found = [dict(data=n, contender="auto", seed=s, times=1) for s in seeds for n in names]
    return found + [
        dict(data=name, contender=peer, seed=seed, times=times)
        for times in asked.times
        for seed in seeds
        for peer in peers
        for name in names
        if times == 1 or "MiniRocket" not in peer
    ]


def main() -> None:
    """Fits what is missing, then prints the table."""
    asked = arguments()
    torch.set_num_threads(1)
    pythons = dict(one.split("=", 1) for one in asked.interpreters)
    peers = [p for p in asked.peers if p.split()[0] in pythons]
    with tempfile.TemporaryDirectory() as folder:
        sets = quick_set(Path(folder)) if asked.quick else sets_in(asked.folder)
        out: Path = asked.out or Path(folder) / "records.jsonl"
        lines = out.read_text().splitlines() if out.exists() else []
        records: list[Record] = [json.loads(line) for line in lines]
        for job in jobs(asked, peers, asked.data or list(sets)):
            if any(job == {k: r.get(k, 1) for k in job} for r in records):
                continue
            peer, config = job["contender"], RunConfig(seed=job["seed"], **sets[job["data"]])
            try:
                if peer == "auto":
                    found = fit_auto(config)
                else:
                    seconds = job["times"] * seconds_of_auto(records, job["data"])
                    found = fit_elsewhere(pythons[peer.split()[0]], peer, config, seconds)
            except RuntimeError as error:
                print(error)
                continue
            records.append(job | found)
            with out.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
        print_table(records)


if __name__ == "__main__":
    main()
