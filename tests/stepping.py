"""Steps of optimizers on given gradients, and states that went through a file."""

import io

import torch

from rnnopt.config.options import call_flat
from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe


def through_a_file(contents):
    """`contents` saved, and loaded as untrusted files are."""
    file = io.BytesIO()
    torch.save(contents, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def parameter(*numbers, dtype=None):
    """A tensor to train."""
    return torch.nn.Parameter(torch.tensor(numbers, dtype=dtype))


def feed(optimizer, weights, gradients):
    """One streaming step with these gradients, None where there is none."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else gradient.clone().to(weight.dtype)
    optimizer.step()


def stream(optimizer, weight, gradients):
    """Streaming steps of a single tensor; the weights after each."""
    seen = []
    for gradient in gradients:
        feed(optimizer, [weight], [gradient])
        seen.append(weight.detach().clone())
    return torch.stack(seen)


def steps_of(optimizer, weight, gradients):
    """The change of a single tensor at each streaming step."""
    before = weight.detach().clone()
    seen = stream(optimizer, weight, gradients)
    return torch.diff(seen, dim=0, prepend=before[None])


def normals(shapes, rng, count):
    """Normal gradients of these shapes, `count` times."""
    return [[torch.randn(s, generator=rng) for s in shapes] for _ in range(count)]


def frank_wolfe(params, **options):
    """FrankWolfe, whose arguments and fields of its options are named alike."""
    return call_flat(FrankWolfe, params, **options)


def apart(kind, given):
    """The arguments of an optimizer, those that its options object of this kind has in one."""
    rest = {name: given.pop(name) for name in kind().keys() & given.keys()}
    return dict(given, options=kind(**rest))
