"""Which weights of a run are best to evaluate: the training weights, their mean, or points between?

    trained      the training weights of FrankWolfe
    mean         those of its eval mode, a mean in which commit t has a weight near t^8
    ema          torch.optim.swa_utils.AveragedModel with an exponential mean
    between β    trained and evaluated at y = (1-β) z + β x, where schedule-free optimizers train; z
                 takes FrankWolfe's steps and x is their mean; no mode is needed

Every design gets the same network, batches and seeds, and 40 evaluations on the validation set.

    python benchmarks/weights_to_evaluate.py
    python benchmarks/weights_to_evaluate.py --quick
"""

import argparse
import statistics

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rnnopt import FrankWolfe, SequenceModel
from rnnopt.tasks import Batches, Task, build_task
from rnnopt.training.schedules import rate_factor

# Gradient evaluations, target and units.
TASKS: dict[str, tuple[int, float, int]] = {
    "digits-pixels": (1500, 0.9, 64),
    "counting": (3000, 0.1, 24),
    "hapt2": (2000, 0.87, 80),
    "mnist-rows": (2000, 0.97, 100),
}
DESIGNS = ("trained", "mean", "ema", "between 0.5", "between 0.9")
CPU = torch.device("cpu")


class Between:
    """Moves the weights to a point between FrankWolfe's and their mean after each step."""

    def __init__(self, params: list[nn.Parameter], optimizer: FrankWolfe, beta: float, r: float):
        self.params, self.optimizer, self.beta, self.r, self.t = params, optimizer, beta, r, 0
        self.z = [p.detach().clone() for p in params]
        self.x = [p.detach().clone() for p in params]

    @torch.no_grad()
    def step(self) -> None:
        """z takes the step that FrankWolfe takes from y."""
        before = [p.clone() for p in self.params]
        self.optimizer.step()
        self.t += 1
        for p, start, z, x in zip(self.params, before, self.z, self.x, strict=True):
            z.add_(p - start)
            x.lerp_(z, (self.r + 1) / (self.t + self.r))
            p.copy_(torch.lerp(z, x, self.beta))


def metric_of(task: Task, model: nn.Module) -> float:
    """Metric on the validation set."""
    return task.evaluate(model, task.validation, CPU)[1]


def curve(name: str, design: str, schedule: str, seed: int, steps: int, lr: float) -> list[float]:
    """The metric at each evaluation."""
    task, units = build_task(name), TASKS[name][2]
    torch.manual_seed(seed)
    batches = Batches(task, task.batch_size, seed=seed)
    model = SequenceModel(task.input_size, units, task.output_size)
    params = list(model.parameters())
    optimizer = FrankWolfe(params, lr=lr, average=8.0 if design == "mean" else None)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    stepped = optimizer
    if design.startswith("between"):
        stepped = Between(params, optimizer, float(design.split()[1]), 8.0)  # type: ignore[assignment]
    found = []
    for step in range(1, steps + 1):
        factor = rate_factor("cosine" if schedule == "cosine" else "constant", (step - 1) / steps)
        optimizer.param_groups[0]["lr"] = lr * factor
        batch = batches.draw()
        model.zero_grad()
        loss: Tensor = task.loss_of(model(batch.inputs, batch.lengths), batch)
        loss.backward()
        stepped.step()
        average.update_parameters(model)
        if step % max(1, steps // 40) == 0:
            with optimizer.committed():
                found.append(metric_of(task, average if design == "ema" else model))
    return found


def first_at(target: float, metrics: list[float], smaller: bool, every: int) -> float:
    """Gradient evaluations to the target; infinite if it is not reached."""
    met = (i for i, m in enumerate(metrics, 1) if (m <= target if smaller else m >= target))
    return every * next(met, float("inf"))


def main() -> None:
    """Prints one table per learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small task, few steps")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 5e-3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = ["digits-pixels"] if arguments.quick else list(TASKS)
    seeds = range(1 if arguments.quick else arguments.seeds)
    for lr in arguments.rates[:1] if arguments.quick else arguments.rates:
        print(f"lr {lr:g}: median gradients to the target, mean metric at the end\n")
        print("| task | schedule | " + " | ".join(DESIGNS) + " |")
        print("|---" * (2 + len(DESIGNS)) + "|")
        for name in names:
            steps = 40 if arguments.quick else TASKS[name][0]
            for schedule in ("constant", "cosine"):
                cells = []
                for design in DESIGNS:
                    curves = [curve(name, design, schedule, s, steps, lr) for s in seeds]
                    hits = (
                        first_at(TASKS[name][1], c, name == "counting", steps // 40) for c in curves
                    )
                    end = statistics.mean(c[-1] for c in curves)
                    cells.append(f"{statistics.median(hits):g}; {end:.4f}")
                print(f"| {name} | {schedule} | " + " | ".join(cells) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
