"""Diagnosis of a run: the training loop, with snapshots of its gradients at regular intervals.

A snapshot measures a copy of the model, with the committed weights and in double precision, on its
own stream of minibatches. The run stays bit for bit the same, and its clock and counters stand
still meanwhile. In the copy dropout is off, batch normalisation uses the statistics of the
minibatch, as in training, and sequences are whole, even if the run truncates gradients.

A snapshot costs about `noise_batches` + `curvature_steps` + 4 gradient evaluations in double
precision.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.config import seeds
from rnnopt.diagnostics.curvature import ball_curvature
from rnnopt.diagnostics.gradient_flow import GradientFlow, finite_median, recurrent_layers
from rnnopt.diagnostics.noise_scale import noise_scale
from rnnopt.diagnostics.spectra import recurrent_spectra
from rnnopt.diagnostics.step_direction import StepDirectionRecorder
from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task
from rnnopt.training.loop import Progress, Training

# Options of a FrankWolfe group that define the ball.
BALL = ("lr", "norm", "ball", "radius", "scale", "spectral", "gates")


class Diagnosis:
    """Measures the gradients of a run; the results are `snapshots`, `records` and `directions`.

    Args:
        training: the run, not started.
        snapshots: number of snapshots, spread evenly over the budget; there is always one at the
            beginning and one at the end.
        seed: seed of the snapshots' minibatches.
        noise_batches: number of minibatches for the noise scale, ≥ 2.
        curvature_steps: inner steps along which the curvature is measured; unset means those of a
            FrankWolfe with more than one, else 5. The ball is the optimizer's own, before radii
            adapt; for another optimizer it is FrankWolfe's default at the current learning rate.

    A snapshot is a dict, ready for JSON:
        gradient_evaluations: gradient evaluations of the run so far.
        loss: loss on the minibatch that all snapshots share.
        layers: for each recurrent layer a record of `GradientFlow` on that minibatch.
        spectra: `recurrent_spectra` of each recurrent layer.
        noise: trace, squared_norm and scale of `noise_scale`, on new minibatches each time.
        curvature: `ball_curvature` on the shared minibatch, one dict per inner step.
        angle: median of `directions` since the last snapshot, in degrees; NaN without any.
    """

    def __init__(
        self,
        training: Training,
        snapshots: int = 20,
        seed: int = 0,
        noise_batches: int = 8,
        curvature_steps: int | None = None,
    ):
        if snapshots < 1:
            raise ValueError(f"Diagnosis needs snapshots >= 1, got snapshots={snapshots}.")
        if noise_batches < 2:
            raise ValueError(f"Diagnosis needs noise_batches >= 2, got {noise_batches}.")
        self.training, self.count, self.noise_batches = training, snapshots, noise_batches
        inner_steps = training.optimizer.param_groups[0].get("inner_steps", 1)
        self.curvature_steps = curvature_steps or (inner_steps if inner_steps > 1 else 5)
        self.snapshots: list[dict[str, Any]] = []
        self.records: list[dict[str, float]] = []
        self.directions = StepDirectionRecorder(training.optimizer)
        task = training.task
        # Only full minibatches: a short one has another noise.
        self.batch_size = training.batches.batch_size
        if isinstance(task.train, Examples):
            self.batch_size = min(self.batch_size, len(task.train))
        self._batches = Batches(task, self.batch_size, seed + seeds.DIAGNOSIS)
        self._shared = self._draw()
        self._angles_used = 0

    def run(self, stop_requested: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Trains like `Training.run`, with snapshots between the steps."""
        with self.directions:
            for progress in self.training.run(stop_requested):
                over = self.training.status != "running"
                due = progress.fraction * max(self.count - 1, 1) >= len(self.snapshots)
                new = (
                    not self.snapshots
                    or progress.gradient_evaluations > self.snapshots[-1]["gradient_evaluations"]
                )
                if new and (over or (due and len(self.snapshots) < self.count)):
                    self.snapshots.append(self._snapshot(progress.gradient_evaluations))
                if progress.record:
                    self.records.append(progress.record)
                yield progress

    # -- one snapshot ------------------------------------------------------------------------------

    def _snapshot(self, spent: float) -> dict[str, Any]:
        with self.training.learner.committed():
            twin = double_precision_copy(self.training.model)
        loss, layers = layer_flow(twin, self.training.task, self._shared)
        spectra = {name: recurrent_spectra(layer) for name, layer in recurrent_layers(twin).items()}
        gradients = [self._gradient(twin, self._draw()) for _ in range(self.noise_batches)]
        noise = noise_scale(gradients, self.batch_size)
        new = self.directions.records[self._angles_used :]
        self._angles_used = len(self.directions.records)
        return dict(
            gradient_evaluations=spent,
            loss=loss,
            layers=layers,
            spectra=spectra,
            noise=dict(trace=noise.trace, squared_norm=noise.squared_norm, scale=noise.scale),
            curvature=self._curvature(twin),
            angle=finite_median([record["angle"] for record in new]),
        )

    def _draw(self) -> Batch:
        while True:
            batch = self._batches.draw()
            if len(batch) == self.batch_size:
                return batch.to(self.training.device)

    def _gradient(self, twin: nn.Module, batch: Batch) -> list[Tensor]:
        params = list(twin.parameters())
        return list(
            torch.autograd.grad(
                loss_in_precision_of(twin, self.training.task, batch),
                params,
                materialize_grads=True,
            )
        )

    def _curvature(self, twin: nn.Module) -> list[dict[str, float]]:
        optimizer = self.training.optimizer
        params = list(twin.parameters())
        groups: list[dict[str, Any]] = [{"params": params}]
        lr = float(optimizer.param_groups[0]["lr"])
        if isinstance(optimizer, FrankWolfe):
            of = dict(zip(self.training.model.parameters(), params, strict=True))
            groups = [
                {"params": [of[p] for p in group["params"]]} | {name: group[name] for name in BALL}
                for group in optimizer.param_groups
            ]
        return ball_curvature(
            lambda: loss_in_precision_of(twin, self.training.task, self._shared),
            groups,
            self.curvature_steps,
            lr=lr,
        )


