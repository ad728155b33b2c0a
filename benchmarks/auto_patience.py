"""Does early stopping serve `--model auto` better than its fixed budget?

Each archive set's training file alone is used, split anew for each seed: a fifth is held out to
judge by, a fifth of the rest validates. auto trains for its budget, then as long on training and
validation series together. With patience N it may train three times as long, ends after N epochs
without a better validation metric, and the second fit is as long as the best evaluation took. The
learning rate falls along a cosine over the budget in both. One thread.

The table has the accuracy on the part to judge by and the processor seconds of both fits. Finished
runs are appended to the output file and not repeated.

    python benchmarks/auto_patience.py --out runs/patience.jsonl
    python benchmarks/auto_patience.py --quick
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from own_data import pairs, quick_pair

from rnnopt.config.run_config import RunConfig
from rnnopt.runs.runner import run
from rnnopt.training.automatic import choose, shape_of
from rnnopt.training.build import task_of

LONGER = 3  # times the budget of auto, at most


def measure(path: Path, patience: int | None, seed: int, gradients: int | None) -> dict[str, Any]:
    """One run on a training file: accuracy on the part to judge by, seconds, gradients.

    Args:
        path: the training file.
        patience: epochs; None for auto as it is.
        seed: of the run and of the split.
        gradients: budget of auto; None for its own choice.
    """
    config = RunConfig(data=str(path), seed=seed, split_seed=seed)
    chosen: str = choose(shape_of(task_of(config))).settings["budget"]
    budget = gradients or int(chosen.removesuffix("gradients"))
    longest = budget if patience is None else LONGER * budget
    config = replace(config, budget=f"{longest}gradients", patience=patience)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run(config, Path(folder) / "run")
    seconds = time.process_time() - begun
    return dict(
        accuracy=float(result["test_metric"]), seconds=seconds, status=result["status"],
        refit=result["refit"]["gradient_evaluations"], budget=budget,
    )  # fmt: skip


def print_table(records: list[dict[str, Any]], kinds: list[int | None]) -> None:
    """Prints the means over seeds, a row a kind, and over the sets."""
    names = list(dict.fromkeys(one["data"] for one in records))
    print(f"| | {' | '.join([*names, 'mean'])} |")
    print("|---" * (2 + len(names)) + "|")
    for kind in kinds:
        cells = ["auto" if kind is None else f"patience {kind}"]
        for part in [*([name] for name in names), names]:
            mine = [r for r in records if r["data"] in part and r["patience"] == kind]
            right, seconds = (
                statistics.mean([one[key] for one in mine] or [float("nan")])
                for key in ("accuracy", "seconds")
            )
            cells.append(f"{right:.3f}, {seconds:.0f} s")
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("RNNOPT_DATA", "data")) / "ucr"
    parser.add_argument("--folder", type=Path, default=data, help="archive sets, one a folder")
    parser.add_argument("--patience", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON lines, to go on with")
    parser.add_argument("--quick", action="store_true", help="a small set, a few gradients")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kinds: list[int | None] = [None, *asked.patience[: 1 if asked.quick else None]]
    with tempfile.TemporaryDirectory() as folder:
        sets = quick_pair(Path(folder)) if asked.quick else pairs(asked.folder)
        out: Path = asked.out or Path(folder) / "records.jsonl"
        records = (
            [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        )
        for seed in asked.seeds[: 1 if asked.quick else None]:
            for name, (path, _) in sets.items():
                for kind in kinds:
                    mine = dict(data=name, patience=kind, seed=seed)
                    if any(mine.items() <= one.items() for one in records):
                        continue
                    records.append(mine | measure(path, kind, seed, 6 if asked.quick else None))
                    with out.open("a") as file:
                        file.write(json.dumps(records[-1]) + "\n")
        print_table(records, kinds)


if __name__ == "__main__":
    main()
