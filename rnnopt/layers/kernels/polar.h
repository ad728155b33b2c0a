// U V' of matrices U S V' by polynomials: rnnopt/optimizers/frank_wolfe/lmo.py has the mathematics,
// and its `_apply_polynomials` is the plain twin. Of a symmetric product one half is computed.
#pragma once

#include "learnt_ball.h"

namespace {

template <typename R>
struct Polar {
  Index n, k, stride;
  R *x, *y, *gram, *square, *packed;

  // For matrices (n, k) with n <= k.
  static Index size(Index n, Index k) {
    return 3 * n * padded<R>(k) + 2 * n * padded<R>(n) + k * padded<R>(n) + 8 * Simd<R>::LANES;
  }
  Polar(Index n, Index k, Workspace<R>& space) : n(n), k(k), stride(padded<R>(k)) {
    x = space.take(n * stride), y = space.take(n * stride);
    gram = space.take(n * padded<R>(n)), square = space.take(n * padded<R>(n));
    packed = space.take(std::max(n * stride, k * padded<R>(n)));
  }

  // x <- a x + (b G + c G G) x with G = x x'.
  void polynomial(R a, R b, R c) {
    add_gram<R, false>(gram, n, 0, 1, x, stride, Panels<R>(packed, x, k, n, 1, stride));
    R* update = gram;
    if (c != 0) {
      std::memcpy(square, gram, n * n * sizeof(R));
      add_gram<R, false>(square, n, b, c, gram, n, Panels<R>(packed, gram, n, n, n, 1));
      update = square;
    }
    const R by = c != 0 ? R(1) : b;
    product<R, false>(n, update, n, Panels<R>(packed, x, n, k, stride, 1),
                      [&](Index i, Index column, Vec<R> sum) {
                        store(y + i * stride + column, a * load(x + i * stride + column) + by * sum);
                      });
    std::swap(x, y);
  }

  // from, to: (rows, columns), which is (n, k) or its transpose; coefficients: `steps` times a, b, c.
  void operator()(const R* from, R* to, bool tall, const double* coefficients, Index steps) {
    const Index row = tall ? 1 : k, column = tall ? n : 1;
    for (Index i = 0; i < n; i++) {
      store(x + i * stride + stride - Simd<R>::LANES, Vec<R>{});
      for (Index j = 0; j < k; j++) x[i * stride + j] = from[i * row + j * column];
    }
    // add_gram adds to what was there, times 0: which must be no NaN.
    std::memset(gram, 0, n * n * sizeof(R));
    for (Index s = 0; s < steps; s++, coefficients += 3)
      polynomial((R)coefficients[0], (R)coefficients[1], (R)coefficients[2]);
    for (Index i = 0; i < n; i++)
      for (Index j = 0; j < k; j++) to[i * row + j * column] = x[i * stride + j];
  }
};

}  // namespace
