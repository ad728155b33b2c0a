"""torch.distributed: FrankWolfe in several processes, synchronous and with local steps.

    torchrun --nproc-per-node 2 --standalone examples/distributed_training.py

Synchronous: DistributedDataParallel averages every gradient, and each process takes the steps of
one process on the whole batch. Local: without it, `communicate="commit"` averages the displacements
that each process finds in `inner_steps` minibatches, and sends 1/inner_steps as much. Without
torchrun the same script runs in one process.
"""

import os
import sys

import torch
from digits import Network, accuracy, digits
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from rnnopt import FrankWolfe, FrankWolfeOptions
from rnnopt.distributed import copy_from_first, processes


def train(communicate: str, inner_steps: int, quick: bool) -> tuple[float, Network]:
    """Test accuracy, the same in all processes, and the weights it belongs to."""
    torch.manual_seed(0)
    train_data, test_data = digits(quick)
    rank = distributed.get_rank() if processes() > 1 else 0
    sampler = DistributedSampler(train_data, processes(), rank, drop_last=True)
    loader = DataLoader(train_data, batch_size=32 // processes(), sampler=sampler, drop_last=True)
    network = Network()
    copy_from_first(network)
    wrap = communicate == "gradient" and processes() > 1
    trained: nn.Module = DistributedDataParallel(network) if wrap else network
    optimizer = FrankWolfe(
        trained.parameters(),
        lr=3e-3,
        inner_steps=inner_steps,
        options=FrankWolfeOptions(communicate=communicate),
    )
    for epoch in range(15 if quick else 30):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            cross_entropy(trained(inputs), targets).backward()
            optimizer.step()
    with optimizer.committed():
        return accuracy(network, test_data), network


torch.set_num_threads(1)
if "RANK" in os.environ:
    distributed.init_process_group("gloo")
synchronous, _ = train("gradient", 1, "--quick" in sys.argv)
local, _ = train("commit", 3, "--quick" in sys.argv)
if processes() == 1 or distributed.get_rank() == 0:
    print(f"{processes()} processes: test accuracy {synchronous:.3f}, local steps {local:.3f}")
if "RANK" in os.environ:
    distributed.destroy_process_group()