def loss_in_precision_of(twin: nn.Module, task: Task, batch: Batch) -> Tensor:
    """Mean loss of a model on a minibatch, in the precision of its weights."""
    dtype = next(twin.parameters()).dtype
    targets = batch.targets.to(dtype) if batch.targets.is_floating_point() else batch.targets
    batch = Batch(batch.inputs.to(dtype), targets, batch.lengths)
    return task.loss_of(twin(batch.inputs, batch.lengths), batch)


def layer_flow(
    twin: nn.Module, task: Task, batch: Batch
) -> tuple[float, dict[str, dict[str, Any]]]:
    """Loss of a model on a minibatch, and each recurrent layer's record of `GradientFlow`."""
    with GradientFlow(twin, lengths=batch.lengths) as flow:
        loss = loss_in_precision_of(twin, task, batch)
        torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True)
    records = sorted(flow.records, key=lambda record: _order(record["layer"]))
    layers = {}
    for record in records:
        kept = {k: v for k, v in record.items() if k not in ("layer", "backward")}
        layers[record["layer"]] = kept | {"norms": record["norms"].tolist()}
    return float(loss.detach()), layers


def _order(name: str) -> list[tuple[int, str]]:
    """Sort key for the order of layers; autograd reaches the last layer first."""
    return [(int(part) if part.isdigit() else -1, part) for part in name.split(".")]


def double_precision_copy(model: nn.Module) -> nn.Module:
    """A copy for measurements: double precision, no dropout, batch statistics."""
    twin = copy.deepcopy(model).eval()
    if next(twin.parameters()).device.type != "mps":  # MPS has no double precision
        twin = twin.double()
    for module in twin.modules():
        # cuDNN's recurrent layers are differentiable only in training mode.
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.RNNBase)):
            module.training = True
    return twin
