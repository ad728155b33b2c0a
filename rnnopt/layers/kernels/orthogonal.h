// Orthonormal columns from those of a square matrix, by Householder's reflections in blocks.
#pragma once

#include "product.h"

namespace {

// Calls keep(row, first column, vector) for every vector of a product of `rows` rows of a, `stride_a`
// apart (or with BY_COLUMN of as many columns), and b. Vectors may reach beyond b's last column.
template <typename R, bool BY_COLUMN, class F>
INLINE void product(Index rows, const R* a, Index stride_a, const Panels<R>& b, F keep) {
  for_tiles(rows, b, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
    tile.set([](int, int) { return Vec<R>{}; });
    multiply_for<R, BY_COLUMN>(tile.M, tile.N)(tile.values, BY_COLUMN ? a + row : a + row * stride_a,
                                               stride_a, panel, tile.N * Simd<R>::LANES, b.rows);
    tile.use([&](int m, int n, Vec<R> v) { keep(row + m, column + n, v); });
  });
}

template <typename R>
INLINE R sum_of(Vec<R> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(R) == 4) return _mm512_reduce_add_ps((__m512)v);
  if constexpr (sizeof(R) == 8) return _mm512_reduce_add_pd((__m512d)v);
#endif
  alignas(BYTES) R part[Simd<R>::LANES];
  store(part, v);
  for (int half = Simd<R>::LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}

template <typename R>
constexpr Index padded(Index size) {
  return (size + Simd<R>::LANES - 1) / Simd<R>::LANES * Simd<R>::LANES;
}

// Working memory of a call, not cleared, handed out in aligned pieces.
template <typename R>
struct Workspace {
  std::unique_ptr<R, decltype(&std::free)> memory{nullptr, &std::free};
  R* next;
  explicit Workspace(Index count) {
    memory.reset(static_cast<R*>(std::aligned_alloc(64, (count * sizeof(R) + 127) / 64 * 64)));
    if (!memory) throw std::bad_alloc();
    next = memory.get();
  }
  R* take(Index count) {
    R* piece = next;
    next += padded<R>(count);
    return piece;
  }
};

// Reflections are I - V' T V for BLOCK rows of V at a time, with T upper triangular. Everything,
// T too, is transposed, so that what the reflections act on are contiguous rows of padded<R>(n) numbers, in
// which the last ones are zero.
template <typename R>
struct Orthogonal {
  static constexpr Index LANES = Simd<R>::LANES, BLOCK = 16;
  Index n, stride;
  R *v, *t, *w, *w2, *packed;

  static Index size(Index n) {
    const Index stride = padded<R>(n);
    return (n * 3 + BLOCK) * stride + n * BLOCK + 2 * n * BLOCK + BLOCK * BLOCK + 6 * LANES;
  }
  Orthogonal(Index n, Workspace<R>& space) : n(n), stride(padded<R>(n)) {
    v = space.take(n * stride), t = space.take(n * BLOCK);
    w = space.take(n * BLOCK), w2 = space.take(n * BLOCK);
    packed = space.take(BLOCK * stride + BLOCK * BLOCK);
  }

  // Rows of q ← orthonormal rows that span what those of a do, in order; a is destroyed.
  void operator()(R* a, R* q) {
    for (Index j0 = 0; j0 < n; j0 += BLOCK) {
      const Index end = std::min(n, j0 + BLOCK);
      for (Index j = j0; j < end; j++) reflect(a, j0, j, end);
      reflect_rows(a + end * stride, n - end, j0, end, false);
    }
    std::memset(q, 0, n * stride * sizeof(R));
    for (Index j = 0; j < n; j++) q[j * stride + j] = 1;
    for (Index j0 = (n - 1) / BLOCK * BLOCK; j0 >= 0; j0 -= BLOCK)
      reflect_rows(q + j0 * stride, n - j0, j0, std::min(n, j0 + BLOCK), true);
  }

