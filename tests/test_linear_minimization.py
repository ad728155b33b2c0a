"""What the linear minimisation oracles promise: optimal, feasible, scale-free, out of place.

What the optimizer makes of their vertices is promised in test_frank_wolfe.py. Where a tolerance is
not a round number it is derived from the rounding unit of the dtype in a comment.
"""

import math
from itertools import product

import pytest
import torch
from cases import crossed
from hypothesis import given
from hypothesis import strategies as st
from plain_recurrent import load_variant, needs_kernels, switch_off, variants
from stepping import frank_wolfe

from rnnopt.optimizers.frank_wolfe.lmo import (
    SPECTRAL_METHODS,
    ball_scale,
    check_norm,
    global_vertices,
    muon_newton_schulz,
    polar_express,
    svd_polar,
    vertices,
)

VECTOR_NORMS = [1, 1.1, 1.5, 2, 3, 50, math.inf]
BALLS = [(p, "svd") for p in VECTOR_NORMS] + [("spectral", m) for m in ("svd", "polar-express")]
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


pytestmark = pytest.mark.usefixtures("double_precision")


def as_matrix(tensor):
    """What the spectral ball sees; None where it falls back to p = 2."""
    if tensor.ndim < 2 or tensor.numel() == 0:
        return None
    return tensor.reshape(tensor.shape[0], -1)


def size(tensor, norm):
    """The norm whose ball it is."""
    if norm == "spectral":
        matrix = as_matrix(tensor)
        return tensor.norm() if matrix is None else torch.linalg.matrix_norm(matrix, 2)
    return torch.linalg.vector_norm(tensor.reshape(-1), norm) if tensor.numel() else torch.zeros(())


def dual_size(tensor, norm):
    """Its dual norm."""
    if norm == "spectral":
        matrix = as_matrix(tensor)
        return tensor.norm() if matrix is None else torch.linalg.matrix_norm(matrix, "nuc")
    q = {1: math.inf, math.inf: 1}.get(norm) or norm / (norm - 1)
    largest = tensor.abs().max() if tensor.numel() else torch.ones(())
    return largest * size(tensor / largest, q)  # 1e30 to the power q = 11 would overflow


def vertex(gradient, norm, radius, method="svd"):
    return vertices([gradient], norm, [radius], method)[0]


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- optimality ----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [*VECTOR_NORMS, "spectral"])
@given(shape=SHAPES, radius=st.floats(1e-3, 1e3), seed=st.integers(0, 999))
def test_vertex_lies_on_the_sphere_and_reaches_the_dual_norm(norm, shape, radius, seed):
    # Hölder: ⟨s, g⟩ ≥ -‖s‖ ‖g‖_*; a point of the ball that meets it with equality is optimal.
    gradient = normal(shape, seed)
    before = gradient.clone()
    found = vertex(gradient, norm, radius)
    assert found.shape == gradient.shape
    assert torch.equal(gradient, before)
    expected_size = radius if gradient.numel() else 0.0
    assert float(size(found, norm)) == pytest.approx(expected_size, rel=1e-11)
    value = float((found * gradient).sum())
    assert value == pytest.approx(-radius * float(dual_size(gradient, norm)), rel=1e-11)


@pytest.mark.parametrize(("norm", "method"), BALLS)
def test_no_random_point_of_the_ball_is_better(norm, method, rng):
    gradient = torch.randn(4, 3, generator=rng)
    best = (vertex(gradient, norm, 0.3, method) * gradient).sum()
    for _ in range(300):
        other = torch.randn(4, 3, generator=rng)
        other *= 0.3 / size(other, norm)
        assert best <= (other * gradient).sum()


