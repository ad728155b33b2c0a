"""Linear minimisation oracles: the point of a norm ball that goes furthest against a gradient.

For a gradient g and the ball {s : ‖s‖ ≤ r} the oracle is argmin ⟨s, g⟩ and its value is -r ‖g‖_*,
with ‖·‖_* the dual norm. With 1/p + 1/q = 1 the vertices s are

    p = 1          -r sgn(g_j) e_j           j = argmax |g_i|, the lowest index of a tie
    1 < p < ∞      -r sgn(g) (|g| / ‖g‖_q)^{1/(p-1)}
    p = 2          -r g / ‖g‖_2
    p = ∞          -r sgn(g)                 sgn(0) = 0, so that dead units stay still
    spectral       -r U Vᵀ                   for a matrix g = U Σ Vᵀ; other shapes use p = 2
    any, g = 0     0

Everything here is pure: lists of tensors in, new lists out, no host synchronisation, no epsilon, so
LMO(c g) = LMO(g) for every c > 0. Non-finite gradients give non-finite vertices.

Yue, Li, Saligrama and Zhang, "RNN Training along Locally Optimal Trajectories via Frank-Wolfe
Algorithm", ICPR 2020, https://arxiv.org/abs/2010.05397, section III. Departures from the paper:

1. Its Eq. 5 prints the exponent p/q with ‖s‖_q = δ, which is the oracle of the dual ball. The
   exponent here is q/p = 1/(p-1) with ‖s‖_p = δ, from equality in Hölder's inequality. Both agree
   at p = 2.
2. The spectral ball is not in the paper. `polar_express` is the default way to compute U Vᵀ; its
   docstring states how close to the sphere it ends.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rnnopt.optimizers.frank_wolfe import polar_kernel

Tensors = list[Tensor] | tuple[Tensor, ...]
Norm = float | str  # a float p ≥ 1 (math.inf included) or "spectral"


class Joint(Protocol):
    """Combines numbers of tensors of which each process holds a part; see sharding.py."""

    def join(self, numbers: Tensors, order: float) -> Tensors:
        """Norms of the tensors from the norms of the parts."""

    def first(self, sizes: Tensors) -> list[Tensor]:
        """1.0 for each tensor whose largest entry is in this process, else 0.0."""


# Quintic coefficients (a, b, c) of p(x) = a x + b x³ + c x⁵, from Amsel, Persson, Musco and Gower,
# "The Polar Express", https://arxiv.org/abs/2505.16932 (their reference code, l = 1e-3).
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115952949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
)
# x (3 - x²)/2, twice.
CLASSICAL = ((1.5, -0.5, 0.0),) * 2
# Jordan's constants as torch.optim.Muon uses them, https://kellerjordan.github.io/posts/muon/.
MUON_NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


def check_norm(norm: Norm) -> None:
    """Raises ValueError unless `norm` is a number p ≥ 1, "spectral" or "learnt"."""
    if norm in ("spectral", "learnt"):
        return
    if not isinstance(norm, int | float) or isinstance(norm, bool) or not norm >= 1:
        raise ValueError(
            f'norm must be a number p >= 1, inf, "spectral" or "learnt", got norm={norm!r}.'
        )


def is_matrix(tensor: Tensor) -> bool:
    """Whether the spectral ball applies; convolution kernels are flattened to matrices."""
    return tensor.ndim >= 2


def ball_scale(tensor: Tensor, norm: Norm, scale: str) -> float:
    """Norm of the points on a ball's surface when its radius is 1 in the unit of `scale`.

    Args:
        tensor: any tensor of the shape in question.
        norm: as in `vertices`.
        scale: "norm", the radius is the norm itself (the paper). "entry", the radius is the size of
            a typical entry: the ball touches the tensor of all ones, n^{1/p}, and a spectral vertex
            r √max(rows, columns) U Vᵀ has root-mean-square entry r, like r √n g/‖g‖₂.
    """
    if scale == "norm":
        return 1.0
    if norm == "spectral":
        if is_matrix(tensor):
            rows = tensor.shape[0]
            return math.sqrt(max(rows, tensor.numel() // max(rows, 1)))
        norm = 2
    return tensor.numel() ** (1 / float(norm))


def vertices(
    gradients: Tensors,
    norm: Norm,
    radii: Sequence[float],
    spectral: str = "polar-express",
    joint: Joint | None = None,
) -> Tensors:
    """One vertex per tensor; each tensor has its own ball.

    Args:
        gradients: tensors of any shape, device and floating dtype; not written to.
        norm: p ≥ 1, inf or "spectral".
        radii: radius of each tensor's ball, ≥ 0.
        spectral: method for U Vᵀ: "polar-express", "svd" (exact) or "newton-schulz" (Muon's).
        joint: given where the tensors are parts of larger ones; not for the spectral norm.

    Returns:
        New tensors s_i = argmin_{‖s‖ ≤ radii_i} ⟨s, gradients_i⟩.

    Example:
        >>> vertices([torch.tensor([3.0, -4.0])], norm=2, radii=[0.1])
        [tensor([-0.0600,  0.0800])]
    """
    if not gradients:
        return []
    if norm == "spectral":
        return _spectral_vertices(gradients, radii, spectral)
    if norm == 1:
        if joint is None:
            return [_largest_entry(g) * -r for g, r in zip(gradients, radii, strict=True)]
        here = joint.first(_maxima(torch._foreach_abs(gradients)))
        pairs = zip(gradients, radii, here, strict=True)
        return [_largest_entry(g) * (-r * chosen) for g, r, chosen in pairs]
    if norm == math.inf:
        signs = _signs(gradients)
        torch._foreach_mul_(signs, [-r for r in radii])
        return signs
    if norm == 2:
        return _euclidean_vertices(gradients, radii, joint)
    p = float(norm)
    q = p / (p - 1)
    results = torch._foreach_abs(gradients)
    torch._foreach_div_(results, _divisors(_maxima(results, joint)))
    torch._foreach_div_(results, _divisors(_norms(results, q, joint)))
    torch._foreach_pow_(results, 1 / (p - 1))
    torch._foreach_mul_(results, torch._foreach_sign(gradients))
    torch._foreach_mul_(results, [-r for r in radii])
    return results


def global_vertices(
    gradients: Tensors,
    norm: Norm,
    radii: Sequence[float],
    spectral: str = "polar-express",
    joint: Joint | None = None,
) -> Tensors:
    """The vertex of one ball around all tensors together, Σ_i ‖s_i / radii_i‖_p^p ≤ 1.

    With equal radii r this is ‖(s_1, s_2, …)‖_p ≤ r. For p = ∞ and for the spectral norm (the
    largest of all singular values) it is the same as one ball per tensor.

    Args:
        gradients, norm, spectral, joint: as in `vertices`.
        radii: semi-axis of each tensor's part of the ball, ≥ 0.
    """
    if norm in ("spectral", math.inf):
        return vertices(gradients, norm, radii, spectral, joint)
    if not gradients:
        return []
    # s_i = r_i z_i, z the unit vertex at (r_i g_i); dividing all r_i by the largest leaves z.
    largest_radius = max(radii) or 1.0
    weighted = torch._foreach_mul(gradients, [r / largest_radius for r in radii])
    results = torch._foreach_abs(weighted)
    if norm == 1:
        maxima = torch.stack([m.to(gradients[0].device) for m in _maxima(results, joint)])
        holds_largest = torch.zeros_like(maxima).scatter_(0, maxima.argmax().view(1), 1.0)
        if joint is not None:
            holds_largest = holds_largest * torch.stack(joint.first(_maxima(results)))
        return [
            _largest_entry(g) * (-r * chosen.to(g))
            for g, r, chosen in zip(weighted, radii, holds_largest.unbind(), strict=True)
        ]
    p = float(norm)
    q = p / (p - 1)
    for order in (math.inf, q):
        sizes = _maxima(results, joint) if order == math.inf else _norms(results, q, joint)
        total = torch.stack([n.to(gradients[0].device, torch.float64) for n in sizes])
        total = torch.linalg.vector_norm(total, order)
        total = torch.where(total == 0, 1.0, total)
        torch._foreach_div_(results, [total.to(r.device) for r in results])
    torch._foreach_pow_(results, 1 / (p - 1))
    torch._foreach_mul_(results, torch._foreach_sign(weighted))
    torch._foreach_mul_(results, [-r for r in radii])
    return results


def polar_express(matrices: Tensor) -> Tensor:
    """U Vᵀ of each matrix by matrix products alone, with singular values never above 1.

    Six minimax quintics lift every singular value of G/‖G‖_F that is ≥ 1e-3 to within 1 % of 1. Two
    classical steps x (3 - x²)/2, which map [0, √3] into [0, 1], then take those to 1 - 1e-7 and
    bring any overshoot back into the ball. Smaller singular values end below 1, but they add little
    to ⟨s, g⟩: the point is always in the ball and nearly optimal. Half precision is computed in
    float32.

    Args:
        matrices: (count, rows, columns).
    """
    x = matrices if matrices.dtype == torch.float64 else matrices.float()
    x = _divide_by_frobenius(x)
    if polar_kernel.can_run(x):
        x = polar_kernel.apply_polynomials(x, (*POLAR_EXPRESS, *CLASSICAL))
    else:
        x = _apply_polynomials(x, (*POLAR_EXPRESS, *CLASSICAL))
    return x.to(matrices.dtype)


def _apply_polynomials(x: Tensor, steps: Sequence[tuple[float, float, float]]) -> Tensor:
    """x ← a x + b x xᵀx + c x (xᵀx)² for each (a, b, c) in turn."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for a, b, c in steps:
        gram = x @ x.mT
        update = b * gram + c * gram @ gram if c else b * gram
        x = a * x + update @ x
    return x.mT if tall else x


def muon_newton_schulz(matrices: Tensor) -> Tensor:
    """Muon's five bfloat16 Newton-Schulz steps, operation for operation as torch.optim.Muon.

    Singular values end between about 0.7 and 1.2, so the result may leave the unit ball by 20 %.

    Args:
        matrices: (count, rows, columns).
    """
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for a, b, c in MUON_NEWTON_SCHULZ:
        gram = x @ x.mT
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, update, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def svd_polar(matrices: Tensor) -> Tensor:
    """U Vᵀ over the non-zero singular values, exactly; non-finite matrices become NaN.

    Singular values below max(rows, columns) times the rounding of the largest count as zero, so
    that no direction of the null space enters. Rows and columns of zeros stay exactly zero, in
    spite of the rounding in U and V.

    Args:
        matrices: (count, rows, columns).
    """
    wide = matrices if matrices.dtype == torch.float64 else matrices.float()
    finite = torch.isfinite(wide).all(dim=(-2, -1), keepdim=True)
    scaled = _divide_by_frobenius(torch.where(finite, wide, 0.0))
    u, sigma, vh = torch.linalg.svd(scaled, full_matrices=False)
    rank_tolerance = max(scaled.shape[-2:], default=1) * torch.finfo(scaled.dtype).eps
    kept = (sigma > rank_tolerance * sigma[..., :1]).to(u.dtype)
    product = (u * kept.unsqueeze(-2)) @ vh
    for dim in (-1, -2):
        product = torch.where((scaled == 0).all(dim, keepdim=True), 0.0, product)
    result = torch.where(finite, product, torch.nan)
    return result.to(matrices.dtype)


SPECTRAL_METHODS = {
    "polar-express": polar_express,
    "svd": svd_polar,
    "newton-schulz": muon_newton_schulz,
}


def _spectral_vertices(gradients: Tensors, radii: Sequence[float], method: str) -> Tensors:
    """Orthogonalises matrices of one shape as one batch; vectors and scalars use p = 2."""
    results = list(gradients)
    by_shape: dict[tuple, list[int]] = {}
    others = []
    for i, g in enumerate(gradients):
        if is_matrix(g) and g.numel() > 0:
            by_shape.setdefault((g.shape[0], g[0].numel(), g.device, g.dtype), []).append(i)
        else:
            others.append(i)
    for (rows, columns, _, _), indices in by_shape.items():
        batch = torch.stack([gradients[i].reshape(rows, columns) for i in indices])
        for i, polar in zip(indices, SPECTRAL_METHODS[method](batch).unbind(), strict=True):
            results[i] = (polar * -radii[i]).view(gradients[i].shape)
    euclidean = _euclidean_vertices([gradients[i] for i in others], [radii[i] for i in others])
    for i, vertex in zip(others, euclidean, strict=True):
        results[i] = vertex
    return results


def _euclidean_vertices(
    gradients: Tensors, radii: Sequence[float], joint: Joint | None = None
) -> Tensors:
    """-r g/‖g‖₂, with the norm in float64, in which squares of float32 do not underflow."""
    if not gradients:
        return []
    norms = _divisors(_norms(gradients, 2, joint))
    torch._foreach_div_(norms, [-r for r in radii])  # a radius of 0 gives g / inf = 0
    new = torch._foreach_div(gradients, norms)
    return [v.to(g.dtype) for v, g in zip(new, gradients, strict=True)]


def _divide_by_frobenius(matrices: Tensor) -> Tensor:
    """Each matrix divided by its Frobenius norm; zeros stay zero, tiny ones do not underflow."""
    for order in (torch.inf, 2):
        size = torch.linalg.vector_norm(matrices, order, dim=(-2, -1), keepdim=True)
        matrices = matrices / torch.where(size == 0, 1.0, size)
    return matrices


def _largest_entry(gradient: Tensor) -> Tensor:
    """sgn(g_j) e_j at the first j with the largest |g_j|; zero for a zero gradient."""
    flat = gradient.reshape(-1)
    if flat.numel() == 0:
        return torch.zeros_like(gradient)
    index = flat.abs().argmax().view(1)
    entry = flat.gather(0, index)
    result = torch.zeros_like(flat).scatter_(0, index, entry.sign() + 0 * entry)
    return result.view(gradient.shape)


def _signs(gradients: Tensors) -> Tensors:
    """sgn(g), but NaN where g is infinite: an overflow must not pass for a direction."""
    signs = torch._foreach_sign(gradients)
    torch._foreach_add_(signs, gradients, alpha=0)
    return signs


def _wide(tensor: Tensor) -> torch.dtype:
    """The dtype for sums of squares; MPS has no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _norms(tensors: Tensors, order: float, joint: Joint | None = None) -> Tensors:
    norms = torch._foreach_norm(tensors, order, dtype=_wide(tensors[0]))
    return norms if joint is None else joint.join(norms, order)


def _maxima(sizes: Tensors, joint: Joint | None = None) -> Tensors:
    """Largest entry of each tensor with non-negative entries; 0 for an empty tensor."""
    maxima = [t.amax() if t.numel() else t.sum() for t in sizes]
    return maxima if joint is None else joint.join(maxima, math.inf)


def _divisors(norms: Tensors) -> Tensors:
    """The norms with 1 in place of 0, so that a zero gradient gives a zero vertex."""
    if len({n.device for n in norms}) > 1:
        return [torch.where(n == 0, 1.0, n) for n in norms]
    stacked = torch.stack(list(norms))
    return torch.where(stacked == 0, 1.0, stacked).unbind()
