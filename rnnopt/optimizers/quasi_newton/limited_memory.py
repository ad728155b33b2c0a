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
size) in whose rows the pairs stand as in a ring, `oldest` being the row of the oldest. `joint` sums
what the buckets give where other processes hold parts of the vectors, see `FlatState.joint`.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

SAFE = 1e-15  # lengths from here to its inverse have squares that single precision can add
BLOCK = 1 << 16  # columns that are worked on at once
Scaling = Callable[[int, slice], Tensor]
Total = Callable[[list[Tensor]], Tensor]


def total(parts: list[Tensor], joint: Total | None = None) -> Tensor:
    """The sum of what the buckets give, on the first bucket's device."""
    if joint is not None:
        return joint(parts)
    if len(parts) == 1:
        return parts[0]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum(0)


def inner(one: Sequence[Tensor], other: Sequence[Tensor], joint: Total | None = None) -> Tensor:
    """one · other over all buckets, float64, on the first bucket's device."""
    return total([torch.dot(a, b).double() for a, b in zip(one, other, strict=True)], joint)


def norm(vectors: Sequence[Tensor], joint: Total | None = None) -> float:
    """Length over all buckets; the squares of very large and very small entries are not lost."""
    if joint is not None:
        lengths = [torch.linalg.vector_norm(v, dtype=torch.float64) for v in vectors]
        return math.sqrt(float(joint([length.square() for length in lengths])))
    length = math.hypot(*(float(torch.linalg.vector_norm(v)) for v in vectors))
    if SAFE < length < 1 / SAFE:
        return length
    wide = (torch.linalg.vector_norm(v, dtype=torch.float64) for v in vectors)
    return math.hypot(*(float(n) for n in wide))


def products(
    memory: Sequence[Tensor], vectors: Sequence[Tensor], joint: Total | None = None
) -> Tensor:
    """Each row of the memory times the vector, (rows,), float64."""
    parts = [_times(rows, v).double() for rows, v in zip(memory, vectors, strict=True)]
    return total(parts, joint)


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


def pair_products(
    changes: Sequence[Tensor], differences: Sequence[Tensor], joint: Total | None = None
) -> Tensor:
    """s_i · y_j of all rows, (rows, rows), float64."""
    parts = [(s @ y.t()).double() for s, y in zip(changes, differences, strict=True)]
    return total(parts, joint)


def inverse_hessian_product(
    gradient: Sequence[Tensor],
    changes: Sequence[Tensor],
    differences: Sequence[Tensor],
    pairs: Tensor,
    oldest: int = 0,
    scaling: Scaling | None = None,
    out: Sequence[Tensor] | None = None,
    joint: Total | None = None,
) -> list[Tensor]:
    """H g.

    Args:
        gradient: g.
        changes, differences: the pairs s and y, (pairs, size) each.
        pairs: their products s_i · y_j, from `pair_products`; s_i · y_i > 0.
        oldest: row of the oldest pair.
        scaling: (bucket, columns) → those columns of the diagonal of H0; None is the identity.
        out: vectors to write to; None makes new ones.

    Returns:
        `out`; non-finite where the pairs' products overflow.
    """
    r = [torch.empty_like(g) for g in gradient] if out is None else list(out)
    if pairs.shape[0] == 0:
        for bucket, columns in blocks(gradient):
            r[bucket][columns].copy_(gradient[bucket][columns])
            if scaling is not None:
                r[bucket][columns].mul_(scaling(bucket, columns))
        return r
    upper = pairs.roll((-oldest, -oldest), (0, 1)).triu()
    target = products(changes, gradient, joint).roll(-oldest)
    sigma = torch.linalg.solve_triangular(upper, target[:, None], upper=True)[:, 0]
    removed = [sigma.roll(oldest).to(g.device, g.dtype) for g in gradient]
    of_buckets = [torch.zeros_like(sigma) for _ in gradient]  # y_i · r
    # Block by block, so that what one line leaves in the cache the next finds there.
    for bucket, columns in blocks(gradient):
        part, rows = r[bucket][columns], differences[bucket][:, columns]
        part.copy_(gradient[bucket][columns]).addmv_(rows.t(), removed[bucket], alpha=-1)
        if scaling is not None:
            part.mul_(scaling(bucket, columns))
        of_buckets[bucket] += (rows @ part).to(sigma.device, sigma.dtype)
    images = total(of_buckets, joint)
    target = upper.diagonal() * sigma - images.roll(-oldest)
    c = torch.linalg.solve_triangular(upper.t(), target[:, None], upper=False)[:, 0]
    add_rows(r, changes, c.roll(oldest))
    return r


def blocks(vectors: Sequence[Tensor]) -> Iterator[tuple[int, slice]]:
    """Buckets and columns of it, in order; few enough columns for a cache."""
    for bucket, vector in enumerate(vectors):
        for start in range(0, len(vector), BLOCK):
            yield bucket, slice(start, start + BLOCK)


def fisher_product(
    history: Sequence[Tensor],
    change: Sequence[Tensor],
    mean: bool = True,
    joint: Total | None = None,
) -> list[Tensor]:
    """Σ_i F_i (F_i · s), divided by the number of gradients F_i unless `mean` is off.

    Args:
        history: the gradients, (gradients, size) each.
        change: s.
    """
    weights = products(history, change, joint)
    if mean:
        weights = weights / max(1, len(weights))
    result = [torch.zeros_like(s) for s in change]
    add_rows(result, history, weights)
    return result