@pytest.mark.parametrize("columns", [1, 3, 7])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_polar_express_is_within_a_thousandth_of_the_best_spectral_point(rows, columns, rng):
    u, _, vh = torch.linalg.svd(torch.randn(rows, columns, generator=rng), full_matrices=False)
    gradient = u @ torch.diag(torch.linspace(1, 0.1, min(rows, columns))) @ vh
    found = vertex(gradient, "spectral", 2.0, "polar-express")
    assert (found * gradient).sum() <= -2.0 * dual_size(gradient, "spectral") * (1 - 1e-3)


@crossed(
    ("norm, method", [*BALLS, ("spectral", "newton-schulz")]),
    ("shape", [(), (1,), (4,), (1, 1), (3, 4), (2, 3, 2), (0,), (0, 3), (3, 0)]),
)
def test_zero_and_empty_gradients_give_zero(norm, method, shape):
    found = vertex(torch.zeros(shape), norm, 0.7, method)
    assert torch.equal(found, torch.zeros(shape))  # -0.0 == 0.0
    [found] = global_vertices([torch.zeros(shape)], norm, [0.7], method)
    assert torch.equal(found, torch.zeros(shape))


@pytest.mark.parametrize(("norm", "method"), [*BALLS, ("spectral", "newton-schulz")])
def test_a_ball_of_radius_zero_is_a_point(norm, method, rng):
    for oracle in (vertices, global_vertices):
        found = oracle([torch.randn(4, 3, generator=rng)], norm, [0.0], method)
        assert torch.equal(found[0], torch.zeros(4, 3))


def test_no_gradients_no_vertices():
    assert vertices([], 2, []) == []
    assert global_vertices([], 2, []) == []


def test_vertices_by_hand():
    # g = (3, -4): ‖g‖_2 = 5; q = 3 at p = 3/2, exponent 1/(p-1) = 2, so |s| is as (9, 16) over
    # (27 + 64)^{2/3}; q = 3/2 at p = 3, exponent 1/2, so |s| is as (√3, 2) over (3√3 + 8)^{1/3}.
    gradient = torch.tensor([3.0, -4.0])
    expected = {
        1: [0.0, 1.0],
        1.5: [-9 / 91 ** (2 / 3), 16 / 91 ** (2 / 3)],
        2: [-0.6, 0.8],
        3: [-math.sqrt(3) / (27**0.5 + 8) ** (1 / 3), 2 / (27**0.5 + 8) ** (1 / 3)],
        math.inf: [-1.0, 1.0],
        "spectral": [-0.6, 0.8],
    }
    for norm, numbers in expected.items():
        torch.testing.assert_close(vertex(gradient, norm, 0.1), 0.1 * torch.tensor(numbers))


def test_a_tie_at_p_1_goes_to_the_lowest_index():
    found = vertex(torch.tensor([2.0, -5.0, 5.0, -5.0]), 1, 0.1)
    assert torch.equal(found, torch.tensor([0.0, 0.1, 0.0, 0.0]))
    first, second = global_vertices([torch.tensor([1.0, 3.0]), torch.tensor([-3.0])], 1, [0.1, 0.1])
    assert torch.equal(first, torch.tensor([0.0, -0.1]))
    assert torch.equal(second, torch.tensor([0.0]))


def test_entries_without_gradient_stay_still_in_the_box():
    found = vertex(torch.tensor([0.0, -2.0, 0.0, 1e-300]), math.inf, 0.5)
    assert torch.equal(found, torch.tensor([0.0, 0.5, 0.0, -0.5]))


# -- scale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "method"), BALLS)
@given(exponent=st.integers(-90, 90), seed=st.integers(0, 999))
def test_a_loss_scale_changes_no_vertex(norm, method, exponent, seed):
    # A power of two changes no significand, so not even the rounding; NaN-free, so == is enough.
    gradients = [normal((3, 4), seed), normal((5,), seed + 1), normal((), seed + 2)]
    scaled = [gradient * 2.0**exponent for gradient in gradients]
    for oracle in (vertices, global_vertices):
        before = oracle(gradients, norm, [0.1, 0.2, 0.3], method)
        after = oracle(scaled, norm, [0.1, 0.2, 0.3], method)
        assert all(map(torch.equal, before, after))


