"""Six-layer IndRNN on MNIST pixel by pixel: how long do 400 passes over the data take on one GPU?

The published network (six layers of 128 units, batch normalisation, dropout 0.1, recurrent bound
5^(1/784)) took its users 2.5 to 4.8 hours on an RTX 2080 Ti. Here the data are in GPU memory, and
one training step (drawing the batch, forward, backward and Adam's update) is one CUDA graph: Python
only launches it.

    python benchmarks/pixel_mnist_on_gpu.py                    400 passes, batches of 128
    python benchmarks/pixel_mnist_on_gpu.py --task mnist-permuted --bf16
    python benchmarks/pixel_mnist_on_gpu.py --quick            small digits, a moment, anywhere

Without a GPU the same step runs without the graph. The printed accuracy is that on the test images,
with the weights of the best validation accuracy.
"""

import argparse
import time
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnopt import SequenceModel
from rnnopt.runs.environment import processor_name
from rnnopt.tasks import Task, build_task
from rnnopt.tasks.examples import Examples


class Step:
    """One training step on the next batch of a shuffled pass; on a GPU one CUDA graph.

    Args:
        model: model on its device.
        task: task with its data on the same device.
        batch_size: sequences per batch; an incomplete last batch of a pass is not used.
        passes: passes over the data, for the cosine schedule of the learning rate.
        lr, decay: Adam's rate and coupled L2 on all but biases and recurrent weights, as released.
        bf16: matrix products in bfloat16.
        seed: seed of the order of the sequences.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        batch_size: int,
        passes: int,
        lr: float,
        decay: float,
        bf16: bool,
        seed: int,
    ):
        assert isinstance(task.train, Examples)
        self.model, self.examples, self.batch_size = model, task.train, batch_size
        self.device = self.examples.inputs.device
        self.per_pass = len(self.examples) // batch_size
        if not (1 <= batch_size <= len(self.examples) and passes >= 1):
            raise SystemExit(
                f"batch size must be in 1 … {len(self.examples)} and passes at least 1, got"
                f" {batch_size} and {passes}."
            )
        self.passes, self.lr, self.done = passes, lr, 0
        named = list(model.named_parameters())
        free = [p for n, p in named if "weight_hh" in n or "bias" in n]
        decayed = [p for n, p in named if not ("weight_hh" in n or "bias" in n)]
        groups = [dict(params=decayed, weight_decay=decay), dict(params=free, weight_decay=0.0)]
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(lr, device=self.device) if on_gpu else lr
        self.optimizer = torch.optim.Adam(groups, lr=rate, capturable=on_gpu)
        self.index = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        self.loss = torch.zeros((), device=self.device)
        self.products = (
            torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
            if bf16
            else nullcontext()
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)
        self.graph = self._capture() if on_gpu else None

    def _shuffle(self) -> Tensor:
        return torch.randperm(len(self.examples), generator=self.generator).to(self.device)

    def _work(self) -> None:
        batch = self.examples.batch(self.index)
        with self.products:
            outputs = self.model(batch.inputs)
            loss = functional.cross_entropy(outputs.float(), batch.targets)
        self.optimizer.zero_grad(set_to_none=self.device.type == "cpu")
        loss.backward()
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Takes three steps on a separate stream, undoes them, then records one step."""
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        self.model.load_state_dict(weights)
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        return graph

    def __call__(self) -> None:
        """Takes the next step."""
        at = self.done % self.per_pass
        if at == 0:
            self.order = self._shuffle()
            fraction = self.done / (self.per_pass * self.passes)
            rate = 0.5 * self.lr * (1 + torch.cos(torch.tensor(torch.pi * fraction)).item())
            for group in self.optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        self.index.copy_(self.order[at * self.batch_size : (at + 1) * self.batch_size])
        if self.graph is None:
            self._work()
        else:
            self.graph.replay()
        self.done += 1


def main() -> None:
    """Reads the arguments, trains, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a moment, to see it work")
    parser.add_argument("--task", default="mnist-pixels")
    parser.add_argument("--passes", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--limit", type=float, help="stop after so many seconds, as the rate then is"
    )
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.quick:
        args.task, args.passes = "digits-pixels", 2
    torch.manual_seed(args.seed)
    task = build_task(args.task).to(device)
    model = SequenceModel(
        task.input_size,
        32 if args.quick else 128,
        task.output_size,
        cell="indrnn",
        layers=6,
        batch_norm=True,
        dropout=0.1,
        steps=task.steps,
    ).to(device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    print(f"torch {torch.__version__}, {where}, {args.task}, batches of {args.batch_size}")
    begun = time.perf_counter()
    settings = (args.batch_size, args.passes, args.lr, args.decay, args.bf16, args.seed)
    step = Step(model, task, *settings)
    prepared = time.perf_counter() - begun
    seconds, best, passes, weights = 0.0, -1.0, 0, model.state_dict()
    for passes in range(1, args.passes + 1):
        begun = time.perf_counter()
        for _ in range(step.per_pass):
            step()
        loss = step.loss.item()  # waits for the GPU
        seconds += time.perf_counter() - begun
        _, accuracy = task.evaluate(model, task.validation, device)
        if accuracy > best:
            best, weights = accuracy, {k: v.clone() for k, v in model.state_dict().items()}
        if passes % max(1, args.passes // 20) == 0:
            print(f"pass {passes}  {seconds:.1f} s  loss {loss:.4f}  validation {accuracy:.4f}")
        if args.limit and seconds > args.limit:
            break
    model.load_state_dict(weights)
    _, test = task.evaluate(model, task.test, device)
    print("\n| passes | training, s | ms per step | preparation, s | validation | test |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {passes} | {seconds:.1f} | {1e3 * seconds / step.done:.2f} | {prepared:.1f}"
        f" | {best:.4f} | {test:.4f} |"
    )


if __name__ == "__main__":
    main()
