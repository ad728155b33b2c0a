"""skorch: a network as a scikit-learn estimator, trained by FrankWolfe, stopped early.

skorch hands `step` a closure that stays on one minibatch. `train_step` below makes each minibatch
one inner step. `infer` validates, saves and predicts with the weights to evaluate, so
`EarlyStopping(load_best=True)` ends with the score of the best epoch.
"""

import sys

import numpy as np
import torch
from digits import Network, digits
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from rnnopt import FrankWolfe


class FrankWolfeClassifier(NeuralNetClassifier):
    """One inner step per minibatch; validation and prediction with the weights to evaluate."""

    def train_step(self, batch, **options):
        self.optimizer_.train()
        self.optimizer_.zero_grad()
        step = self.train_step_single(batch, **options)
        self.notify("on_grad_computed", named_parameters=self.get_all_learnable_params())
        self.optimizer_.step()
        return step

    def infer(self, x, **options):
        if not self.module_.training:
            self.optimizer_.eval()
        return super().infer(x, **options)


def main(quick: bool) -> None:
    """Trains by cross-validation and prints the accuracy."""
    torch.manual_seed(0)
    inputs, targets = (tensor.numpy() for tensor in digits(quick)[0].tensors)
    epochs = 10 if quick else 20
    net = FrankWolfeClassifier(
        Network,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=FrankWolfe,
        optimizer__inner_steps=3,
        lr=5e-3,
        batch_size=32,
        max_epochs=epochs,
        callbacks=[
            LRScheduler(CosineAnnealingLR, T_max=epochs),
            EarlyStopping("valid_acc", patience=5, lower_is_better=False, load_best=True),
        ],
        verbose=0,
    )
    scores = cross_val_score(net, inputs, targets.astype(np.int64), cv=3)
    print(f"accuracy {scores.mean():.3f} ± {scores.std():.3f} of three folds")


if __name__ == "__main__":
    main("--quick" in sys.argv)
