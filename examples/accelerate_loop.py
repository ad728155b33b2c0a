"""Accelerate: accumulation, a scheduler, and states saved in the middle of a Frank-Wolfe cycle.

`prepare` wraps the optimizer; `train()` and `eval()` of the wrapper call those of FrankWolfe. A
step without a closure is one inner step; every third step commits.
"""

import sys
import tempfile

import torch
from accelerate import Accelerator
from digits import Network, accuracy, digits, same
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from rnnopt import FrankWolfe

EPOCHS = 4


def train(quick, folder, resume):
    """Trains and saves after the first epoch, or resumes there."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    train_data, test_data = digits(quick)
    loader = DataLoader(train_data, batch_size=16, shuffle=True)
    network = Network()
    optimizer = FrankWolfe(network.parameters(), lr=1e-2, inner_steps=3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader) // 2)
    prepared = accelerator.prepare(network, optimizer, loader, scheduler)
    network, optimizer, loader, scheduler = prepared
    if resume:
        accelerator.load_state(folder)
    for epoch in range(1 if resume else 0, EPOCHS):
        torch.manual_seed(epoch)  # the order of this epoch
        for inputs, targets in loader:
            with accelerator.accumulate(network):
                accelerator.backward(cross_entropy(network(inputs), targets))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        if epoch == 0:
            print(f"saved at inner step {optimizer.optimizer.inner_step} of 3")
            accelerator.save_state(folder)
    optimizer.eval()  # call optimizer.train() before you continue training
    return network, accuracy(network, test_data)


with tempfile.TemporaryDirectory() as folder:
    network, reached = train("--quick" in sys.argv, folder, resume=False)
    resumed, _ = train("--quick" in sys.argv, folder, resume=True)
print(f"test accuracy {reached:.3f}, resumed ends the same: {same(network, resumed)}")
