"""How good is `rnnopt train --data FILE`, typed alone, beside MiniRocket and LSTM-FCN?

Each archive set is learnt by three contenders, seed by seed, on one processor thread:

- auto: rnnopt with its defaults, on the training file, with its own validation and second fit;
- minirocket: aeon's MiniRocketClassifier on the whole training file; left out without aeon.
  Series of different lengths are padded with zeros;
- lstm-fcn, gru-fcn: the recurrent networks of Karim et al. (https://arxiv.org/abs/1709.05206), that
  of aeon, sktime and tsai, written in torch below (theirs need TensorFlow or fastai), on the whole
  training file. They train for as many processor seconds as auto took on that set and seed, by Adam
  with lr 1e-3 that falls along a cosine, in minibatches of 16, as here few epochs fit; their last
  weights are tested. Constant lr and batch size 128, as published, are slower.

The table has the mean test accuracy and the mean processor seconds of the fit. Finished runs are
appended to the output file and not repeated.

    python benchmarks/own_data.py --out runs/own-data.jsonl
    python benchmarks/own_data.py --quick
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnopt import GRU, LSTM
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.refit import all_series
from rnnopt.runs.runner import run
from rnnopt.tasks import Batches, Task
from rnnopt.tasks.pieces import outputs_of
from rnnopt.training.build import task_of

CONTENDERS = ("auto", "minirocket", "lstm-fcn", "gru-fcn")
Fit = Callable[[RunConfig, float], float]  # a config with data, seconds → test accuracy


class RecurrentFCN(nn.Module):
    """LSTM-FCN, or GRU-FCN: three convolutions beside a recurrent layer over the channels.

    The recurrent layer gets the series with time and channels exchanged, as published: one step for
    each channel, with the values at all times.
    """

    def __init__(self, layer: Any, steps: int, channels: int, outputs: int):
        super().__init__()
        self.steps, self.recurrent = steps, layer(steps, 8)
        sizes, widths = [channels, 128, 256, 128], (8, 5, 3)
        self.convolutions = nn.Sequential()
        for size, following, width in zip(sizes, sizes[1:], widths, strict=False):
            convolution = nn.Conv1d(size, following, width, padding="same")
            self.convolutions.extend([convolution, nn.BatchNorm1d(following), nn.ReLU()])
        self.output = nn.Linear(8 + 128, outputs)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (batch, output) of series (time, batch, channel), padded with zeros."""
        inputs = inputs[: self.steps]
        series = functional.pad(inputs.permute(1, 2, 0), (0, self.steps - len(inputs)))
        last = self.recurrent(series.transpose(0, 1))[0][-1]
        last = functional.dropout(last, 0.8, self.training)
        return self.output(torch.cat([last, self.convolutions(series).mean(2)], 1))


def recurrent_fcn(layer: Any) -> Fit:
    """A fit of `RecurrentFCN` for some processor seconds."""

    def fit(config: RunConfig, seconds: float) -> float:
        task = all_series(task_of(config))
        torch.manual_seed(config.seed)
        model = RecurrentFCN(layer, task.steps, task.input_size, task.output_size)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        batches, begun = Batches(task, 16, config.seed), time.process_time()
        while (share := (time.process_time() - begun) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + math.cos(math.pi * share)) / 2
            batch = batches.draw()
            optimizer.zero_grad()
            if len(batch) > 1:  # one alone has no variance
                task.loss_of(model(batch.inputs, batch.lengths), batch).backward()
                optimizer.step()
        return accuracy(model.eval(), task)

    return fit


def accuracy(model: nn.Module, task: Task) -> float:
    """Accuracy on the test series."""
    outputs = outputs_of(model, task.test, torch.device("cpu"))
    return float((outputs.argmax(1) == task.test.targets).double().mean())


def auto(config: RunConfig, seconds: float) -> float:
    """rnnopt with its defaults."""
    with tempfile.TemporaryDirectory() as folder:
        return float(run(config, Path(folder) / "run")["test_metric"])


def minirocket(config: RunConfig, seconds: float) -> float:
    """aeon's MiniRocket, which compiles itself before its time is taken."""
    convolution_based: Any = import_module("aeon.classification.convolution_based")

    task = all_series(task_of(config))
    steps = max(task.steps, task.test.steps)
    X, Xt = (whole(examples, steps) for examples in (task.train, task.test))
    model = convolution_based.MiniRocketClassifier(random_state=config.seed, n_jobs=1)
    targets: Any = task.train.targets  # type: ignore[union-attr]
    model.fit(X, targets.numpy())
    return float((model.predict(Xt) == task.test.targets.numpy()).mean())


