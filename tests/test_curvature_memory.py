"""What the curvature memory promises: its products are those of matrices nobody has to store.

The optimizers that use it are tested in test_quasi_newton.py and test_line_search.py.
"""

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from plain_quasi_newton import dense_inverse, explicit_fisher, two_loops

from rnnopt.optimizers.quasi_newton import limited_memory as curvature_memory
from rnnopt.optimizers.quasi_newton.limited_memory import (
    add_rows,
    fisher_product,
    inner,
    inverse_hessian_product,
    norm,
    pair_products,
    products,
)

MEMORY = 5


def some_pairs(count, size, rng, dtype=torch.float64):
    """Pairs of quadratics with eigenvalues 1 … 10, so that s·y > 0; s_i·y_j is not s_j·y_i."""
    values = 1 + 9 * torch.rand(size, generator=rng, dtype=dtype)
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=dtype))[0]
    quadratic = basis @ torch.diag(values) @ basis.T
    S = torch.randn(count, size, generator=rng, dtype=dtype)
    growth = torch.linspace(1, 3, count, dtype=dtype)[:, None]  # each pair has its own
    return S, growth * (S @ quadratic)


def stored(S, Y, g, oldest=0, scale=None):
    """The product from rings whose oldest pair stands in row `oldest`, S and Y oldest first."""
    rings = S.roll(oldest, 0), Y.roll(oldest, 0)
    pairs = pair_products([rings[0]], [rings[1]])
    scaling = None if scale is None else diagonal_of([scale])
    return inverse_hessian_product([g], [rings[0]], [rings[1]], pairs, oldest, scaling)[0]


def diagonal_of(scales):
    """H0 as the product asks for it: some columns of a bucket at a time."""
    return lambda bucket, columns: scales[bucket][columns]


def cut(tensor, sizes):
    return [part.contiguous() for part in tensor.split(sizes, dim=-1)]


# -- the inverse Hessian ---------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("count", "oldest"), [(n, k) for n in range(MEMORY + 1) for k in range(max(1, n))]
)
def test_the_product_is_that_of_the_dense_inverse_wherever_the_ring_starts(
    count, oldest, scaled, rng
):
    S, Y = some_pairs(count, 7, rng)
    scale = torch.rand(7, generator=rng, dtype=torch.float64) + 0.1
    g = torch.randn(7, generator=rng, dtype=torch.float64)
    diagonal = scale if scaled else torch.ones_like(scale)
    expected = dense_inverse(S, Y, diagonal) @ g
    result = stored(S, Y, g, oldest, scale if scaled else None)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result, two_loops(g, S, Y, diagonal), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("block", [1, 3, 7])
def test_the_product_does_not_depend_on_how_it_is_cut_in_blocks(count, block, rng, monkeypatch):
    S, Y = some_pairs(count, 7, rng)
    g, scale = torch.rand(2, 7, generator=rng, dtype=torch.float64) + 0.1
    expected = dense_inverse(S, Y, scale) @ g
    monkeypatch.setattr(curvature_memory, "BLOCK", block)
    torch.testing.assert_close(stored(S, Y, g, max(0, count - 2), scale), expected)
    out = [torch.full((7,), math.nan, dtype=torch.float64)]
    pairs = pair_products([S], [Y])
    result = inverse_hessian_product([g], [S], [Y], pairs, 0, diagonal_of([scale]), out)
    assert result[0] is out[0]
    torch.testing.assert_close(out[0], expected)


@pytest.mark.parametrize("count", range(1, MEMORY + 1))
def test_the_newest_pair_meets_the_secant_equation(count, rng):
    S, Y = some_pairs(count, 7, rng)
    result = stored(S, Y, Y[-1], oldest=count - 1)
    torch.testing.assert_close(result, S[-1], rtol=1e-12, atol=1e-12)


def test_older_pairs_meet_the_secant_equation_only_after_exact_steps(rng):
    # On a quadratic with conjugate s, every H y_i = s_i: here Q = diag(1, 2, 4), s_i = e_i.
    S = torch.eye(3, dtype=torch.float64)
    Y = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    for s, y in zip(S, Y, strict=True):
        torch.testing.assert_close(stored(S, Y, y), s)
    S, Y = some_pairs(3, 7, rng)
    assert not torch.allclose(stored(S, Y, Y[0]), S[0])