 private:
  // dots[i] = rows[i] · x for `count` rows, from column `from` on.
  INLINE void dots(const R* rows, Index count, const R* x, Index from, R* result) const {
    Index i = 0;
    for (; i + 4 <= count; i += 4) {
      Vec<R> sum[4] = {};
      for (Index c = from; c < stride; c += LANES) {
        const Vec<R> one = load(x + c);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) sum[r] += load(rows + (i + r) * stride + c) * one;
      }
      for (int r = 0; r < 4; r++) result[i + r] = sum_of<R>(sum[r]);
    }
    for (; i < count; i++) {
      Vec<R> sum = {};
      for (Index c = from; c < stride; c += LANES) sum += load(rows + i * stride + c) * load(x + c);
      result[i] = sum_of<R>(sum);
    }
  }

  // The reflection that makes row j zero beyond entry j, applied to the rows up to `end`.
  INLINE void reflect(R* a, Index j0, Index j, Index end) {
    const Index from0 = j0 / LANES * LANES, from = j / LANES * LANES;
    const R *x = a + j * stride;
    R* u = v + j * stride;
    for (Index c = from0; c < from; c += LANES) store(u + c, Vec<R>{});
    Vec<R> squares = {};
    for (Index c = from; c < stride; c += LANES) {
      Vec<R> one = load(x + c);
      if (c == from)
        for (Index i = 0; i <= j - from; i++) one[i] = 0;
      squares += one * one;
      store(u + c, one);
    }
    const R tail = sum_of<R>(squares), alpha = x[j];
    R tau = 0;
    if (tail > 0) {
      const R beta = -std::copysign(std::sqrt(alpha * alpha + tail), alpha), scale = 1 / (alpha - beta);
      tau = (beta - alpha) / beta;
      for (Index c = from; c < stride; c += LANES) store(u + c, load(u + c) * scale);
    }
    u[j] = 1;
    R factor[BLOCK];
    dots(a + (j + 1) * stride, end - j - 1, u, from, factor);
    for (Index i = j + 1; i < end; i++) {
      const R by = tau * factor[i - j - 1];
      R* row = a + i * stride;
      for (Index c = from; c < stride; c += LANES) store(row + c, load(row + c) - by * load(u + c));
    }
    // T's new column: -tau T (V u), tau.
    R *block = t + j0 * BLOCK, *column = block + (j - j0) * BLOCK;
    dots(v + j0 * stride, j - j0, u, from, factor);
    Vec<R> sum[BLOCK / LANES] = {};
    for (Index c = 0; c < j - j0; c++)
      for (Index i = 0; i < BLOCK / LANES; i++)
        sum[i] -= tau * factor[c] * load(block + c * BLOCK + i * LANES);
    for (Index i = 0; i < BLOCK / LANES; i++) store(column + i * LANES, sum[i]);
    column[j - j0] = tau;
  }

  // Each of `count` rows x ← x - x V' T V, or with T' in place of T.
  INLINE void reflect_rows(R* rows, Index count, Index j0, Index end, bool transposed) {
    if (!count) return;
    const Index from = j0 / LANES * LANES, size = end - j0;
    const R *block = v + j0 * stride + from, *small = t + j0 * BLOCK;
    R* x = rows + from;
    const Panels<R> columns(packed, block, stride - from, size, 1, stride);
    product<R, false>(count, x, stride, columns,
                      [&](Index i, Index c, Vec<R> sum) { store(w + i * BLOCK + c, sum); });
    const Panels<R> middle(packed, small, size, size, transposed ? BLOCK : 1, transposed ? 1 : BLOCK);
    product<R, false>(count, w, BLOCK, middle,
                      [&](Index i, Index c, Vec<R> sum) { store(w2 + i * BLOCK + c, sum); });
    const Panels<R> back(packed, block, size, stride - from, stride, 1);
    product<R, false>(count, w2, BLOCK, back, [&](Index i, Index c, Vec<R> sum) {
      store(x + i * stride + c, load(x + i * stride + c) - sum);
    });
  }
};

}  // namespace