@pytest.mark.parametrize(("norm", "method"), BALLS)
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [
        *product([torch.float64, torch.float32, torch.bfloat16], [1e-30, 1e-5, 1.0, 1e4, 1e30]),
        *product([torch.float16], [1e-5, 1.0, 1e4]),
    ],
)
def test_vertices_are_optimal_at_every_gradient_magnitude(norm, method, dtype, magnitude, rng):
    unit = torch.finfo(dtype).eps
    # Entries are (r_i / ‖r‖_q)^{1/(p-1)}: four roundings (maximum, quotient, norm, quotient) enter
    # through the exponent, three (power, sign, radius) directly; each is at most unit / 2.
    exponent = 1 / (norm - 1) if norm not in (1, "spectral") else 0
    tolerance = max(2 * unit * exponent + 3 * unit, 1e-12)
    if method == "polar-express":
        tolerance += 1e-3
    gradients = [torch.randn(s, generator=rng).add(0.1) for s in ((1,), (7,), (1, 1), (4, 3))]
    gradients = [(magnitude * gradient).to(dtype) for gradient in gradients]
    radii = [1e-3, 0.5, 1.0, 2.0]
    for gradient, radius, found in zip(
        gradients, radii, vertices(gradients, norm, radii, method), strict=True
    ):
        wide, found = gradient.double(), found.double()
        assert float(size(found, norm)) == pytest.approx(radius, rel=tolerance)
        value = float((wide * found).sum())
        assert value == pytest.approx(-radius * float(dual_size(wide, norm)), rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("norm", "method"), [*BALLS, ("spectral", "newton-schulz")])
def test_vertices_keep_the_dtype_scalars_included(norm, method, dtype, rng):
    shapes = [(), (1,), (0,), (7,), (1, 1), (4, 3)]
    gradients = [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]
    for oracle in (vertices, global_vertices):
        found = oracle(gradients, norm, [0.5] * len(shapes), method)
        assert [tensor.dtype for tensor in found] == [dtype] * len(shapes)
        assert all(tensor.isfinite().all() for tensor in found)


def test_half_precision_gradients_whose_norm_overflows_still_have_a_vertex():
    # ‖g‖_2 = 6e4 · √100 = 6e5 is beyond float16's 65504; the vertex is -1/10 everywhere.
    gradient = torch.full((100,), 6e4, dtype=torch.float16)
    for oracle in (vertices, global_vertices):
        [found] = oracle([gradient], 2, [1.0])
        torch.testing.assert_close(found, torch.full((100,), -0.1, dtype=torch.float16))


def test_tensors_of_different_dtypes_go_together(rng):
    dtypes = [torch.float32, torch.float64, torch.bfloat16]
    gradients = [torch.randn(3, 2, generator=rng).to(dtype) for dtype in dtypes]
    for norm in (1, 1.5, 2, math.inf, "spectral"):
        for oracle in (vertices, global_vertices):
            found = oracle(gradients, norm, [1.0, 1.0, 1.0])
            assert [tensor.dtype for tensor in found] == dtypes
            assert all(tensor.isfinite().all() for tensor in found)


# -- non-finite gradients ------------------------------------------------------------------------


@crossed(
    ("norm, method", [*BALLS, ("spectral", "newton-schulz")]),
    ("bad", [math.nan, math.inf, -math.inf]),
    ("shape", [(), (1,), (4,), (1, 1), (3, 4), (4, 3), (2, 3, 2)]),
    rest=False,
)
def test_a_non_finite_gradient_gives_a_non_finite_vertex(norm, method, bad, shape, rng):
    gradient = torch.randn(shape, generator=rng)
    gradient.view(-1)[-1] = bad
    healthy = torch.randn(2, 2, generator=rng)
    found = vertices([gradient, healthy], norm, [0.1, 0.1], method)
    assert not found[0].isfinite().all()
    assert found[1].isfinite().all()  # the tensors do not share a ball
    found = global_vertices([gradient, healthy], norm, [0.1, 0.1], method)
    assert not all(tensor.isfinite().all() for tensor in found)


