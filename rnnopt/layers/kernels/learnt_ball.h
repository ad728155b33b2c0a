// A step of the learnt ball: rnnopt/optimizers/frank_wolfe/learnt_ball.py has the mathematics, and its
// `vertex` is the plain twin. A basis lies transposed, as LAPACK leaves it: row i is eigenvector i.
#pragma once

#include "orthogonal.h"

namespace {

// Columns of the block's matrices that are one tensor.
template <typename R>
struct Columns {
  const R* gradient;  // (gates, n, count), or null for zero
  R *step, *twin;     // where the step goes, or null; each of two gets half
  Index count;
};

template <typename R>
struct LearntBall {
  static constexpr Index LANES = Simd<R>::LANES;
  Index gates, n, k, stride;
  std::vector<Columns<R>> members;
  R *left, *left_basis, *right, *right_basis;  // (gates, n, n), (k, k); null without a basis
  R *mean, *squares, *size2, *log_radius;      // (gates, n, k), (gates)
  bool learns_left, learns_right, turns;
  // Numbers of the step, see learnt_kernel.py.
  R old_seen, size_seen, size_beta, keep, momentum, nesterov, weight, rate, seen, beta, clip, floor,
      largest, shift, scale;

  void step();

 private:
  R *g, *y, *z, *packed;
  void gather(std::vector<char>& moves);
  void learn(Workspace<R>& space);
  void turn(Workspace<R>& space, bool is_left, R* matrix, R* basis, Index size, Index gate);
  void into_basis(Index gate);
  void edges(Index gate);
  void out_of_basis(Index gate);
  void scatter(const std::vector<char>& moves);
  Index matrix() const { return n * stride; }
};

// matrix (size, size) ← keep matrix + by x'x or x x', of which one half is computed.
template <typename R, bool BY_COLUMN>
void add_gram(R* matrix, Index size, R keep, R by, const R* x, Index stride, const Panels<R>& b) {
  constexpr Index LANES = Simd<R>::LANES;
  for_tiles(size, b, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
    const int skipped = (int)std::max<Index>(0, (row - column) / LANES);
    const Index width = tile.N * LANES;
    if (skipped >= tile.N) return;
    tile.N -= skipped, column += skipped * LANES;
    tile.set([](int, int) { return Vec<R>{}; });
    multiply_for<R, BY_COLUMN>(tile.M, tile.N)(tile.values, BY_COLUMN ? x + row : x + row * stride,
                                               stride, panel + skipped * LANES, width, b.rows);
    tile.use([&](int m, int n, Vec<R> sum) {
      R* to = matrix + (row + m) * size + column + n;
      const Index left = size - column - n;
      store_up_to(to, keep * load_up_to(to, left) + by * sum, left);
    });
    tile.N += skipped;
  });
  for (Index i0 = 0; i0 < size; i0 += 16)
    for (Index i = i0; i < std::min(size, i0 + 16); i++)
      for (Index j = 0; j < i; j++) matrix[i * size + j] = matrix[j * size + i];
}

template <typename R>
void LearntBall<R>::step() {
  stride = padded<R>(k);
  const Index side = std::max(n, k), square = side * padded<R>(side);
  Workspace<R> space(3 * gates * matrix() + std::max(gates * n, side) * padded<R>(side) + 2 * LANES +
                     (turns ? 4 * square + Orthogonal<R>::size(side) : 0) + 16 * LANES);
  g = space.take(gates * matrix()), y = space.take(gates * matrix()), z = space.take(gates * matrix());
  packed = space.take(std::max(gates * n, side) * padded<R>(side));
  std::vector<char> moves(gates * n);
  gather(moves);
  const SmallIsZero guard;
  learn(space);
  for (Index gate = 0; gate < gates; gate++) {
    into_basis(gate);
    edges(gate);
    out_of_basis(gate);
  }
  scatter(moves);
}

