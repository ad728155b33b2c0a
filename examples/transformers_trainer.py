"""Hugging Face's Trainer with FrankWolfe and a scheduler: the best model, and a resumed run.

Trainer steps without a closure: each step is one inner step. It calls the optimizer's `train()` and
`eval()` by itself, so it evaluates and saves the weights to evaluate, and resumes from their
checkpoints in the middle of a cycle.
"""

import sys
import tempfile

import torch
from digits import Network, digits, same
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from rnnopt import FrankWolfe


class WithLoss(Network):
    """The network with the loss that the Trainer expects."""

    def forward(self, inputs, labels):
        logits = super().forward(inputs)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction):
    """Share of the images that are classified correctly."""
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean().item()}


def rows(data):
    """Images and labels under the argument names of `forward`."""
    return [{"inputs": image, "labels": label} for image, label in data]


def build(quick, folder):
    """A Trainer that keeps one checkpoint per epoch in `folder`."""
    torch.manual_seed(0)
    options = dict(use_cpu=True, report_to="none", disable_tqdm=True, logging_strategy="no")
    options |= dict(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    arguments = TrainingArguments(
        folder, num_train_epochs=4, per_device_train_batch_size=32,
        metric_for_best_model="accuracy", **options,
    )  # fmt: skip
    train_data, test_data = map(rows, digits(quick))
    network = WithLoss()
    optimizer = FrankWolfe(network.parameters(), lr=1e-2, inner_steps=3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    both = dict(optimizers=(optimizer, scheduler), compute_metrics=accuracy)
    return Trainer(network, arguments, None, train_data, test_data, **both)


with tempfile.TemporaryDirectory() as folder:
    whole, resumed = (build("--quick" in sys.argv, folder) for _ in range(2))
    whole.train()
    first = len(whole.get_train_dataloader())  # steps of the first epoch, no multiple of 3
    resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-{first}")
identical = same(whole.model, resumed.model)
reached = whole.evaluate()["eval_accuracy"]
assert reached == whole.state.best_metric  # the score is that of the loaded checkpoint
print(f"test accuracy {reached:.3f}, resumed ends the same: {identical}")