@pytest.mark.parametrize("count", range(MEMORY + 1))
def test_the_matrix_is_symmetric_and_positive_definite(count, rng):
    S, Y = some_pairs(count, 7, rng)
    scale = torch.rand(7, generator=rng, dtype=torch.float64) + 0.1
    columns = [stored(S, Y, e, scale=scale) for e in torch.eye(7, dtype=torch.float64)]
    H = torch.stack(columns, dim=1)
    torch.testing.assert_close(H, H.T, rtol=1e-11, atol=1e-12)
    assert torch.linalg.eigvalsh(H).min() > 0


def test_the_printed_minus_sign_would_make_directions_of_ascent(rng):
    # algorithms.md 2.1: so the paper's Algorithm 1 needs the correction.
    S, Y = some_pairs(4, 6, rng)
    worst = 0.0
    for g in torch.randn(50, 6, generator=rng, dtype=torch.float64):
        q, r = g.clone(), None
        sigma = [0.0] * 4
        for i in (3, 2, 1, 0):
            sigma[i] = (S[i] @ q) / (S[i] @ Y[i])
            q = q - sigma[i] * Y[i]
        r = q
        for i in range(4):
            r = r - (sigma[i] - (Y[i] @ r) / (S[i] @ Y[i])) * S[i]
        worst = min(worst, float(g @ r))
        assert g @ stored(S, Y, g) > 0
    assert worst < 0


def test_nothing_given_is_written_to(rng):
    S, Y = some_pairs(3, 7, rng)
    g, scale = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    for count in (0, 3):
        given = [g, S[:count], Y[:count], scale]
        before = [t.clone() for t in given]
        result = stored(S[:count], Y[:count], g, scale=scale)
        fisher_product([S[:count]], [g])
        assert all(map(torch.equal, given, before))
        assert result.data_ptr() != g.data_ptr()


@hypothesis.given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(sum),
    count=st.integers(0, 4),
    oldest=st.integers(0, 3),
    exponents=st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.integers(-6, 6)),
    seed=st.integers(0, 1000),
)
def test_several_buckets_are_as_one_at_every_scale(sizes, count, oldest, exponents, seed):
    # Weights, losses and gradients may be of any size: H scales as |s| / |y|.
    rng = torch.Generator().manual_seed(seed)
    size = sum(sizes)
    S, Y = some_pairs(count, size, rng)
    S, Y = S * 10.0 ** exponents[0], Y * 10.0 ** exponents[1]
    g, scale = torch.rand(2, size, generator=rng, dtype=torch.float64) + 0.1
    g = g * 10.0 ** exponents[2]
    # H0 in the units of H, or the textbook matrix itself is lost in rounding.
    scale = scale * 10.0 ** (exponents[0] - exponents[1])
    oldest = min(oldest, max(0, count - 1))
    rings = cut(S.roll(oldest, 0), sizes), cut(Y.roll(oldest, 0), sizes)
    pairs = pair_products(*rings)
    result = inverse_hessian_product(
        cut(g, sizes), *rings, pairs, oldest, diagonal_of(cut(scale, sizes))
    )
    expected = dense_inverse(S, Y, scale) @ g
    assert [len(part) for part in result] == sizes
    torch.testing.assert_close(
        torch.cat(result), expected, rtol=1e-6, atol=1e-9 * float(expected.norm())
    )


def test_buckets_of_two_types_share_one_matrix(rng):
    S, Y = some_pairs(3, 7, rng)
    g = torch.randn(7, generator=rng, dtype=torch.float64)

    def mixed(tensor):
        first, second = cut(tensor, [3, 4])
        return [first.float(), second]

    pairs = pair_products(mixed(S), mixed(Y))
    assert pairs.dtype == torch.float64
    result = inverse_hessian_product(mixed(g), mixed(S), mixed(Y), pairs)
    assert [part.dtype for part in result] == [torch.float32, torch.float64]
    expected = dense_inverse(S, Y, torch.ones(7, dtype=torch.float64)) @ g
    torch.testing.assert_close(
        torch.cat([r.double() for r in result]), expected, rtol=1e-4, atol=1e-4
    )


# -- the Fisher product ----------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_fisher_product_is_that_of_the_explicit_matrix(count, mean, rng):
    history = torch.randn(count, 5, generator=rng, dtype=torch.float64)
    s = torch.randn(5, generator=rng, dtype=torch.float64)
    expected = explicit_fisher(history, s, mean)
    torch.testing.assert_close(fisher_product([history], [s], mean)[0], expected)
    whole = torch.cat(fisher_product(cut(history, [2, 0, 3]), cut(s, [2, 0, 3]), mean))
    torch.testing.assert_close(whole, expected)


