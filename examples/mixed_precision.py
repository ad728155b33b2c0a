"""Plain torch with automatic mixed precision: autocast, GradScaler, clipping.

On a CPU bfloat16 needs no scaler (`enabled=False` makes it do nothing); on a GPU with float16 use
`torch.amp.GradScaler("cuda")`. Under a scaler call `FrankWolfe` without a closure: each `step` is
one inner step, and a minibatch whose gradient overflows is skipped.
"""

import sys

import torch
from digits import Network, accuracy, digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from rnnopt import FrankWolfe


def train(quick: bool, scaled: bool = True) -> float:
    """Test accuracy after training in bfloat16."""
    torch.manual_seed(0)
    train_data, test_data = digits(quick)
    network = Network()
    optimizer = FrankWolfe(network.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    for _ in range(8 if quick else 20):
        for inputs, targets in DataLoader(train_data, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(network(inputs), targets)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    with optimizer.committed(), torch.autocast("cpu", dtype=torch.bfloat16):
        return accuracy(network, test_data)


print(f"test accuracy {train('--quick' in sys.argv):.3f}")
