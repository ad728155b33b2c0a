// Products of bfloat16 numbers, summed in single precision: by tiles of 16 x 16 sums (AMX) or vectors
// (AVX512-BF16), whichever this processor has. A compiler without them builds the rest.
//
// How a kernel uses it, with c (rows, columns) = or += a (rows, depth) b (depth, columns):
//
//     HalfMatrix b(matrix, depth, columns, row_stride, column_stride);           // packed once
//     half_rows(a, stride_a, from, stride_from, rows, depth);                    // or half_turned
//     multiply_half(c, stride_c, a, stride_a, rows, b.part(), fresh, ahead);
//
// Depths are padded with zeros to HALF_DEPTH, rows of a to HALF_ROWS (whatever they hold), and rows of
// c hold whole vectors. Rounding is to the nearest, ties to even; NaN stays NaN.
#pragma once

#include "chunk_product.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__x86_64__) && \
    ((defined(__clang__) && __clang_major__ >= 14) || (!defined(__clang__) && __GNUC__ >= 11))
#define HAVE_HALF 1
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#else
#define HAVE_HALF 0
#endif

namespace {

enum class HalfKind { NONE = 0, VECTORS = 1, TILES = 2 };
constexpr Index HALF_DEPTH = 32, HALF_ROWS = 16;

using Half = uint16_t;

inline Index half_depth(Index depth) { return (depth + HALF_DEPTH - 1) / HALF_DEPTH * HALF_DEPTH; }
inline Index half_count(Index rows) { return (rows + HALF_ROWS - 1) / HALF_ROWS * HALF_ROWS; }

// The right factor: pairs of rows, a number of the even row beside that of the odd one.
struct HalfPart {
  const uint32_t* pairs;        // (depth / 2, stride)
  Index stride, depth, vectors;  // depth: padded; vectors of 16 columns
};

#if HAVE_HALF

#define AVX512_BF16 __attribute__((target("avx512bf16")))
#define AMX_BF16 __attribute__((target("amx-tile,amx-bf16")))

// A test may ask for less than what the processor can do.
inline std::atomic<int> half_limit{(int)HalfKind::TILES};

// What this processor can do, and the system allows.
inline HalfKind half_kind() {
  static const HalfKind found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) return HalfKind::NONE;
#if defined(__linux__) && defined(SYS_arch_prctl)
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    constexpr int ASK_FOR_STATE = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, from asm/prctl.h
    const bool tiles = (d & (1u << 22)) && (d & (1u << 24));
    if (tiles && syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0) return HalfKind::TILES;
#endif
    return HalfKind::VECTORS;
  }();
  return (HalfKind)std::min((int)found, half_limit.load(std::memory_order_relaxed));
}

// ---- Rounding --------------------------------------------------------------------------------------

AVX512_BF16 inline __m256i rounded(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }

// 16 numbers of each of two rows as pairs.
AVX512_BF16 inline __m512i paired(__m512 even, __m512 odd) {
  const __m512i low = _mm512_cvtepu16_epi32(rounded(even)), high = _mm512_cvtepu16_epi32(rounded(odd));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
AVX512_BF16 inline __m512 some_of(const float* from, Index count) {
  if (count >= 16) return _mm512_loadu_ps(from);
  return count <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
}

// to (rows, padded columns), row after row.
AVX512_BF16 __attribute__((noinline)) void half_rows(Half* to, Index stride, const float* from, Index stride_from,
                                                     Index rows, Index columns) {
  for (Index row = 0; row < rows; row++)
    for (Index j = 0; j < half_depth(columns); j += 16)
      _mm256_storeu_si256((__m256i*)(to + row * stride + j), rounded(some_of(from + row * stride_from + j, columns - j)));
}

// to (padded rows / 2, whole vectors of columns): pairs of rows.
AVX512_BF16 __attribute__((noinline)) void half_pairs(uint32_t* to, Index stride, const float* from,
                                                      Index stride_from, Index rows, Index columns) {
  for (Index row = 0; row < half_depth(rows); row += 2)
    for (Index j = 0; j < columns; j += 16) {
      const float* even = from + row * stride_from + j;
      const Index left = columns - j;
      _mm512_storeu_si512(to + row / 2 * stride + j, paired(some_of(even, row < rows ? left : 0),
                                                            some_of(even + stride_from, row + 1 < rows ? left : 0)));
    }
}

inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + 4 + j], 0x88);
      t[i + 4 + j] = _mm512_shuffle_i32x4(r[i + j], r[i + 4 + j], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
    r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
  }
}