# -- the spectral ball ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_a_rank_deficient_matrix_gets_only_its_own_directions(shape, rng):
    # g = σ_1 u_1 v_1ᵀ + σ_2 u_2 v_2ᵀ has the minimal vertex -(u_1 v_1ᵀ + u_2 v_2ᵀ).
    rows, columns = shape
    u, _ = torch.linalg.qr(torch.randn(rows, 2, generator=rng))
    v, _ = torch.linalg.qr(torch.randn(columns, 2, generator=rng))
    gradient = u @ torch.diag(torch.tensor([3.0, 0.5])) @ v.T
    torch.testing.assert_close(vertex(gradient, "spectral", 1.0, "svd"), -u @ v.T)
    express = vertex(gradient, "spectral", 1.0, "polar-express")
    torch.testing.assert_close(express, -u @ v.T, rtol=0, atol=1e-3)


@crossed(
    ("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    ("shape", [(8, 5), (5, 8), (128, 128), (64, 32), (32, 64), (6, 3, 2)]),
    ("rank", [None, 2]),
    ("method", SPECTRAL_METHODS),
    rest=False,
)
def test_rows_and_columns_without_gradient_stay_still(method, rank, shape, dtype, rng):
    rows, columns = shape[0], math.prod(shape[1:])
    gradient = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    if rank is not None:
        gradient = gradient[:, :rank] @ torch.randn(rank, columns, generator=rng).double()
    gradient[[1, -1]] = 0
    gradient[:, 2] = 0
    found = vertex(gradient.view(shape).to(dtype), "spectral", 0.5, method).view(rows, columns)
    assert (found[[1, -1]] == 0).all()
    assert (found[:, 2] == 0).all()
    assert ((found != 0).any(1) == (gradient != 0).any(1)).all()
    assert ((found != 0).any(0) == (gradient != 0).any(0)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (128, 128)])
def test_the_null_space_does_not_enter_and_the_vertex_is_the_best(shape, rank, dtype, rng):
    # Smallest of the points of the sphere that reach -r ‖g‖_*: singular values r, and else zero.
    left = torch.randn(shape[0], rank, generator=rng, dtype=dtype)
    gradient = left @ torch.randn(rank, shape[1], generator=rng, dtype=dtype)
    found = vertex(gradient, "spectral", 0.5, "svd").double()
    expected = torch.tensor([0.5] * rank + [0.0] * (min(shape) - rank)).double()
    torch.testing.assert_close(torch.linalg.svdvals(found), expected, rtol=0, atol=1e-5)
    dual = torch.linalg.svdvals(gradient.double()).sum()
    torch.testing.assert_close((found * gradient).sum(), -0.5 * dual, rtol=1e-6, atol=0)
    express = vertex(gradient, "spectral", 0.5, "polar-express").double()
    torch.testing.assert_close(express, found, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", SPECTRAL_METHODS)
def test_units_without_gradient_stay_still_in_every_gate(method, rng):
    # Unit 1 of 4 is dead in the reset gate alone, unit 2 in all three gates.
    gru = torch.nn.GRU(3, 4, bias=False)
    optimizer = frank_wolfe(gru.parameters(), lr=0.1, spectral=method, momentum=0.0)
    before = [p.detach().clone() for p in gru.parameters()]
    for p in gru.parameters():
        p.grad = torch.randn(p.shape, generator=rng)
        p.grad[[1, 2, 6, 10]] = 0
    optimizer.step()
    for p, start in zip(gru.parameters(), before, strict=True):
        still = (p.detach() == start).all(1).nonzero().flatten()
        assert still.tolist() == [1, 2, 6, 10]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    decades=st.floats(0, 12),
    seed=st.integers(0, 999),
)
def test_polar_express_never_leaves_the_ball(dtype, rows, columns, decades, seed):
    left, right = normal((rows, rows), seed), normal((columns, columns), seed + 1)
    u, v = torch.linalg.qr(left)[0], torch.linalg.qr(right)[0]
    smallest = min(rows, columns)
    spectrum = torch.logspace(0, -decades, smallest)
    gradient = (u[:, :smallest] * spectrum @ v[:, :smallest].T).to(dtype)
    found = torch.linalg.svdvals(polar_express(gradient[None])[0].double())
    assert found.max() <= 1 + 20 * torch.finfo(dtype).eps  # ten products of up to 12 terms


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (40, 8), (8, 40)])
def test_polar_express_takes_every_conditioned_singular_value_to_one(dtype, shape, rng):
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=rng), full_matrices=False)
    # σ from 1 to 0.01, so σ/‖g‖_F ≥ 0.01/√16 = 2.5e-3: above the 1e-3 the method is made for.
    spectrum = torch.logspace(0, -2, min(shape))
    gradient = (u * spectrum @ vh).to(dtype)
    found = torch.linalg.svdvals(polar_express(gradient[None])[0].double())
    assert (found - 1).abs().max() <= 1e-3
    if dtype == torch.float64:
        assert (found - 1).abs().max() <= 1e-7  # what its docstring says


