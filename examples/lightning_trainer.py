"""Lightning's Trainer, resumed from a checkpoint in the middle of a cycle of three inner steps.

Lightning hands `step` a closure that stays on one minibatch: with `inner_steps=3` each step takes
three gradients of it. Streaming makes each minibatch one inner step instead. Avoid
`self.optimizers().step()`: Lightning adds a closure that does nothing, one gradient counts thrice.
"""

import sys
import tempfile

import lightning
from digits import Network, digits, same
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

from rnnopt import FrankWolfe

QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


class Digits(lightning.LightningModule):
    """The network with FrankWolfe."""

    def __init__(self, streaming):
        super().__init__()
        self.network, self.streaming = Network(), streaming

    def training_step(self, batch, number):
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, number):
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return FrankWolfe(self.network.parameters(), lr=3e-3, inner_steps=3)

    def optimizer_step(self, epoch, batch, optimizer, closure):
        if not self.streaming:
            return super().optimizer_step(epoch, batch, optimizer, closure)
        closure()  # the gradient of this minibatch; clip it here, if it shall be
        optimizer.optimizer.step()


class Committed(lightning.Callback):
    """Validates the committed weights; checkpoints are taken outside."""

    def on_validation_start(self, trainer, module):
        self.context = trainer.optimizers[0].committed()
        self.context.__enter__()

    def on_validation_end(self, trainer, module):
        self.context.__exit__(None, None, None)


def fit(quick, streaming, epochs, checkpoint=None):
    """A trainer and the module after `epochs` epochs."""
    lightning.seed_everything(0, verbose=False)
    train_data, test_data = digits(quick)
    order = DistributedSampler(train_data, 1, 0)  # by epoch, so the same after resuming
    loaders = DataLoader(train_data, 32, sampler=order), DataLoader(test_data, 1000)
    options = dict.fromkeys(QUIET, False)
    trainer = lightning.Trainer("cpu", max_epochs=epochs, callbacks=[Committed()], **options)
    trainer.fit(Digits(streaming), *loaders, ckpt_path=checkpoint, weights_only=True)
    return trainer


for streaming in (False, True):
    with tempfile.NamedTemporaryFile(suffix=".ckpt") as file:
        fit("--quick" in sys.argv, streaming, epochs=2).save_checkpoint(file.name)
        resumed = fit("--quick" in sys.argv, streaming, 4, file.name)
    whole = fit("--quick" in sys.argv, streaming, 4)
    identical = same(whole.lightning_module, resumed.lightning_module)
    accuracy = whole.callback_metrics["accuracy"].item()
    print(f"{streaming=}: test accuracy {accuracy:.3f}, resumed ends the same: {identical}")
