"""MNIST as sequences: 28 rows of 28 pixels, 784 pixels, or 784 pixels in a fixed random order.

There are 60,000 training images, of which 3,000 are kept for validation (the same in every run),
and 10,000 test images. Pixels are standardised by one mean and deviation over the training pixels.
The order of permuted MNIST is numpy's RandomState(92916).permutation(784), as published with scoRNN
and expRNN. LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import gzip
import hashlib
import zlib

import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.tasks.download import find
from rnnopt.tasks.examples import Examples, split_examples, standardize
from rnnopt.tasks.task import Task

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Size and SHA-256 of the published archives, and of their contents.
FILES = {
    "train-images-idx3-ubyte": (
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
PERMUTATION_SEED = 92916


def read_idx(name: str) -> Tensor:
    """The bytes of one MNIST file as a uint8 tensor (count, 28, 28) or (count,)."""
    packed_size, packed_sha256, size, sha256 = FILES[name]
    path = find(f"mnist/{name}.gz", [f"{m}{name}.gz" for m in MIRRORS], packed_size, packed_sha256)
    try:
        with gzip.open(path) as file:
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} must be a gzip file of MNIST, but {error}.") from error
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise UserError(f"{path} must unpack to sha256 {sha256}, got {got}.")
    if content[3] == 3:  # number of dimensions
        return torch.frombuffer(bytearray(content[16:]), dtype=torch.uint8).view(-1, 28, 28)
    return torch.frombuffer(bytearray(content[8:]), dtype=torch.uint8)


def _mnist(
    name: str, summary: str, rows: bool, target: float, permuted: bool = False, pool: int = 1
) -> Task:
    if not isinstance(pool, int) or pool < 1 or 28 % pool:
        raise UserError(f"{name} needs pool to be one of 1, 2, 4, 7, 14, 28, got pool={pool!r}.")
    side = 28 // pool
    steps = side if rows else side * side
    if pool > 1:
        summary += f", means of {pool} x {pool} pixels: {steps} steps"
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(f"{part}-images-idx3-ubyte").view(-1, side, pool, side, pool)
        images = images.float().mean((2, 4)).view(len(images), steps, -1)
        if permuted:
            from numpy.random import RandomState

            images = images[:, torch.from_numpy(RandomState(PERMUTATION_SEED).permutation(steps))]
        parts.append(Examples(images, read_idx(f"{part}-labels-idx1-ubyte").long()))
    train, validation = split_examples(parts[0], [57_000, 3_000], seed=0)
    train, validation, test = standardize([train, validation, parts[1]])
    return Task(
        name=name,
        summary=summary,
        input_size=train.inputs.shape[2],
        output_size=10,
        loss="cross-entropy",
        target=target,
        train=train,
        validation=validation,
        test=test,
        epoch_size=len(train),
        hidden_size=100 if rows else 128,
        batch_size=128,
    )


def mnist_rows() -> Task:
    """MNIST, with a row of 28 pixels per step."""
    return _mnist("mnist-rows", "MNIST, a row per step (28 steps)", True, 0.97)


def mnist_pixels(pool: int = 1) -> Task:
    """MNIST, with one pixel per step; `pool` = 2 averages blocks of 2 x 2 pixels: 196 steps.

    Args:
        pool: side of the blocks of pixels whose mean is one step, a divisor of 28.
    """
    return _mnist("mnist-pixels", "MNIST, a pixel per step (784 steps)", False, 0.9, pool=pool)


def mnist_permuted(pool: int = 1) -> Task:
    """MNIST, with one pixel per step in a fixed random order.

    Args:
        pool: as in `mnist_pixels`.
    """
    summary = "MNIST, a pixel per step in a fixed random order (784 steps)"
    return _mnist("mnist-permuted", summary, False, 0.9, permuted=True, pool=pool)