def test_polar_express_lifts_the_smallest_designed_singular_value_to_one():
    # 1e-3 of the Frobenius norm, the end of the interval the coefficients are optimal for.
    values = torch.logspace(-3, -0.01, 400)
    rest = (1 - values**2).sqrt()
    found = polar_express(torch.diag_embed(torch.stack([values, rest], dim=1)))
    found = found.diagonal(dim1=1, dim2=2)[:, 0]
    assert found.max() <= 1 + 1e-14
    assert found.min() >= 1 - 1e-7


@needs_kernels
@crossed(
    ("variant", variants()),
    ("dtype", [torch.float64, torch.float32]),
    (
        "shape",
        [(2, 16, 16), (3, 5, 40), (3, 40, 5), (1, 1, 7), (1, 7, 1), (1, 33, 70), (2, 64, 64)],
    ),
)
def test_the_kernel_of_polar_express_gives_the_numbers_of_torch(
    variant, dtype, shape, rng, monkeypatch
):
    matrices = torch.randn(shape, generator=rng).to(dtype)
    matrices[-1, 0, 0] = 1e6
    load_variant(monkeypatch, variant)
    found = polar_express(matrices)
    switch_off(monkeypatch)
    tolerance = dict(rtol=1e-10, atol=1e-10) if dtype == torch.float64 else dict(rtol=0, atol=2e-4)
    torch.testing.assert_close(found, polar_express(matrices), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (32, 32), (100, 30), (1, 7)])
def test_newton_schulz_is_muons_to_the_bit(shape, dtype, rng):
    # Muon with lr 1, no decay and no momentum subtracts the orthogonalised gradient from 0.
    gradients = [torch.randn(shape, generator=rng).to(dtype) for _ in range(3)]
    ours = muon_newton_schulz(torch.stack(gradients))
    for gradient, found in zip(gradients, ours, strict=True):
        weight = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        weight.grad = gradient.clone()
        options = dict(lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
        torch.optim.Muon([weight], **options, adjust_lr_fn="original").step()
        ratio = math.sqrt(max(1, shape[0] / shape[1]))
        assert torch.equal(weight.data, torch.zeros(shape, dtype=dtype).add(found, alpha=-ratio))


def test_half_precision_orthogonalisation_is_computed_in_single(rng):
    matrices = torch.randn(2, 6, 4, generator=rng).bfloat16()
    for polar in (polar_express, svd_polar):
        found = polar(matrices)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, polar(matrices.float()).bfloat16())