// to (columns, padded rows): the transpose.
AVX512_BF16 __attribute__((noinline)) void half_turned(Half* to, Index stride, const float* from, Index stride_from,
                                                       Index rows, Index columns) {
  for (Index row = 0; row < half_depth(rows); row += 32)
    for (Index j = 0; j < columns; j += 16) {
      __m512i pairs[16];
      for (Index i = 0; i < 16; i++) {
        const Index at = row + 2 * i;
        const float* even = from + at * stride_from + j;
        pairs[i] = paired(some_of(even, at < rows ? columns - j : 0),
                          some_of(even + stride_from, at + 1 < rows ? columns - j : 0));
      }
      transpose(pairs);
      for (Index i = 0; i < std::min<Index>(16, columns - j); i++)
        _mm512_storeu_si512(to + (j + i) * stride + row, pairs[i]);
    }
}

// One block of a product: c (some rows, some vectors) = or += a b.
struct HalfBlock {
  float* c;
  Index stride_c;
  const Half* a;
  Index stride_a;
  const uint32_t* b;
  Index stride_b, depth;
  bool fresh;
  Ahead::Lines ahead;
};
using HalfMultiply = void (*)(const HalfBlock&);

// ---- Vectors ---------------------------------------------------------------------------------------

template <int M, int N>
AVX512_BF16 __attribute__((noinline)) void half_vectors(const HalfBlock& of) {
  float* const c = of.c;
  const Half* const a = of.a;
  const uint32_t* b = of.b;
  const Index stride_c = of.stride_c, stride_a = of.stride_a;
  Ahead::Lines ahead = of.ahead;
  __m512 at[M][N];
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) at[m][n] = of.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + m * stride_c + n * 16);
  for (Index k = 0; k < of.depth; k += 2, b += of.stride_b) {
    __builtin_prefetch(ahead.at, 0, 2);
    ahead.at += ahead.step;
    __m512bh column[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) column[n] = (__m512bh)_mm512_loadu_si512(b + n * 16);
#pragma GCC unroll 32
    for (int m = 0; m < M; m++) {
      int32_t pair;
      std::memcpy(&pair, a + m * stride_a + k, sizeof pair);
      const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) at[m][n] = _mm512_dpbf16_ps(at[m][n], value, column[n]);
    }
  }
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) _mm512_storeu_ps(c + m * stride_c + n * 16, at[m][n]);
}

inline HalfMultiply half_vectors_for(int rows, int width) {
  static const auto table = []<int... M>(std::integer_sequence<int, M...>) {
    return std::array<std::array<HalfMultiply, sizeof...(M)>, 5>{{
        {},
        {half_vectors<M + 1, 1>...},
        {half_vectors<M + 1, 2>...},
        {half_vectors<M + 1, 3>...},
        {half_vectors<M + 1, 4>...},
    }};
  }(std::make_integer_sequence<int, 6>());
  return table[width][rows - 1];
}