// g ← the gradient in units of its running size; which rows may move.
template <typename R>
void LearntBall<R>::gather(std::vector<char>& moves) {
  const R many = std::sqrt((R)(n * k));
  for (Index gate = 0; gate < gates; gate++) {
    R* const mine = g + gate * matrix();
    Vec<R> sum = {};
    for (Index i = 0; i < n; i++) {
      R* row = mine + i * stride;
      store(row + stride - LANES, Vec<R>{});
      Index at = 0;
      for (const auto& one : members) {
        if (one.gradient)
          std::memcpy(row + at, one.gradient + (gate * n + i) * one.count, one.count * sizeof(R));
        else
          std::memset(row + at, 0, one.count * sizeof(R));
        at += one.count;
      }
      typename Simd<R>::I present = {};
      for (Index c = 0; c < stride; c += LANES) {
        const Vec<R> x = load(row + c);
        sum += x * x;
        present |= (typename Simd<R>::I)(x != 0);
      }
      bool any = false;
      for (int c = 0; c < LANES; c++) any |= present[c] != 0;
      moves[gate * n + i] = any;
    }
    R size = std::sqrt(sum_of<R>(sum));
    const bool finite = std::isfinite(size);
    if (!finite) size = 0;
    const R usual = std::sqrt(size2[gate] / old_seen);
    const R kept = usual > 0 ? std::min(size, clip * usual) : size;
    size2[gate] = size_beta * size2[gate] + (1 - size_beta) * kept * kept;
    const R unit = std::sqrt(size2[gate] / size_seen);
    R factor = kept / size / unit;
    factor = std::isfinite(factor) ? factor * many : 0;
    for (Index i = 0; i < n; i++) {
      moves[gate * n + i] &= finite;
      for (Index c = 0; c < stride; c += LANES) {
        R* at = mine + i * stride + c;
        store(at, finite ? load(at) * factor : Vec<R>{});
      }
    }
  }
}

// Shampoo's matrix of the side that is due, and a turn of its basis.
template <typename R>
void LearntBall<R>::learn(Workspace<R>& space) {
  if (learns_left)
    for (Index gate = 0; gate < gates; gate++) {
      const R* x = g + gate * matrix();
      add_gram<R, false>(left + gate * n * n, n, keep, (1 - keep) / k, x, stride,
                         Panels<R>(packed, x, k, n, 1, stride));
    }
  if (learns_right)
    add_gram<R, true>(right, k, keep, (1 - keep) / (gates * n), g, stride,
                      Panels<R>(packed, g, gates * n, k, stride, 1));
  if (!turns) return;
  R* const free = space.next;
  if (learns_right) turn(space, false, right, right_basis, k, 0);
  for (Index gate = 0; learns_left && gate < gates; gate++) {
    space.next = free;
    turn(space, true, left + gate * n * n, left_basis + gate * n * n, n, gate);
  }
}

// A step of orthogonal iteration; what is kept in the basis turns with it.
template <typename R>
void LearntBall<R>::turn(Workspace<R>& space, bool is_left, R* matrix, R* basis, Index size, Index gate) {
  const Index wide = padded<R>(size);
  R *a = space.take(size * wide), *q = space.take(size * wide), *turned = space.take(size * wide);
  Orthogonal<R> orthogonal(size, space);
  R trace = 0;
  for (Index i = 0; i < size; i++) trace += matrix[i * size + i];
  const R shifted = shift * trace / size;
  Vec<R> most = {};
  product<R, false>(size, basis, size, Panels<R>(packed, matrix, size, size, size, 1),
                    [&](Index i, Index c, Vec<R> sum) {
                      sum += shifted * load_up_to(basis + i * size + c, size - c);
                      const Vec<R> length = sum < 0 ? -sum : sum;
                      most = length > most ? length : most;
                      store(a + i * wide + c, sum);
                    });
  R largest_entry = 0;
  for (int i = 0; i < LANES; i++) largest_entry = std::max(largest_entry, most[i]);
  // The basis does not depend on the matrix's size, but squares of small numbers vanish.
  if (largest_entry > 0 && largest_entry < R(1e-3)) {
    const R by = 1 / largest_entry;
    for (Index i = 0; i < size * wide; i += LANES) store(a + i, load(a + i) * by);
  }
  orthogonal(a, q);
  // Left: T = new' old from the left. Right: T' = old' new from the right.
  const auto keep_turn = [&](Index i, Index c, Vec<R> sum) { store(turned + i * wide + c, sum); };
  if (is_left)
    product<R, false>(size, q, wide, Panels<R>(packed, basis, size, size, 1, size), keep_turn);
  else
    product<R, false>(size, basis, size, Panels<R>(packed, q, size, size, 1, wide), keep_turn);
  for (Index i = 0; i < size; i++) std::memcpy(basis + i * size, q + i * wide, size * sizeof(R));
  for (R* kept : {mean, squares}) {
    if (is_left) {
      R* to = kept + gate * n * k;
      product<R, false>(n, turned, wide, Panels<R>(packed, to, n, k, k, 1),
                        [&](Index i, Index c, Vec<R> sum) { store_up_to(to + i * k + c, sum, k - c); });
    } else {
      // Rows are read before they are written.
      const Panels<R> panels(packed, turned, k, k, wide, 1);
      product<R, false>(gates * n, kept, k, panels,
                        [&](Index i, Index c, Vec<R> sum) { store(y + i * stride + c, sum); });
      for (Index i = 0; i < gates * n; i++) std::memcpy(kept + i * k, y + i * stride, k * sizeof(R));
    }
    // Exact for V where entries are uncorrelated.
    for (Index i = 0; i < size * wide; i += LANES) store(turned + i, load(turned + i) * load(turned + i));
  }
}