@pytest.mark.parametrize("method", SPECTRAL_METHODS)
def test_equal_shapes_are_orthogonalised_as_if_alone(method, rng):
    gradients = [torch.randn(s, generator=rng) for s in ((3, 4), (5,), (4, 3), (3, 4), (3, 2, 2))]
    radii = [0.1, 0.2, 0.3, 0.4, 0.5]
    together = vertices(gradients, "spectral", radii, method)
    for gradient, radius, found in zip(gradients, radii, together, strict=True):
        torch.testing.assert_close(found, vertex(gradient, "spectral", radius, method))


# -- the unit of the radius ----------------------------------------------------------------------


def test_ball_scale_by_hand():
    # 12 entries: 12^{1/p}; the spectral scale is √max(rows, columns), kernels flattened to 4 x 12.
    matrix, kernel = torch.zeros(3, 4), torch.zeros(4, 3, 2, 2)
    assert ball_scale(matrix, 2, "norm") == 1
    assert ball_scale(matrix, "spectral", "norm") == 1
    assert ball_scale(matrix, 1, "entry") == 12
    assert ball_scale(matrix, 2, "entry") == pytest.approx(math.sqrt(12))
    assert ball_scale(matrix, 3, "entry") == pytest.approx(12 ** (1 / 3))
    assert ball_scale(matrix, math.inf, "entry") == 1
    assert ball_scale(matrix, "spectral", "entry") == 2
    assert ball_scale(kernel, "spectral", "entry") == pytest.approx(math.sqrt(12))
    assert ball_scale(torch.zeros(9), "spectral", "entry") == 3
    assert ball_scale(torch.zeros(()), "spectral", "entry") == 1
    assert ball_scale(torch.zeros(()), 1, "entry") == 1


@pytest.mark.parametrize("scale", ["norm", "entry"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_an_empty_tensor_has_a_finite_ball_scale(shape, scale):
    assert 0 <= ball_scale(torch.zeros(shape), "spectral", scale) < math.inf


@pytest.mark.parametrize("norm", [2, math.inf, "spectral"])
@pytest.mark.parametrize("shape", [(9,), (3, 4), (7, 2), (5, 5), (4, 3, 2, 2), ()])
def test_a_radius_by_entry_is_the_root_mean_square_entry(norm, shape, rng):
    # p = 2: r √n of length over √n. Spectral, full rank: r √max · √min of length over √(rows cols).
    gradient = torch.randn(shape, generator=rng)
    found = vertex(gradient, norm, 0.01 * ball_scale(gradient, norm, "entry"))
    assert float(found.square().mean().sqrt()) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("norm", [1, 1.5, 2, 3, math.inf])
def test_a_ball_by_entry_touches_the_constant_tensor(norm):
    constant = torch.full((3, 4), 0.01)
    assert float(size(constant, norm)) == pytest.approx(0.01 * ball_scale(constant, norm, "entry"))


@pytest.mark.parametrize("method", ["svd", "polar-express"])
@given(shape=SHAPES, seed=st.integers(0, 999))
def test_a_radius_by_entry_bounds_what_comes_out(method, shape, seed):
    # ‖s x‖₂ ≤ r √max(rows, columns) √columns for inputs of root mean square 1.
    gradient = normal(shape, seed)
    found = vertex(gradient, "spectral", 0.1 * ball_scale(gradient, "spectral", "entry"), method)
    matrix = as_matrix(found)
    if matrix is None:
        assert float(found.norm()) == pytest.approx(0.1 * math.sqrt(found.numel()), rel=1e-12)
        return
    rows, columns = matrix.shape
    longest = 0.1 * math.sqrt(max(rows, columns) * columns / rows)
    inputs = normal((matrix.shape[1], 30), seed + 1)
    inputs /= inputs.square().mean(dim=0).sqrt()
    assert (matrix @ inputs).square().mean(dim=0).sqrt().max() <= longest * (1 + 1e-12)


# -- one ball for all tensors --------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1, 1.1, 1.5, 2, 3, 50])
@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=4),
    radius=st.floats(1e-3, 1e3),
    seed=st.integers(0, 999),
)
def test_with_equal_radii_the_global_vertex_is_that_of_the_long_vector(norm, shapes, radius, seed):
    gradients = [normal(shape, seed + i) for i, shape in enumerate(shapes)]
    before = [gradient.clone() for gradient in gradients]
    found = global_vertices(gradients, norm, [radius] * len(gradients))
    assert all(map(torch.equal, gradients, before))
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in gradients]
    long = torch.cat([gradient.reshape(-1) for gradient in gradients])
    expected = vertex(long, norm, radius)
    found = torch.cat([tensor.reshape(-1) for tensor in found])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * radius)


