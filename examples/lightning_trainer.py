"""Lightning's Trainer: the best checkpoint, and a run resumed in the middle of a cycle.

Lightning hands `step` a closure that stays on one minibatch: with `inner_steps=3` each step takes
three gradients of it. Streaming makes each minibatch one inner step instead. Use it also with
`accumulate_grad_batches`, where each call of the closure adds to the gradient. Avoid
`self.optimizers().step()`: Lightning adds an empty closure, and one gradient counts three times.
"""

import sys
import tempfile

import lightning
from digits import Network, digits, same
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

from rnnopt import FrankWolfe

QUIET = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)


class Digits(lightning.LightningModule):
    """The network with FrankWolfe."""

    def __init__(self, streaming):
        super().__init__()
        self.network, self.streaming = Network(), streaming

    def training_step(self, batch, number):
        return cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch, number):
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    validation_step = test_step

    def configure_optimizers(self):
        return FrankWolfe(self.network.parameters(), lr=1e-2, inner_steps=3)

    def optimizer_step(self, epoch, batch, optimizer, closure):
        if not self.streaming:
            return super().optimizer_step(epoch, batch, optimizer, closure)
        closure()  # the gradient of this minibatch; clip it here if needed
        optimizer.optimizer.step()


class EvalMode(lightning.Callback):
    """Eval mode for validation, checkpoints and the end of training; train mode for training."""

    def on_train_batch_start(self, trainer, module, batch, number):
        trainer.optimizers[0].train()

    def on_validation_start(self, trainer, module):
        trainer.optimizers[0].eval()

    on_train_end = on_validation_start


def fit(quick, streaming, epochs, folder, resume=False):
    """A trainer after `epochs` epochs, and the accuracy of its best checkpoint."""
    lightning.seed_everything(0, verbose=False)
    train_data, test_data = digits(quick)
    order = DistributedSampler(train_data, 1, 0)  # by epoch: the same after resuming
    loaders = DataLoader(train_data, 32, sampler=order), DataLoader(test_data, 1000)
    best = ModelCheckpoint(folder, "best", "accuracy", mode="max", save_last=True)
    trainer = lightning.Trainer("cpu", max_epochs=epochs, callbacks=[EvalMode(), best], **QUIET)
    last = f"{folder}/last.ckpt" if resume else None
    trainer.fit(Digits(streaming), *loaders, ckpt_path=last, weights_only=True)
    (scores,) = trainer.test(None, loaders[1], "best", verbose=False, weights_only=True)
    assert scores["accuracy"] == best.best_model_score  # the score is that of the best checkpoint
    return trainer, scores["accuracy"]


for streaming in (False, True):
    with tempfile.TemporaryDirectory() as folder:
        fit("--quick" in sys.argv, streaming, 2, folder)
        resumed, _ = fit("--quick" in sys.argv, streaming, 4, folder, resume=True)
        whole, accuracy = fit("--quick" in sys.argv, streaming, 4, f"{folder}/whole")
    identical = same(whole.lightning_module, resumed.lightning_module)
    print(f"{streaming=}: test accuracy {accuracy:.3f}, resumed ends the same: {identical}")