def whole(examples: Any, steps: int) -> np.ndarray:
    """Series (count, channel, time), padded with zeros."""
    inputs = examples.batch(slice(0, len(examples))).inputs.permute(1, 2, 0)
    return functional.pad(inputs, (0, steps - inputs.shape[2])).double().numpy()


FITS: dict[str, Fit] = {
    "auto": auto, "minirocket": minirocket, "lstm-fcn": recurrent_fcn(LSTM),
    "gru-fcn": recurrent_fcn(GRU),
}  # fmt: skip


def pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Training and test files of the archive sets in a folder, by name."""
    found = {}
    for train in sorted(folder.glob("*/*_TRAIN.*")):
        test = train.with_name(train.name.replace("_TRAIN", "_TEST"))
        if test.exists():
            found[train.parent.name] = (train, test)
    return found


def quick_pair(folder: Path) -> dict[str, tuple[Path, Path]]:
    """A small set of our own."""
    generator = np.random.default_rng(0)
    for part in ("TRAIN", "TEST"):
        y = np.arange(60) % 2
        X = generator.normal(size=(60, 30)) + y[:, None] * np.sin(np.arange(30))
        rows = np.column_stack([y, X])
        np.savetxt(folder / f"Waves_{part}.tsv", rows, delimiter="\t", fmt="%.4f")
    return {"Waves": (folder / "Waves_TRAIN.tsv", folder / "Waves_TEST.tsv")}


def measure(name: str, files: tuple[Path, Path], contender: str, seed: int, given: Any) -> Any:
    """One line of the output file."""
    config = RunConfig(data=str(files[0]), test=str(files[1]), seed=seed, budget=given["budget"])
    begun = time.process_time()
    found = FITS[contender](config, given["seconds"])
    spent = time.process_time() - begun
    return dict(data=name, contender=contender, seed=seed, accuracy=found, seconds=spent)


def table(records: list[dict[str, Any]], contenders: list[str]) -> None:
    """Prints mean test accuracy and seconds of each contender on each set."""
    print(f"| data | {' | '.join(f'{c} | s' for c in contenders)} |")
    print("|---" * (1 + 2 * len(contenders)) + "|")
    for name in dict.fromkeys(one["data"] for one in records):
        cells = [name]
        for contender in contenders:
            mine = [r for r in records if (r["data"], r["contender"]) == (name, contender)]
            if not mine:
                cells += ["–", "–"]
                continue
            right = [one["accuracy"] for one in mine]
            spread = f" ± {statistics.stdev(right):.3f}" if len(right) > 1 else ""
            seconds = statistics.mean(one["seconds"] for one in mine)
            cells += [f"{statistics.mean(right):.3f}{spread} ({len(right)})", f"{seconds:.0f}"]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("RNNOPT_DATA", "data")) / "ucr"
    parser.add_argument("--folder", type=Path, default=data, help="archive sets, one a folder")
    parser.add_argument("--data", nargs="+", help="names of the sets; all unless given")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON lines, to go on with")
    parser.add_argument("--quick", action="store_true", help="a small set, a few gradients")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sets = quick_pair(Path(folder)) if asked.quick else pairs(asked.folder)
        contenders = [c for c in asked.contenders if not (asked.quick and c == "minirocket")]
        out: Path = asked.out or Path(folder) / "records.jsonl"
        records = (
            [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        )
        budget = "6gradients" if asked.quick else None
        for seed in asked.seeds[:1] if asked.quick else asked.seeds:
            for name in asked.data or sets:
                for contender in contenders:
                    mine = dict(data=name, contender=contender, seed=seed)
                    if any(mine.items() <= one.items() for one in records):
                        continue
                    same = [r for r in records if (r["data"], r["contender"]) == (name, "auto")]
                    seconds = statistics.mean([r["seconds"] for r in same] or [90.0])
                    given = dict(budget=budget, seconds=seconds)
                    try:
                        records.append(measure(name, sets[name], contender, seed, given))
                    except ModuleNotFoundError as error:
                        print(f"{contender} is left out: there is no {error.name}")
                        continue
                    with out.open("a") as file:
                        file.write(json.dumps(records[-1]) + "\n")
        table(records, contenders)


if __name__ == "__main__":
    main()