@pytest.mark.parametrize("norm", [math.inf, "spectral"])
def test_the_largest_of_all_needs_no_common_ball(norm, rng):
    gradients = [torch.randn(shape, generator=rng) for shape in ((3, 4), (5,), ())]
    separate = vertices(gradients, norm, [0.1, 0.2, 0.3])
    together = global_vertices(gradients, norm, [0.1, 0.2, 0.3])
    assert all(map(torch.equal, separate, together))


@pytest.mark.parametrize("norm", [1, 1.1, 1.5, 2, 3, 50])
@pytest.mark.parametrize("radii", [(0.5, 0.5), (0.1, 2.0), (3.0, 0.0)])
def test_unequal_radii_against_brute_force(norm, radii, rng):
    # Every direction of three dimensions on a grid of 0.3°, brought onto the surface
    # ‖s_1/r_1‖_p^p + ‖s_2/r_2‖_p^p = 1. The grid holds the axes, the vertices at p = 1; between its
    # points the best value is missed by at most the relative 1e-3 asked for below.
    gradients = [torch.tensor([1.0, -0.4]), torch.tensor([0.7])]
    found = global_vertices(gradients, norm, list(radii))
    ours = sum(float((s * g).sum()) for s, g in zip(found, gradients, strict=True))
    polar, azimuth = torch.meshgrid(
        torch.linspace(0, math.pi, 601), torch.linspace(0, 2 * math.pi, 1201), indexing="ij"
    )
    z = torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()])
    z = z / torch.linalg.vector_norm(z, norm, dim=0)
    costs = torch.tensor([radii[0] * 1.0, radii[0] * -0.4, radii[1] * 0.7])
    brute = float(torch.einsum("i,ijk->jk", costs, z).min())
    assert ours <= brute + 1e-12
    assert ours == pytest.approx(brute, rel=1e-3)
    inside = [s / r for s, r in zip(found, radii, strict=True) if r > 0]
    assert float(size(torch.cat(inside), norm)) == pytest.approx(1.0, rel=1e-12)


def test_the_global_ball_spends_nothing_on_tensors_without_gradient():
    # (3, 0) and (0) as one vector is (3, 0, 0): the vertex is -r on the first entry alone.
    for norm in (1, 1.5, 2, 3):
        first, second = global_vertices([torch.tensor([3.0, 0.0]), torch.zeros(1)], norm, [0.1] * 2)
        torch.testing.assert_close(first, torch.tensor([-0.1, 0.0]))
        assert torch.equal(second, torch.zeros(1))


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [0.5, 0, -1, -math.inf, math.nan, "two", "inf", "", None])
def test_a_bad_norm_is_named(norm):
    with pytest.raises(ValueError, match="norm must be a number p >= 1") as error:
        check_norm(norm)
    assert f"norm={norm!r}" in str(error.value)


@pytest.mark.parametrize("norm", [1, 1.0, 2, 1.5, math.inf, "spectral"])
def test_good_norms_pass(norm):
    check_norm(norm)
