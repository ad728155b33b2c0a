"""Plain torch: gradient accumulation, learning-rate schedulers, an exponential average of weights.

With `inner_steps` above 1 the weights are at a probe point between commits, so the average takes
them only when `inner_step` is 0. `FrankWolfe` has its own mean, which `committed()` shows; here
`average=None` switches it off in favour of torch's `AveragedModel`.
"""

import sys

import torch
from digits import Network, accuracy, digits
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from rnnopt import FrankWolfe

ACCUMULATED = 2  # minibatches per gradient


def train(quick: bool) -> tuple[float, float]:
    """Test accuracy of the last weights and of their exponential average."""
    torch.manual_seed(0)
    train_data, test_data = digits(quick)
    loader = DataLoader(train_data, batch_size=16, shuffle=True, drop_last=True)
    epochs = 8 if quick else 20
    steps = epochs * (len(loader) // ACCUMULATED)
    network = Network()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = FrankWolfe(network.parameters(), lr=1e-2, average=None)
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=steps // 10)
    decay = CosineAnnealingLR(optimizer, T_max=steps - steps // 10)
    scheduler = SequentialLR(optimizer, [warm_up, decay], milestones=[steps // 10])
    for _ in range(epochs):
        for number, (inputs, targets) in enumerate(loader, start=1):
            (cross_entropy(network(inputs), targets) / ACCUMULATED).backward()
            if number % ACCUMULATED:
                continue
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            if optimizer.inner_step == 0:  # committed weights, no probe point
                average.update_parameters(network)
    with optimizer.committed():
        return accuracy(network, test_data), accuracy(average, test_data)


last, averaged = train("--quick" in sys.argv)
print(f"test accuracy {last:.3f}, of the averaged weights {averaged:.3f}")
