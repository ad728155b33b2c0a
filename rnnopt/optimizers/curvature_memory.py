"""Curvature kept as vectors: the inverse-Hessian product of L-BFGS and the Fisher product.

Pairs (s_i, y_i), i = 1 … τ from the oldest, stand for the inverse Hessian H with H y_τ = s_τ that
BFGS builds from them, starting at H0. The two loops that multiply it with a gradient g,

    q = g;      for i = τ … 1:  σ_i = s_i·q / y_i·s_i,  q -= σ_i y_i
    r = H0 q;   for i = 1 … τ:  β_i = y_i·r / y_i·s_i,  r += (σ_i - β_i) s_i          H g = r

are two triangular systems in R_ij = s_i·y_j, i ≤ j: R σ = S g, and Rᵀ c = D σ - Y r with c = σ - β
and D the diagonal of R. So four products with a matrix of memory × d numbers do the work of 4τ
passes, and nothing loops over the pairs. (Nocedal, "Updating quasi-Newton matrices with limited
storage", Mathematics of Computation 35, 1980; Byrd, Nocedal and Schnabel 1994 for the matrix form.)

The aSNAQ paper prints the second loop with a minus sign: then H is neither symmetric nor positive.

Everything here works on lists, one entry a bucket of `flat_state`: vectors (size,), memories (rows,
size) in whose rows the pairs stand as in a ring, `oldest` being the row of the oldest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 1 << 16  # columns of a memory of lower precision that are widened at once


def inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """one · other over all buckets, float64, on the first bucket's device."""
    products = [torch.dot(a, b).double() for a, b in zip(one, other, strict=True)]
    return torch.stack([p.to(products[0].device) for p in products]).sum()


def norm(vectors: Sequence[Tensor]) -> Tensor:
    """Length over all buckets, float64: neither overflow nor underflow in single precision."""
    lengths = [torch.linalg.vector_norm(v, dtype=torch.float64) for v in vectors]
    return torch.linalg.vector_norm(torch.stack([n.to(lengths[0].device) for n in lengths]))


def products(memory: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """Each row of the memory times the vector, (rows,), float64."""
    parts = [_times(rows, v).double() for rows, v in zip(memory, vectors, strict=True)]
    return torch.stack([p.to(parts[0].device) for p in parts]).sum(0)


def add_rows(
    vectors: Sequence[Tensor], memory: Sequence[Tensor], weights: Tensor, sign: float = 1.0
) -> None:
    """vectors += sign · Σ_i weights_i row_i, in place."""
    for vector, rows in zip(vectors, memory, strict=True):
        factors = weights.to(vector.device, vector.dtype)
        if rows.dtype == vector.dtype:
            vector.addmv_(rows.t(), factors, alpha=sign)
        else:
            for part, block in zip(vector.split(BLOCK), rows.split(BLOCK, dim=1), strict=True):
                part.addmv_(block.to(vector.dtype).t(), factors, alpha=sign)


def _times(rows: Tensor, vector: Tensor) -> Tensor:
    """rows @ vector in the vector's type."""
    if rows.dtype == vector.dtype:
        return rows @ vector
    total = torch.zeros(rows.shape[0], dtype=vector.dtype, device=vector.device)
    for block, part in zip(rows.split(BLOCK, dim=1), vector.split(BLOCK), strict=True):
        total += block.to(vector.dtype) @ part
    return total


def pair_products(changes: Sequence[Tensor], differences: Sequence[Tensor]) -> Tensor:
    """s_i · y_j of all rows, (rows, rows), float64."""
    parts = [(s @ y.t()).double() for s, y in zip(changes, differences, strict=True)]
    return torch.stack([p.to(parts[0].device) for p in parts]).sum(0)


def inverse_hessian_product(
    gradient: Sequence[Tensor],
    changes: Sequence[Tensor],
    differences: Sequence[Tensor],
    pairs: Tensor,
    oldest: int = 0,
    scaling: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """H g.

    Args:
        gradient: g.
        changes, differences: the pairs s and y, (pairs, size) each.
        pairs: their products s_i · y_j, from `pair_products`; s_i · y_i > 0.
        oldest: row of the oldest pair.
        scaling: diagonal of H0; None is the identity.

    Returns:
        New vectors; non-finite where the pairs' products overflow.
    """
    count = pairs.shape[0]
    q = [g.clone() for g in gradient]
    if count == 0:
        return q if scaling is None else [a.mul_(h) for a, h in zip(q, scaling, strict=True)]
    upper = pairs.roll((-oldest, -oldest), (0, 1)).triu()
    target = products(changes, gradient).roll(-oldest)
    sigma = torch.linalg.solve_triangular(upper, target[:, None], upper=True)[:, 0]
    add_rows(q, differences, sigma.roll(oldest), sign=-1.0)
    r = q if scaling is None else [a.mul_(h) for a, h in zip(q, scaling, strict=True)]
    target = upper.diagonal() * sigma - products(differences, r).roll(-oldest)
    c = torch.linalg.solve_triangular(upper.t(), target[:, None], upper=False)[:, 0]
    add_rows(r, changes, c.roll(oldest))
    return r


def fisher_product(
    history: Sequence[Tensor], change: Sequence[Tensor], mean: bool = True
) -> list[Tensor]:
    """Σ_i F_i (F_i · s), divided by the number of gradients F_i unless `mean` is off.

    Args:
        history: the gradients, (gradients, size) each.
        change: s.
    """
    weights = products(history, change)
    if mean:
        weights = weights / max(1, len(weights))
    result = [torch.zeros_like(s) for s in change]
    add_rows(result, history, weights)
    return result