def test_two_gradients_by_hand():
    # F = (1, 0), (1, 1) and s = (2, 1): F·s = 2, 3, so Σ F (F·s) = 2 (1, 0) + 3 (1, 1) = (5, 3).
    history, s = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([2.0, 1.0])
    assert fisher_product([history], [s], mean=False)[0].tolist() == [5.0, 3.0]
    assert fisher_product([history], [s])[0].tolist() == [2.5, 1.5]


def test_the_product_is_zero_across_the_gradients_and_without_any():
    history = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert fisher_product([history], [torch.tensor([0.0, 0.0, 3.0])])[0].tolist() == [0.0] * 3
    assert fisher_product([history[:0]], [torch.ones(3)])[0].tolist() == [0.0] * 3


@hypothesis.given(count=st.integers(1, 5), size=st.integers(1, 6), seed=st.integers(0, 1000))
def test_curvature_is_never_negative_and_bounded_by_the_largest_eigenvalue(count, size, seed):
    # algorithms.md 2.6: s·y = ‖F s‖²/|F| ≥ 0 and y·y ≤ λ_max s·y.
    rng = torch.Generator().manual_seed(seed)
    history = torch.randn(count, size, generator=rng, dtype=torch.float64)
    s = torch.randn(size, generator=rng, dtype=torch.float64)
    y = fisher_product([history], [s])[0]
    largest = float(torch.linalg.eigvalsh(history.T @ history / count).max())
    assert s @ y >= 0
    torch.testing.assert_close(s @ y, (history @ s).square().mean())
    assert y @ y <= largest * (s @ y) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("block", [1 << 16, 7, 1])
@pytest.mark.parametrize("size", [7, 8, 20])
def test_a_history_in_bfloat16_is_widened_block_by_block(block, size, rng, monkeypatch):
    # The only rounding is the one of storing, whatever the number of blocks.
    monkeypatch.setattr(curvature_memory, "BLOCK", block)
    history = torch.randn(3, size, generator=rng).bfloat16()
    s = torch.randn(size, generator=rng)
    expected = explicit_fisher(history.double(), s.double())
    result = fisher_product([history], [s])[0]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_history_in_bfloat16_may_be_wider_than_a_block(rng):
    size = curvature_memory.BLOCK + 3
    history = torch.randn(2, size, generator=rng).bfloat16()
    s = torch.randn(size, generator=rng)
    expected = history.double().T @ (history.double() @ s.double()) / 2
    result = fisher_product([history], [s])[0].double()
    # F·s is about √65539 = 256, summed in single precision.
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(result[-3:], expected[-3:], rtol=1e-4, atol=1e-2)


# -- sums over buckets -----------------------------------------------------------------------------


def test_inner_products_and_lengths_run_over_all_buckets():
    # (1, 2, 2)·(3, 0, 1) = 5, ‖(1, 2, 2)‖ = 3.
    one = [torch.tensor([1.0, 2.0]), torch.tensor([2.0]), torch.empty(0)]
    other = [torch.tensor([3.0, 0.0]), torch.tensor([1.0]), torch.empty(0)]
    assert inner(one, other).tolist() == 5.0
    assert norm(one) == pytest.approx(3.0)
    assert inner(one, other).dtype == torch.float64
    memory = [torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [1.0]])]
    # Rows (1, 0, 1) and (0, 2, 1) times (1, 2, 2): 3 and 6.
    assert products(memory, one[:2]).tolist() == [3.0, 6.0]
    vectors = [torch.zeros(2), torch.zeros(1)]
    add_rows(vectors, memory, torch.tensor([2.0, 3.0]), sign=-1.0)
    assert [v.tolist() for v in vectors] == [[-2.0, -6.0], [-5.0]]


@pytest.mark.parametrize("exponent", [-42, -30, -15, 0, 15, 30])
def test_a_length_neither_overflows_nor_underflows_in_single_precision(exponent):
    # 3-4-5: the squares, 1e±60, are beyond float32.
    vector = torch.tensor([3.0, 4.0]) * 10.0**exponent
    rounding = 1e-6 if exponent > -38 else 1e-2
    assert norm([vector]) == pytest.approx(5 * 10.0**exponent, rel=rounding)
    assert norm([vector[:1], vector[1:]]) == pytest.approx(5 * 10.0**exponent, rel=rounding)


def test_not_a_number_shows_in_the_length():
    assert math.isnan(norm([torch.ones(2), torch.tensor([math.nan])]))
    assert norm([torch.ones(2), torch.tensor([math.inf])]) == math.inf
