// Products of a chunk of rows that lies in the cache: with a packed matrix, and with another chunk.
//
// Results go straight from the registers to where they belong, so every row of them has whole vectors.
#pragma once

#include "product.h"

namespace {

// Numbers of a row, up to whole vectors; and one vector more, because rows a power of two apart would
// share few places of the cache.
template <typename R>
constexpr Index chunk_stride(Index columns) {
  constexpr Index LANES = Simd<R>::LANES;
  return (columns + LANES - 1) / LANES * LANES + LANES;
}

// Memory that is needed after a product, which the product asks for while it computes: one line for
// every two multiplications of a tile's depth.
class Ahead {
  struct Piece {
    const char* start;
    Index lines;
  };
  std::vector<Piece> pieces;
  size_t piece = 0;
  Index line = 0;

 public:
  static constexpr Index LINE = 64;
  void clear() { pieces.clear(), piece = 0, line = 0; }
  template <typename R>
  void add(const R* start, Index count) {
    if (start) pieces.push_back({(const char*)start, (count * (Index)sizeof(R) + LINE - 1) / LINE});
  }
  // The next line, and how far it is from one line to the next.
  struct Lines {
    const char* at;
    Index step;
  };
  Lines take(Index count, const void* otherwise) {
    if (piece == pieces.size()) return {(const char*)otherwise, 0};
    const char* at = pieces[piece].start + line * LINE;
    line += count;
    if (line >= pieces[piece].lines) piece++, line = 0;
    return {at, LINE};
  }
};

// c (M, N vectors) = or += a (M, depth) times b (depth, N vectors). An entry of a is at
// a[m * stride_a + k], or with BY_COLUMN at a[k * stride_a + m].
template <typename R, int M, int N, bool BY_COLUMN>
__attribute__((noinline)) void multiply_into(R* c, Index stride_c, const R* a, Index stride_a, const R* b,
                                             Index stride_b, Index depth, bool fresh, Ahead::Lines ahead) {
  constexpr int LANES = Simd<R>::LANES;
  // Few accumulators would wait for one another: two sets, for even and odd k.
  constexpr int SETS = M * N <= 8 ? 2 : 1;
  Vec<R> at[SETS][M][N];
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      at[0][m][n] = fresh ? Vec<R>{} : load(c + m * stride_c + n * LANES);
      if (SETS == 2) at[SETS - 1][m][n] = Vec<R>{};
    }
  const auto step = [&](Index k, int set) __attribute__((always_inline)) {
    Vec<R> column[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) column[n] = load(b + k * stride_b + n * LANES);
#pragma GCC unroll 32
    for (int m = 0; m < M; m++) {
      const R value = BY_COLUMN ? a[k * stride_a + m] : a[m * stride_a + k];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) at[set][m][n] += value * column[n];
    }
  };
  Index k = 0;
  for (; k + 2 <= depth; k += 2) {
    __builtin_prefetch(ahead.at, 0, 2);
    ahead.at += ahead.step;
    step(k, 0);
    step(k + 1, SETS - 1);
  }
  if (k < depth) step(k, 0);
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      Vec<R> sum = at[0][m][n];
      if (SETS == 2) sum += at[SETS - 1][m][n];
      store<R>(c + m * stride_c + n * LANES, sum);
    }
}

template <typename R>
using MultiplyInto = void (*)(R*, Index, const R*, Index, const R*, Index, Index, bool, Ahead::Lines);

// The product for a number of rows and a panel width.
template <typename R, bool BY_COLUMN>
MultiplyInto<R> multiply_into_for(int rows, int width) {
  static const auto table = table_of_tiles<MultiplyInto<R>, WIDEST>(
      [](auto m, auto n) { return multiply_into<R, m, n, BY_COLUMN>; });
  return table[width][rows];
}

// c (rows, columns of b) = a (rows, depth) times b; meanwhile asks for `ahead`.
template <typename R>
void multiply_chunk(R* c, Index stride_c, const R* a, Index stride_a, Index rows, const Panels<R>& b,
                    Ahead& ahead) {
  constexpr Index DEPTH = 128;  // of a panel: half of a 64 KiB cache, two thirds of 48
  for (Index k = 0; k < b.rows; k += DEPTH)
    for (Index p = 0; p < b.count; p++) {
      const Index width = b.width(p) * Simd<R>::LANES;
      const Index depth = std::min(DEPTH, b.rows - k);
      for_blocks(rows, b.width(p), [&](Index row, int M) {
        R* to = c + row * stride_c + b.first(p) * Simd<R>::LANES;
        multiply_into_for<R, false>(M, b.width(p))(to, stride_c, a + row * stride_a + k, stride_a,
                                                   b.panel(p) + k * width, width, depth, k == 0,
                                                   ahead.take(depth / 2, to));
      });
    }
}

// c (columns of a, columns of b) += a' b, over `rows` rows of both; `cut` says how b's columns are cut.
template <typename R>
void add_chunk_product(R* c, Index stride_c, const R* a, Index stride_a, Index columns, const R* b,
                       Index stride_b, const Panels<R>& cut, Index rows, Ahead& ahead) {
  constexpr Index DEPTH = 64;
  for (Index k = 0; k < rows; k += DEPTH)
    for (Index p = 0; p < cut.count; p++) {
      const Index column = cut.first(p) * Simd<R>::LANES, depth = std::min(DEPTH, rows - k);
      for_blocks(columns, cut.width(p), [&](Index row, int M) {
        R* to = c + row * stride_c + column;
        multiply_into_for<R, true>(M, cut.width(p))(to, stride_c, a + k * stride_a + row, stride_a,
                                                    b + k * stride_b + column, stride_b, depth, false,
                                                    ahead.take(depth / 2, to));
      });
    }
}

}  // namespace
