"""What the tests of products in bfloat16 share: a twin of a product, and ways to multiply."""

import pytest
import torch

from rnnopt.layers.kernels import cpu, half_linear

needs_half = pytest.mark.skipif(half_linear.kind() is None, reason="no products in bfloat16 here")
KINDS = {"AVX512-BF16": 1, "AMX": 2}


@pytest.fixture(params=list(KINDS))
def each_kind(request):
    """Every way in which this processor multiplies in bfloat16."""
    found = half_linear.kind()
    if found is None or KINDS[request.param] > KINDS[found]:
        pytest.skip(f"this processor has no {request.param}")
    limit = cpu.kernels().library.rnnopt_limit_half_kind
    limit(KINDS[request.param])
    yield request.param
    limit(KINDS["AMX"])


@pytest.fixture
def anywhere(monkeypatch):
    """As on a processor that has such products; the kernels themselves are not used."""
    monkeypatch.setattr(half_linear, "kind", lambda: "AMX")
    yield
    monkeypatch.undo()


class RoundedProduct(torch.autograd.Function):
    """x Wᵀ in double precision, with all factors rounded, in the gradients too."""

    @staticmethod
    def forward(ctx, x, w):
        x, w = x.bfloat16().double(), w.bfloat16().double()
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad = grad.float().bfloat16().double()
        return grad @ w, grad.flatten(0, -2).t() @ x.flatten(0, -2)


def distances(ones, others):
    """Relative ones; a gradient that normalisation makes zero counts as of size 1."""
    return [
        (one - other).norm().item() / max(1, other.norm().item())
        for one, other in zip(ones, others, strict=True)
    ]
