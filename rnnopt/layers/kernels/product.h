// Small matrix products, tile by tile in registers.
#pragma once

#include "simd.h"

namespace {

// ---- A matrix cut into panels of up to WIDEST vectors of columns, each stored row after row --------

template <typename R>
struct Panels {
  static constexpr int LANES = Simd<R>::LANES;
  Index rows, columns, vectors, count;
  Buffer<R> owned;
  R* packed;

  // From a matrix[row * row_stride + column * column_stride].
  Panels(const R* matrix, Index rows, Index columns, Index row_stride, Index column_stride)
      : rows(rows), columns(columns), vectors((columns + LANES - 1) / LANES),
        count((vectors + WIDEST - 1) / WIDEST), owned(rows * vectors * LANES), packed(owned.get()) {
    if (packed) pack(matrix, row_stride, column_stride);
  }
  // The same in memory of size(rows, columns).
  Panels(R* memory, const R* matrix, Index rows, Index columns, Index row_stride, Index column_stride)
      : rows(rows), columns(columns), vectors((columns + LANES - 1) / LANES),
        count((vectors + WIDEST - 1) / WIDEST), owned(0), packed(memory) {
    pack(matrix, row_stride, column_stride);
  }
  static Index size(Index rows, Index columns) { return rows * ((columns + LANES - 1) / LANES * LANES); }

  void pack(const R* matrix, Index row_stride, Index column_stride) {
    for (Index p = 0; p < count; p++) {
      Index begin = first(p) * LANES, width = this->width(p) * LANES;
      Index used = std::min(columns - begin, width);
      R* to = panel(p);
      const R* from = matrix + begin * column_stride;
      if (used < width)
        for (Index k = 0; k < rows; k++) std::memset(to + k * width + used, 0, (width - used) * sizeof(R));
      if (column_stride == 1) {
        for (Index k = 0; k < rows; k++)
          std::memcpy(to + k * width, from + k * row_stride, used * sizeof(R));
      } else {
        // A transpose: squares of 16 keep both sides in the cache.
        for (Index k0 = 0; k0 < rows; k0 += 16)
          for (Index j = 0; j < used; j++)
            for (Index k = k0; k < std::min(rows, k0 + 16); k++)
              to[k * width + j] = from[k * row_stride + j * column_stride];
      }
    }
  }
  // Vectors are dealt out to the panels as evenly as can be.
  Index first(Index p) const { return p * vectors / count; }
  int width(Index p) const { return (int)(first(p + 1) - first(p)); }
  const R* panel(Index p) const { return packed + first(p) * LANES * rows; }
  R* panel(Index p) { return packed + first(p) * LANES * rows; }
};

// ---- Tiles: M rows by N vectors of accumulators ----------------------------------------------------

// to (M, N vectors) = from + a (M, depth) times b (depth, N vectors). An entry of a is at
// a[m * stride_a + k], or with BY_COLUMN at a[k * stride_a + m]; `from` may be `to`, and with a stride of
// zero it is one row. Compiled once for each M and N; what happens before and after the product works on
// the tile in the nearest cache, which costs a load and a store for every `depth` multiplications.
template <typename R, int M, int N, bool BY_COLUMN>
__attribute__((noinline)) void multiply_tile(R* to, Index stride_to, const R* from, Index stride_from,
                                             const R* a, Index stride_a, const R* b, Index stride_b,
                                             Index depth) {
  constexpr int LANES = Simd<R>::LANES;
  // Few accumulators would wait for one another: two sets, for even and odd k.
  constexpr int SETS = M * N <= 8 ? 2 : 1;
  Vec<R> at[SETS][M][N];
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      at[0][m][n] = load(from + m * stride_from + n * LANES);
      if (SETS == 2) at[SETS - 1][m][n] = Vec<R>{};
    }
  Index k = 0;
  for (; k + SETS <= depth; k += SETS)
#pragma GCC unroll 2
    for (int set = 0; set < SETS; set++) {
      Vec<R> column[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) column[n] = load(b + (k + set) * stride_b + n * LANES);
#pragma GCC unroll 32
      for (int m = 0; m < M; m++) {
        const R value = BY_COLUMN ? a[(k + set) * stride_a + m] : a[m * stride_a + k + set];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) at[set][m][n] += value * column[n];
      }
    }
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      Vec<R> sum = at[0][m][n];
      if (SETS == 2) {
        // Before the sets are added: then zeros behind the last k, as of padding, change no bit.
        if (k < depth)
          sum += (BY_COLUMN ? a[k * stride_a + m] : a[m * stride_a + k]) * load(b + k * stride_b + n * LANES);
        sum += at[SETS - 1][m][n];
      }
      store(to + m * stride_to + n * LANES, sum);
    }
}