// y ← Q_L' g Q_R.
template <typename R>
void LearntBall<R>::into_basis(Index gate) {
  const R* from = g + gate * matrix();
  R *middle = z + gate * matrix(), *to = y + gate * matrix();
  if (right)
    product<R, false>(n, from, stride, Panels<R>(packed, right_basis, k, k, 1, k),
                      [&](Index i, Index c, Vec<R> sum) { store(middle + i * stride + c, sum); });
  else
    middle = g + gate * matrix();
  if (left)
    product<R, false>(n, left_basis + gate * n * n, n, Panels<R>(packed, middle, n, k, stride, 1),
                      [&](Index i, Index c, Vec<R> sum) { store(to + i * stride + c, sum); });
  else
    std::memcpy(to, middle, matrix() * sizeof(R));
}

// y ← the edges' lengths times sign N; M, V and the radius see the gradient.
template <typename R>
void LearntBall<R>::edges(Index gate) {
  R* const x = y + gate * matrix();
  R *const m = mean + gate * n * k, *const s = squares + gate * n * k;
  Vec<R> dot = {}, sizes = {}, means = {}, sum = {};
  for (Index i = 0; i < n; i++)
    for_vectors<R>(k, [&](Index c, auto part) {
      const Vec<R> now = part.load(x + i * stride + c), old = part.load(m + i * k + c);
      dot += now * old, sizes += now * now, means += old * old;
      part.store(m + i * k + c, old + (1 - momentum) * (now - old));
      const Vec<R> square = beta * part.load(s + i * k + c) + (1 - beta) * now * now;
      part.store(s + i * k + c, square);
      sum += square;
    });
  if (rate != 0) {
    const R cosine = sum_of<R>(dot) / (std::sqrt(sum_of<R>(sizes)) * std::sqrt(sum_of<R>(means)));
    const R to = log_radius[gate] + (std::isfinite(cosine) ? rate * cosine * cosine * cosine : 0);
    log_radius[gate] = std::min(largest, std::max(-largest, to));
  }
  const R least = std::sqrt(sum_of<R>(sum) / (n * k) / seen) * floor, per = 1 / seen;
  // N = a x + b M.
  const R of_x = nesterov != 0 ? (1 - momentum) / weight : 0, of_mean = (nesterov != 0 ? momentum : 1) / weight;
  for (Index i = 0; i < n; i++)
    for_vectors<R>(k, [&](Index c, auto part) {
      R* at = x + i * stride + c;
      const Vec<R> look = of_x * part.load(at) + of_mean * part.load(m + i * k + c);
      Vec<R> root = part.load(s + i * k + c) * per;
      for (int lane = 0; lane < LANES; lane++) root[lane] = std::sqrt(root[lane]);
      Vec<R> edge = look / (root + least);
      edge = edge == edge ? edge : Vec<R>{};
      edge = edge > clip ? Vec<R>{} + clip : edge;
      part.store(at, edge < -clip ? Vec<R>{} - clip : edge);
    });
}

// g ← Q_L y Q_R'.
template <typename R>
void LearntBall<R>::out_of_basis(Index gate) {
  R *from = y + gate * matrix(), *middle = z + gate * matrix(), *to = g + gate * matrix();
  if (left)
    product<R, true>(n, left_basis + gate * n * n, n, Panels<R>(packed, from, n, k, stride, 1),
                     [&](Index i, Index c, Vec<R> sum) { store(middle + i * stride + c, sum); });
  else
    middle = from;
  if (right)
    product<R, false>(n, middle, stride, Panels<R>(packed, right_basis, k, k, k, 1),
                      [&](Index i, Index c, Vec<R> sum) { store(to + i * stride + c, sum); });
  else
    std::memcpy(to, middle, matrix() * sizeof(R));
}

template <typename R>
void LearntBall<R>::scatter(const std::vector<char>& moves) {
  for (Index gate = 0; gate < gates; gate++) {
    const R by = -std::exp(log_radius[gate]) * scale;
    for (Index i = 0; i < n; i++) {
      const R* row = g + gate * matrix() + i * stride;
      const R mine = moves[gate * n + i] ? by : 0;
      for (const auto& one : members) {
        const R factor = one.twin ? mine / 2 : mine;
        for (R* to : {one.step, one.twin})
          if (to)
            for_vectors<R>(one.count, [&](Index c, auto part) {
              part.store(to + (gate * n + i) * one.count + c, part.load(row + c) * factor);
            });
        row += one.count;
      }
    }
  }
}

}  // namespace