// ---- Tiles -----------------------------------------------------------------------------------------

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A block of c: ROWS times 16 rows, VECTORS times 16 columns.
template <int ROWS, int VECTORS>
AMX_BF16 __attribute__((noinline)) void half_tiles(const HalfBlock& of) {
  // To the compiler, loads of tiles do not read memory: what was written before must be there.
  asm volatile("" ::: "memory");
  float* const c = of.c;
  float* const lower = c + 16 * of.stride_c;
  const Half *a = of.a, *lower_a = of.a + 16 * of.stride_a;
  const uint32_t* b = of.b;
  const Index bytes = 4 * of.stride_c, bytes_a = 2 * of.stride_a, bytes_b = 4 * of.stride_b;
  Ahead::Lines ahead = of.ahead;
  if (of.fresh) {
    _tile_zero(0);
    if constexpr (VECTORS > 1) _tile_zero(1);
    if constexpr (ROWS > 1) _tile_zero(2);
    if constexpr (ROWS > 1 && VECTORS > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, c, bytes);
    if constexpr (VECTORS > 1) _tile_loadd(1, c + 16, bytes);
    if constexpr (ROWS > 1) _tile_loadd(2, lower, bytes);
    if constexpr (ROWS > 1 && VECTORS > 1) _tile_loadd(3, lower + 16, bytes);
  }
  for (Index k = 0; k < of.depth; k += HALF_DEPTH, b += 16 * of.stride_b) {
    for (int i = 0; i < 16; i++, ahead.at += ahead.step) __builtin_prefetch(ahead.at, 0, 2);
    _tile_loadd(4, a + k, bytes_a);
    _tile_loadd(6, b, bytes_b);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (VECTORS > 1) {
      _tile_loadd(7, b + 16, bytes_b);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (ROWS > 1) {
      _tile_loadd(5, lower_a + k, bytes_a);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (VECTORS > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, bytes);
  if constexpr (VECTORS > 1) _tile_stored(1, c + 16, bytes);
  if constexpr (ROWS > 1) _tile_stored(2, lower, bytes);
  if constexpr (ROWS > 1 && VECTORS > 1) _tile_stored(3, lower + 16, bytes);
  asm volatile("" ::: "memory");
}

// `rows` rows of a block by tiles. Fewer rows than tiles have take a detour: a store writes whole tiles.
inline void half_block(HalfBlock& of, Index rows, int vectors) {
  constexpr HalfMultiply blocks[2][2] = {{half_tiles<1, 1>, half_tiles<1, 2>}, {half_tiles<2, 1>, half_tiles<2, 2>}};
  const int tiles = rows > 16 ? 2 : 1;
  const HalfMultiply block = blocks[tiles - 1][vectors - 1];
  if (rows == 16 * tiles) return block(of);
  alignas(64) float all[32 * 32];
  float* const c = of.c;
  const Index stride = of.stride_c;
  for (Index row = 0; !of.fresh && row < rows; row++)
    std::memcpy(all + row * 32, c + row * stride, vectors * 64);
  of.c = all, of.stride_c = 32;
  block(of);
  for (Index row = 0; row < rows; row++) std::memcpy(c + row * stride, all + row * 32, vectors * 64);
}

AMX_BF16 __attribute__((noinline)) inline void use_tiles() {
  static constexpr TileShapes shapes;  // not on the stack: the compiler does not see all of it being read
  _tile_loadconfig(&shapes);
}
AMX_BF16 __attribute__((noinline)) inline void leave_tiles() { _tile_release(); }

// ---- The product -----------------------------------------------------------------------------------

// c (rows, columns of b) = or += a (rows, depth) b; meanwhile asks for `ahead`.
inline void multiply_half(float* c, Index stride_c, const Half* a, Index stride_a, Index rows, const HalfPart& b,
                          bool fresh, Ahead& ahead) {
  const bool tiles = half_kind() == HalfKind::TILES;
  const Index high = tiles ? 32 : 6, wide = tiles ? 2 : 4;
  if (tiles) use_tiles();
  for (Index vector = 0; vector < b.vectors; vector += wide) {
    const int vectors = (int)std::min(wide, b.vectors - vector);
    for (Index row = 0; row < rows; row += high) {
      const Index some = std::min(high, rows - row);
      float* to = c + row * stride_c + vector * 16;
      HalfBlock block{to,       stride_c, a + row * stride_a, stride_a, b.pairs + vector * 16,
                      b.stride, b.depth,  fresh,              ahead.take(b.depth / 2, to)};
      if (tiles)
        half_block(block, some, vectors);
      else
        half_vectors_for((int)some, vectors)(block);
    }
  }
  if (tiles) leave_tiles();
}

#else

inline std::atomic<int> half_limit{0};
inline HalfKind half_kind() { return HalfKind::NONE; }
inline void half_rows(Half*, Index, const float*, Index, Index, Index) {}
inline void half_pairs(uint32_t*, Index, const float*, Index, Index, Index) {}
inline void half_turned(Half*, Index, const float*, Index, Index, Index) {}
inline void multiply_half(float*, Index, const Half*, Index, Index, const HalfPart&, bool, Ahead&) {}

#endif

// A right factor of its own, from a matrix[row * row_stride + column * column_stride].
struct HalfMatrix {
  Index rows, columns, stride;
  Buffer<uint32_t> pairs;
  HalfMatrix(const float* matrix, Index rows, Index columns, Index row_stride, Index column_stride)
      : rows(rows), columns(columns), stride((columns + 15) / 16 * 16), pairs(half_depth(rows) / 2 * stride) {
    const Buffer<float> dense(column_stride == 1 ? 0 : rows * columns);
    if (!pairs.get() || !dense.get()) return;
    if (column_stride != 1) {
      for (Index k = 0; k < rows; k++)
        for (Index j = 0; j < columns; j++)
          dense.get()[k * columns + j] = matrix[k * row_stride + j * column_stride];
      matrix = dense.get(), row_stride = columns;
    }
    half_pairs(pairs.get(), stride, matrix, row_stride, rows, columns);
  }
  HalfPart part() const { return {pairs.get(), stride, half_depth(rows), stride / 16}; }
};

}  // namespace