template <typename R>
using Product = void (*)(R*, Index, const R*, Index, const R*, Index, const R*, Index, Index);

// Panels of gates may be wider than those of a plain matrix.
constexpr int WIDEST_TILE = std::max(WIDEST, 4);

constexpr int most_rows(int width) { return std::min(12, ACCUMULATORS / width); }

// What make(M, N) gives, at [N][M], for all tiles of up to WIDE vectors that the registers hold.
template <typename F, int WIDE, class Make>
auto table_of_tiles(Make make) {
  std::array<std::array<F, 13>, WIDE + 1> all{};
  const auto fill = [&](auto n, auto... m) {
    ([&] {
      if constexpr (m + 1 <= most_rows(n + 1))
        all[n + 1][m + 1] = make(std::integral_constant<int, m + 1>(), std::integral_constant<int, n + 1>());
    }(), ...);
  };
  const auto widths = [&]<int... N, int... M>(std::integer_sequence<int, N...>,
                                              std::integer_sequence<int, M...>) {
    (fill(std::integral_constant<int, N>(), std::integral_constant<int, M>()...), ...);
  };
  widths(std::make_integer_sequence<int, WIDE>(), std::make_integer_sequence<int, 12>());
  return all;
}

// The product for a number of rows and a panel width.
template <typename R, bool BY_COLUMN>
Product<R> product_for(int rows, int width) {
  static const auto table = table_of_tiles<Product<R>, WIDEST_TILE>(
      [](auto m, auto n) { return multiply_tile<R, m, n, BY_COLUMN>; });
  return table[width][rows];
}

// The same on a tile in place: tile, a, stride_a, b, stride_b, depth.
template <typename R, bool BY_COLUMN>
auto multiply_for(int rows, int width) {
  return [=](R* tile, const R* a, Index stride_a, const R* b, Index stride_b, Index depth) {
    const Index length = width * Simd<R>::LANES;
    product_for<R, BY_COLUMN>(rows, width)(tile, length, tile, length, a, stride_a, b, stride_b, depth);
  };
}

// Cuts `rows` into blocks as even as can be and calls f(first row, rows of the block) for each.
template <class F>
INLINE void for_blocks(Index rows, int width, F f) {
  const Index blocks = (rows + most_rows(width) - 1) / most_rows(width);
  for (Index i = 0; i < blocks; i++) {
    const Index begin = i * rows / blocks;
    f(begin, (int)((i + 1) * rows / blocks - begin));
  }
}

// The accumulators of a product while they are prepared and used: M rows of N vectors.
template <typename R>
struct Tile {
  static constexpr int LANES = Simd<R>::LANES;
  alignas(64) R values[ACCUMULATORS * LANES];
  int M, N;

  // Sets each vector to what f(m, first column) gives.
  template <class F>
  INLINE void set(F f) {
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) ::store<R>(values + (m * N + n) * LANES, f(m, n * LANES));
  }
  // Calls f(m, first column, vector) for each.
  template <class F>
  INLINE void use(F f) const {
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) f(m, n * LANES, ::load(values + (m * N + n) * LANES));
  }
  // += f(m, first column).
  template <class F>
  INLINE void add(F f) {
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) {
        R* at = values + (m * N + n) * LANES;
        ::store<R>(at, ::load(at) + f(m, n * LANES));
      }
  }
  // += rows of a, `stride_a` apart, times rows of the panel b.
  INLINE void multiply(const R* a, Index stride_a, const R* b, Index depth) {
    start(values, N * LANES, a, stride_a, b, depth);
  }
  // = from, in rows `stride_from` apart or with 0 one row for all, + the same.
  INLINE void start(const R* from, Index stride_from, const R* a, Index stride_a, const R* b, Index depth) {
    product_for<R, false>(M, N)(values, N * LANES, from, stride_from, a, stride_a, b, N * LANES, depth);
  }
};

// Calls f(tile, first row, panel, first column) for every tile of a product of `rows` rows with the
// columns that `panels` is cut into, on request the last panel first.
template <typename R, class F>
INLINE void for_tiles(Index rows, const Panels<R>& panels, F f, bool from_last = false) {
  Tile<R> tile;
  for (Index i = 0; i < panels.count; i++) {
    const Index p = from_last ? panels.count - 1 - i : i;
    tile.N = panels.width(p);
    for_blocks(rows, tile.N, [&](Index row, int M) {
      tile.M = M;
      f(tile, row, panels.panel(p), panels.first(p) * Simd<R>::LANES);
    });
  }
}

}  // namespace
