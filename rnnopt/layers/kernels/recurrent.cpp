// Recurrent layers on the CPU, fused over time. Plain C++17 with GCC/Clang vector types and a C
// interface: nothing of torch or Python is included, so one build serves every version of both.
//
// What the functions compute is written out in elman.py and indrnn.py, beside their plain twins.
//
// Elman: the batch is cut into one shard of rows a thread, and a thread carries its rows through all
// steps without waiting for the others. A step is a product of the shard's states with the packed
// recurrent matrix, done tile by tile in registers; bias and input go in before the product and the
// nonlinearity is applied to the tile before it is stored, so each state is written once. Backward,
// the gradient before the nonlinearity is kept for a block of steps only, small enough to stay in
// the cache, and its products with states and inputs are added to the thread's own sums, which are
// added up in the order of the threads: the same result in every run with as many threads.
//
// IndRNN: the recurrence is elementwise, so the cost is reading and writing memory once.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>
#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

using Index = std::ptrdiff_t;

// Vectors as wide as the machine's registers, and as many accumulators as fit into them.
#if defined(__AVX512F__)
constexpr int BYTES = 64, ACCUMULATORS = 24, WIDEST = 4;
#elif defined(__AVX__)
constexpr int BYTES = 32, ACCUMULATORS = 12, WIDEST = 3;
#else
constexpr int BYTES = 16, ACCUMULATORS = 16, WIDEST = 4;
#endif

template <typename R>
struct Simd;
template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(BYTES)));
  typedef int32_t I __attribute__((vector_size(BYTES)));
  typedef float Unaligned __attribute__((vector_size(BYTES), aligned(4), may_alias));
  static constexpr int LANES = BYTES / 4;
};
template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(BYTES)));
  typedef int64_t I __attribute__((vector_size(BYTES)));
  typedef double Unaligned __attribute__((vector_size(BYTES), aligned(8), may_alias));
  static constexpr int LANES = BYTES / 8;
};

template <typename R>
using Vec = typename Simd<R>::V;

#define INLINE inline __attribute__((always_inline))

template <typename R>
INLINE Vec<R> load(const R* p) {
  return *reinterpret_cast<const typename Simd<R>::Unaligned*>(p);
}
template <typename R>
INLINE void store(R* p, Vec<R> v) {
  *reinterpret_cast<typename Simd<R>::Unaligned*>(p) = v;
}

// The first `count` < LANES entries; the others are zero, and are not touched in memory.
template <typename R>
INLINE Vec<R> load_some(const R* p, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(R) == 4)
    return (Vec<R>)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
  else
    return (Vec<R>)_mm512_maskz_loadu_pd((__mmask8)((1u << count) - 1), p);
#else
  Vec<R> v = {};
  for (int i = 0; i < count; i++) v[i] = p[i];
  return v;
#endif
}
template <typename R>
INLINE void store_some(R* p, Vec<R> v, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(R) == 4)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
  else
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << count) - 1), (__m512d)v);
#else
  for (int i = 0; i < count; i++) p[i] = v[i];
#endif
}
template <typename R>
INLINE Vec<R> load_up_to(const R* p, Index count) {
  return count >= Simd<R>::LANES ? load(p) : load_some(p, (int)count);
}
template <typename R>
INLINE void store_up_to(R* p, Vec<R> v, Index count) {
  if (count >= Simd<R>::LANES)
    store(p, v);
  else
    store_some(p, v, (int)count);
}

// Calls f(first entry, part) for whole vectors and then for what is left over; part.load and
// part.store touch no more than that.
template <typename R>
struct Whole {
  INLINE Vec<R> load(const R* p) const { return ::load(p); }
  INLINE void store(R* p, Vec<R> v) const { ::store(p, v); }
};
template <typename R>
struct Rest {
  int count;
  INLINE Vec<R> load(const R* p) const { return load_some(p, count); }
  INLINE void store(R* p, Vec<R> v) const { store_some(p, v, count); }
};
template <typename R, class F>
INLINE void for_vectors(Index count, F f) {
  Index j = 0;
  for (; j + Simd<R>::LANES <= count; j += Simd<R>::LANES) f(j, Whole<R>{});
  if (j < count) f(j, Rest<R>{(int)(count - j)});
}

// tanh x = -m / (2 + m) sgn x with m = exp(-2|x|) - 1 = (2^n - 1) + 2^n (exp r - 1), where
// -2|x| = n ln 2 + r, |r| <= ln 2 / 2: no cancellation anywhere. exp r - 1 is its Taylor series,
// long enough to leave less than half a rounding. Largest error measured over all float32: see
// tests. NaN stays NaN.
template <typename R>
INLINE Vec<R> tanh_of(Vec<R> x) {
  using V = Vec<R>;
  using I = typename Simd<R>::I;
  constexpr bool single = sizeof(R) == 4;
  constexpr int MANTISSA = single ? 23 : 52;
  const R bound = single ? R(9.2) : R(19.5);  // tanh rounds to 1 from here on
  V a = x < 0 ? -x : x;
  a = a > bound ? V{} + bound : a;
  V y = R(-2) * a;
  // Adding and taking away 1.5 * 2^MANTISSA rounds to an integer, which the low bits then hold.
  const R magic = single ? R(12582912.0) : R(6755399441055744.0);
  V shifted = y * R(1.4426950408889634074) + magic;
  V n = shifted - magic;
  const R high = single ? R(0.693145751953125) : R(0.6931471803691238);
  const R low = single ? R(1.42860677e-6) : R(1.9082149292705877e-10);
  V r = (y - n * high) - n * low;
  V p;
  if constexpr (single) {
    p = r * R(1.0 / 5040) + R(1.0 / 720);
  } else {
    p = r * R(1.0 / 6227020800.0) + R(1.0 / 479001600.0);
    p = p * r + R(1.0 / 39916800.0);
    p = p * r + R(1.0 / 3628800.0);
    p = p * r + R(1.0 / 362880.0);
    p = p * r + R(1.0 / 40320.0);
    p = p * r + R(1.0 / 5040.0);
    p = p * r + R(1.0 / 720.0);
  }
  p = p * r + R(1.0 / 120);
  p = p * r + R(1.0 / 24);
  p = p * r + R(1.0 / 6);
  p = p * r + R(0.5);
  p = (p * r) * r + r;
  I bits = ((I)shifted << MANTISSA) + (I)(V{} + R(1));
  V scale = (V)bits;  // 2^n
  V m = (scale - R(1)) + scale * p;
  V t = -m / (R(2) + m);
  return x < 0 ? -t : t;
}

enum Activation { TANH = 0, RELU = 1 };

template <typename R, int ACT>
INLINE Vec<R> activate(Vec<R> x) {
  if constexpr (ACT == TANH)
    return tanh_of<R>(x);
  else
    return x < 0 ? Vec<R>{} : x;  // NaN stays
}

// The gradient before the nonlinearity, from the one after it and from the state.
template <typename R, int ACT>
INLINE Vec<R> through(Vec<R> grad, Vec<R> state) {
  if constexpr (ACT == TANH)
    return grad * (R(1) - state * state);
  else
    return state <= 0 ? Vec<R>{} : grad;
}

// Memory of a thread's own: zeroed, aligned, and padded so that whole vectors may be read.
template <typename R>
struct Buffer {
  std::unique_ptr<R, decltype(&std::free)> memory{nullptr, &std::free};
  explicit Buffer(Index count) {
    size_t bytes = ((size_t)std::max<Index>(count, 1) * sizeof(R) + 127) / 64 * 64;
    memory.reset(static_cast<R*>(std::aligned_alloc(64, bytes)));
    if (memory) std::memset(memory.get(), 0, bytes);
  }
  R* get() const { return memory.get(); }
};

// Asks for large pages for memory that is about to be written for the first time: a fresh page costs
// as much as the arithmetic on it.
void use_large_pages(void* start, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t PAGE = 2u << 20;
  uintptr_t first = ((uintptr_t)start + PAGE - 1) / PAGE * PAGE;
  uintptr_t last = ((uintptr_t)start + bytes) / PAGE * PAGE;
  if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
#else
  (void)start, (void)bytes;
#endif
}

// ---- A matrix cut into panels of up to WIDEST vectors of columns, each stored row after row --------

template <typename R>
struct Panels {
  static constexpr int LANES = Simd<R>::LANES;
  Index rows, columns, vectors, count;
  Buffer<R> packed;

  // From a matrix[row * row_stride + column * column_stride].
  Panels(const R* matrix, Index rows, Index columns, Index row_stride, Index column_stride)
      : rows(rows), columns(columns), vectors((columns + LANES - 1) / LANES),
        count((vectors + WIDEST - 1) / WIDEST), packed(rows * vectors * LANES) {
    for (Index p = 0; p < count; p++) {
      Index begin = first(p) * LANES, width = this->width(p) * LANES;
      Index used = std::min(columns - begin, width);
      R* to = panel(p);
      const R* from = matrix + begin * column_stride;
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
  const R* panel(Index p) const { return packed.get() + first(p) * LANES * rows; }
  R* panel(Index p) { return packed.get() + first(p) * LANES * rows; }
};

// ---- Tiles: M rows by N vectors of accumulators ----------------------------------------------------

// tile (M, N vectors) += a (M, depth) times b (depth, N vectors). An entry of a is at
// a[m * stride_a + k], or with BY_COLUMN at a[k * stride_a + m]. Compiled once for each M and N; what
// happens before and after the product works on the tile in the nearest cache, which costs a load and
// a store for every `depth` multiplications.
template <typename R, int M, int N, bool BY_COLUMN>
__attribute__((noinline)) void multiply_tile(R* tile, const R* a, Index stride_a, const R* b,
                                             Index stride_b, Index depth) {
  constexpr int LANES = Simd<R>::LANES;
  // Few accumulators would wait for one another: two sets, for even and odd k.
  constexpr int SETS = M * N <= 8 ? 2 : 1;
  Vec<R> at[SETS][M][N];
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      at[0][m][n] = load(tile + (m * N + n) * LANES);
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
        sum += at[SETS - 1][m][n];
        if (k < depth)
          sum += (BY_COLUMN ? a[k * stride_a + m] : a[m * stride_a + k]) * load(b + k * stride_b + n * LANES);
      }
      store(tile + (m * N + n) * LANES, sum);
    }
}

template <typename R>
using Multiply = void (*)(R*, const R*, Index, const R*, Index, Index);

constexpr int most_rows(int width) { return std::min(12, ACCUMULATORS / width); }

// The product for a number of rows and a panel width.
template <typename R, bool BY_COLUMN>
Multiply<R> multiply_for(int rows, int width) {
  static const auto table = [] {
    std::array<std::array<Multiply<R>, 13>, WIDEST + 1> all{};
    const auto fill = [&](auto n, auto... m) {
      constexpr int N = decltype(n)::value;
      ([&] {
        constexpr int M = decltype(m)::value + 1;
        if constexpr (M <= most_rows(N)) all[N][M] = multiply_tile<R, M, N, BY_COLUMN>;
      }(), ...);
    };
    const auto widths = [&]<int... N, int... M>(std::integer_sequence<int, N...>,
                                                std::integer_sequence<int, M...>) {
      (fill(std::integral_constant<int, N + 1>(), std::integral_constant<int, M>()...), ...);
    };
    widths(std::make_integer_sequence<int, WIDEST>(), std::make_integer_sequence<int, 12>());
    return all;
  }();
  return table[width][rows];
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

// Numbers too small for full precision (below 1e-38 in single precision) count as zero while a kernel
// runs: gradients that vanish over time pass through them, and processors take a hundred times as
// long over each.
class SmallIsZero {
#if defined(__SSE__)
  const unsigned saved = _mm_getcsr();

 public:
  SmallIsZero() { _mm_setcsr(saved | 0x8040); }
  ~SmallIsZero() { _mm_setcsr(saved); }
#elif defined(__aarch64__)
  uint64_t saved;

 public:
  SmallIsZero() {
    asm volatile("mrs %0, fpcr" : "=r"(saved));
    asm volatile("msr fpcr, %0" ::"r"(saved | (uint64_t(1) << 24)));
  }
  ~SmallIsZero() { asm volatile("msr fpcr, %0" ::"r"(saved)); }
#else
 public:
  SmallIsZero() {}
  ~SmallIsZero() {}
#endif
};

// Runs f(shard, begin, end) for each of `threads` shards of `count` things.
template <class F>
void in_shards(Index count, int threads, F f) {
  if (threads <= 1) {
    const SmallIsZero guard;
    f(0, Index(0), count);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
  for (int i = 0; i < threads; i++) {
    const SmallIsZero guard;
    f(i, count * i / threads, count * (i + 1) / threads);
  }
}

// ---- Elman -----------------------------------------------------------------------------------------

// Where a (time, batch, feature) array lies; features are next to one another.
template <typename R>
struct Sequence {
  R* start;
  Index time, batch;
  R* at(Index t, Index row) const { return start + t * time + row * batch; }
  explicit operator bool() const { return start != nullptr; }
};

template <typename R>
struct Elman {
  Index T, B, I, H;
  int threads;
  Sequence<const R> x;          // null: `out` holds the projected inputs
  const R *w_ih, *w_hh, *b_ih, *b_hh;
  const R* h0;                  // null: zeros
  const int64_t* lengths;       // null: all T
  Sequence<R> out;
  // Backward alone.
  Sequence<const R> grad_out;   // null: zeros
  const R* grad_hn;             // null: zeros
  Sequence<R> grad_x;           // null: not wanted
  Sequence<R> grad_pre;         // wanted when x is null: the gradient before the nonlinearity
  R *grad_w_ih, *grad_w_hh, *grad_bias, *grad_h0;  // null: not wanted
};

template <typename R, int ACT>
int elman_forward(const Elman<R>& a) {
  constexpr int LANES = Simd<R>::LANES;
  const Panels<R> w_hh(a.w_hh, a.H, a.H, 1, a.H);
  const Panels<R> w_ih(a.w_ih, a.x ? a.I : 0, a.x ? a.H : 0, 1, a.I);
  const Buffer<R> bias(w_hh.vectors * LANES);
  if (!w_hh.packed.get() || !w_ih.packed.get() || !bias.get()) return 1;
  if (a.x)
    for (Index j = 0; j < a.H; j++)
      bias.get()[j] = (a.b_ih ? a.b_ih[j] : R(0)) + (a.b_hh ? a.b_hh[j] : R(0));
  in_shards(a.B, a.threads, [&](int, Index begin, Index end) {
    for (Index t = 0; t < a.T; t++) {
      const R* previous = t ? a.out.at(t - 1, 0) : a.h0;
      const Index previous_row = t ? a.out.batch : a.H;
      for (Index p = 0; p < w_hh.count; p++) {
        const Index column = w_hh.first(p) * LANES;
        const int N = w_hh.width(p);
        const Index left = a.H - column;
        for_blocks(end - begin, N, [&](Index first, int M) {
          const Index row = begin + first;
          alignas(64) R tile[ACCUMULATORS * LANES];
          if (a.x) {
            for (int m = 0; m < M; m++)
              for (int n = 0; n < N; n++) store(tile + (m * N + n) * LANES, load(bias.get() + column + n * LANES));
            multiply_for<R, false>(M, N)(tile, a.x.at(t, row), a.x.batch, w_ih.panel(p), N * LANES, a.I);
          } else {
            for (int m = 0; m < M; m++)
              for (int n = 0; n < N; n++)
                store(tile + (m * N + n) * LANES, load_up_to(a.out.at(t, row + m) + column + n * LANES, left - n * LANES));
          }
          if (previous)
            multiply_for<R, false>(M, N)(tile, previous + row * previous_row, previous_row, w_hh.panel(p),
                                          N * LANES, a.H);
          for (int m = 0; m < M; m++) {
            const bool ended = a.lengths && t >= a.lengths[row + m];
            for (int n = 0; n < N; n++)
              store_up_to(a.out.at(t, row + m) + column + n * LANES,
                          ended ? Vec<R>{} : activate<R, ACT>(load(tile + (m * N + n) * LANES)), left - n * LANES);
          }
        });
      }
    }
  });
  return 0;
}

template <typename R, int ACT>
int elman_backward(const Elman<R>& a) {
  constexpr int LANES = Simd<R>::LANES;
  constexpr Index ROWS = 192;  // rows of a block of steps: its gradients and states fit in the cache
  const bool whole = bool(a.grad_pre);
  const bool want_x = bool(a.grad_x), want_w = a.grad_w_hh != nullptr;
  const Panels<R> w_hh(a.w_hh, a.H, a.H, a.H, 1);
  const Panels<R> w_ih(a.w_ih, want_x ? a.H : 0, want_x ? a.I : 0, a.I, 1);
  if (!w_hh.packed.get() || !w_ih.packed.get()) return 1;
  // One vector more than needed: rows a power of two apart would share few places of the cache.
  const Index wide = w_hh.vectors * LANES, stride = wide + LANES;
  const Index sums = want_w ? (a.H + (a.x ? a.I : 0) + 1) * wide : 0;
  std::vector<Buffer<R>> partial;
  for (int i = 0; i < a.threads; i++) partial.emplace_back(sums);
  for (auto& one : partial)
    if (!one.get()) return 1;
  bool failed = false;

  in_shards(a.B, a.threads, [&](int shard, Index begin, Index end) {
    const Index rows = end - begin;
    const Index steps = std::max<Index>(1, std::min(a.T, ROWS / std::max<Index>(rows, 1)));
    R* sum_hh = partial[shard].get();           // (H, wide)
    R* sum_bias = sum_hh + a.H * wide;          // (wide)
    R* sum_ih = sum_bias + wide;                // (I, wide): transposed
    const Buffer<R> grads(whole ? 0 : (steps + 1) * rows * stride);
    const Buffer<R> states(want_w ? steps * rows * stride : 0);
    const Buffer<R> inputs(want_w && a.x ? steps * rows * a.I : 0);
    if (!grads.get() || !states.get() || !inputs.get()) {
      failed = true;
      return;
    }
    for (Index t1 = a.T; t1 > 0;) {
      const Index t0 = std::max<Index>(0, t1 - steps);
      // The gradient of step t: in the block's buffer, or where the caller wants all of them. The
      // step after the block is kept behind the block.
      const auto gradient = [&](Index t) {
        return whole ? Sequence<R>{a.grad_pre.at(t, begin), 0, a.grad_pre.batch}
                     : Sequence<R>{grads.get() + (t < t1 ? t - t0 : steps) * rows * stride, 0, stride};
      };
      if (!whole && t1 < a.T)
        std::memmove(gradient(t1).start, grads.get(), rows * stride * sizeof(R));
      for (Index t = t1 - 1; t >= t0; t--) {
        const Sequence<R> here = gradient(t);
        const Sequence<R> after = t + 1 < a.T ? gradient(t + 1) : Sequence<R>{nullptr, 0, 0};
        for (Index p = 0; p < w_hh.count; p++) {
          const Index column = w_hh.first(p) * LANES;
        const int N = w_hh.width(p);
          const Index left = a.H - column;
          for_blocks(rows, N, [&](Index first, int M) {
            const Index row = begin + first;
            alignas(64) R tile[ACCUMULATORS * LANES];
            std::memset(tile, 0, sizeof(R) * M * N * LANES);
            for (int m = 0; m < M; m++) {
              const Index last = a.lengths ? a.lengths[row + m] - 1 : a.T - 1;
              const R* from = a.grad_hn && t == last ? a.grad_hn + (row + m) * a.H + column : nullptr;
              for (int n = 0; n < N; n++) {
                const Index offset = n * LANES;
                if (a.grad_out)
                  store(tile + (m * N + n) * LANES, load_up_to(a.grad_out.at(t, row + m) + column + offset, left - offset));
                if (from) store(tile + (m * N + n) * LANES, load(tile + (m * N + n) * LANES) + load_up_to(from + offset, left - offset));
              }
            }
            if (after)
              multiply_for<R, false>(M, N)(tile, after.at(0, first), after.batch, w_hh.panel(p), N * LANES, a.H);
            for (int m = 0; m < M; m++) {
              const bool ended = a.lengths && t >= a.lengths[row + m];
              for (int n = 0; n < N; n++) {
                const Index offset = column + n * LANES;
                const Vec<R> state = load_up_to(a.out.at(t, row + m) + offset, a.H - offset);
                const Vec<R> grad = ended ? Vec<R>{} : through<R, ACT>(load(tile + (m * N + n) * LANES), state);
                store_up_to(here.at(0, first + m) + offset, grad, whole ? a.H - offset : LANES);
              }
            }
          });
        }
        if (want_x)
          for (Index p = 0; p < w_ih.count; p++) {
            const Index column = w_ih.first(p) * LANES;
        const int N = w_ih.width(p);
            for_blocks(rows, N, [&](Index first, int M) {
              alignas(64) R tile[ACCUMULATORS * LANES];
              std::memset(tile, 0, sizeof(R) * M * N * LANES);
              multiply_for<R, false>(M, N)(tile, here.at(0, first), here.batch, w_ih.panel(p), N * LANES, a.H);
              for (int m = 0; m < M; m++)
                for (int n = 0; n < N; n++) {
                  const Index offset = column + n * LANES;
                  store_up_to(a.grad_x.at(t, begin + first + m) + offset, load(tile + (m * N + n) * LANES), a.I - offset);
                }
            });
          }
      }
      if (want_w) {
        const Index depth = (t1 - t0) * rows;
        for (Index t = t0; t < t1; t++)
          for (Index row = 0; row < rows; row++) {
            R* to = states.get() + ((t - t0) * rows + row) * stride;
            const R* from = t ? a.out.at(t - 1, begin + row) : a.h0 ? a.h0 + (begin + row) * a.H : nullptr;
            if (from)
              std::memcpy(to, from, a.H * sizeof(R));
            else
              std::memset(to, 0, a.H * sizeof(R));
            if (!a.x) continue;
            // Whatever padding holds, NaN too, must not reach the sums.
            R* input = inputs.get() + ((t - t0) * rows + row) * a.I;
            if (a.lengths && t >= a.lengths[begin + row])
              std::memset(input, 0, a.I * sizeof(R));
            else
              std::memcpy(input, a.x.at(t, begin + row), a.I * sizeof(R));
          }
        // sum (M rows, N vectors) += left' right, over the rows of the block.
        const auto add_product = [&](R* sum, const R* left, Index left_stride, Index left_columns,
                                     const R* right) {
          for (Index p = 0; p < w_hh.count; p++) {
            const Index column = w_hh.first(p) * LANES;
        const int N = w_hh.width(p);
            for_blocks(left_columns, N, [&](Index first, int M) {
              alignas(64) R tile[ACCUMULATORS * LANES];
              for (int m = 0; m < M; m++)
                for (int n = 0; n < N; n++)
                  store(tile + (m * N + n) * LANES, load(sum + (first + m) * wide + column + n * LANES));
              multiply_for<R, true>(M, N)(tile, left + first, left_stride, right + column, stride, depth);
              for (int m = 0; m < M; m++)
                for (int n = 0; n < N; n++)
                  store(sum + (first + m) * wide + column + n * LANES, load(tile + (m * N + n) * LANES));
            });
          }
        };
        add_product(sum_hh, grads.get(), stride, a.H, states.get());
        if (a.x) add_product(sum_ih, inputs.get(), a.I, a.I, grads.get());
        for (Index row = 0; row < depth; row++)
          for (Index j = 0; j < wide; j += LANES)
            store(sum_bias + j, load(sum_bias + j) + load(grads.get() + row * stride + j));
      }
      t1 = t0;
    }
    if (a.grad_h0) {
      const Sequence<R> first_step =
          whole ? Sequence<R>{a.grad_pre.at(0, begin), 0, a.grad_pre.batch} : Sequence<R>{grads.get(), 0, stride};
      for (Index p = 0; p < w_hh.count; p++) {
        const Index column = w_hh.first(p) * LANES;
        const int N = w_hh.width(p);
        for_blocks(rows, N, [&](Index first, int M) {
          alignas(64) R tile[ACCUMULATORS * LANES];
          std::memset(tile, 0, sizeof(R) * M * N * LANES);
          multiply_for<R, false>(M, N)(tile, first_step.at(0, first), first_step.batch, w_hh.panel(p), N * LANES, a.H);
          for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) {
              const Index offset = column + n * LANES;
              store_up_to(a.grad_h0 + (begin + first + m) * a.H + offset, load(tile + (m * N + n) * LANES), a.H - offset);
            }
        });
      }
    }
  });
  if (failed) return 1;
  if (want_w) {
    for (Index i = 0; i < a.H; i++)
      for (Index j = 0; j < a.H; j++) {
        R total = 0;
        for (auto& one : partial) total += one.get()[i * wide + j];
        a.grad_w_hh[i * a.H + j] = total;
      }
    for (Index j = 0; j < a.H; j++) {
      R total = 0;
      for (auto& one : partial) total += one.get()[a.H * wide + j];
      a.grad_bias[j] = total;
      for (Index i = 0; a.x && i < a.I; i++) {
        total = 0;
        for (auto& one : partial) total += one.get()[(a.H + 1 + i) * wide + j];
        a.grad_w_ih[j * a.I + i] = total;
      }
    }
  }
  return 0;
}

// ---- IndRNN ----------------------------------------------------------------------------------------

template <typename R>
struct IndRNN {
  Index T, B, H;
  int threads;
  Sequence<const R> z;
  const R* u;                  // (H)
  const R* h0;                 // (B, H); null: zeros
  const int64_t* lengths;      // null: all T
  Sequence<R> out;
  // Backward alone.
  Sequence<const R> grad_out;  // null: zeros
  const R* grad_hn;            // null: zeros
  Sequence<R> grad_z;
  R *grad_u, *grad_h0;         // (units), (B, H)
  Index units;                 // H, unless rows that lie end to end have been made one row
};

template <typename R, int ACT>
int indrnn_forward(const IndRNN<R>& a) {
  in_shards(a.B * a.H, a.threads, [&](int, Index begin, Index end) {
    for (Index t = 0; t < a.T; t++)
      for (Index c = begin; c < end;) {
        // As much of one row as falls into the shard.
        const Index row = c / a.H, column = c % a.H;
        const Index count = std::min(a.H - column, end - c);
        const R* z = a.z.at(t, row) + column;
        const R* u = a.u + column;
        const R* previous = t ? a.out.at(t - 1, row) + column : a.h0 ? a.h0 + c : nullptr;
        R* to = a.out.at(t, row) + column;
        if (a.lengths && t >= a.lengths[row]) {
          std::memset(to, 0, count * sizeof(R));
        } else {
          for_vectors<R>(count, [&](Index j, auto part) {
            Vec<R> h = part.load(z + j);
            if (previous) h += part.load(u + j) * part.load(previous + j);
            part.store(to + j, activate<R, ACT>(h));
          });
        }
        c += count;
      }
  });
  return 0;
}

template <typename R, int ACT>
int indrnn_backward(const IndRNN<R>& a) {
  // du of every (sample, unit); added over the samples afterwards, always in the same order.
  const Buffer<R> sums(a.B * a.H);
  if (!sums.get()) return 1;
  in_shards(a.B * a.H, a.threads, [&](int, Index begin, Index end) {
    for (Index t = a.T - 1; t >= 0; t--)
      for (Index c = begin; c < end;) {
        const Index row = c / a.H, column = c % a.H;
        const Index count = std::min(a.H - column, end - c);
        const R* u = a.u + column;
        const R* state = a.out.at(t, row) + column;
        const R* previous = t ? a.out.at(t - 1, row) + column : a.h0 ? a.h0 + c : nullptr;
        const R* grad = a.grad_out ? a.grad_out.at(t, row) + column : nullptr;
        const Index last = a.lengths ? a.lengths[row] - 1 : a.T - 1;
        const R* grad_hn = a.grad_hn && t == last ? a.grad_hn + c : nullptr;
        const R* after = t + 1 < a.T ? a.grad_z.at(t + 1, row) + column : nullptr;
        R* to = a.grad_z.at(t, row) + column;
        R* sum = sums.get() + c;
        if (t > last) {
          std::memset(to, 0, count * sizeof(R));
        } else {
          for_vectors<R>(count, [&](Index j, auto part) {
            Vec<R> e = {};
            if (grad) e = part.load(grad + j);
            if (grad_hn) e += part.load(grad_hn + j);
            if (after) e += part.load(u + j) * part.load(after + j);
            e = through<R, ACT>(e, part.load(state + j));
            part.store(to + j, e);
            if (previous) part.store(sum + j, part.load(sum + j) + e * part.load(previous + j));
          });
        }
        c += count;
      }
  });
  for (Index j = 0; a.grad_u && j < a.units; j++) {
    double total = 0;
    for (Index c = j; c < a.B * a.H; c += a.units) total += sums.get()[c];
    a.grad_u[j] = (R)total;
  }
  for (Index c = 0; a.grad_h0 && c < a.B * a.H; c++)
    a.grad_h0[c] = a.u[c % a.H] * a.grad_z.at(0, c / a.H)[c % a.H];
  return 0;
}

// ---- Batch normalisation over time and batch, and dropout shared over time ------------------------

template <typename R>
struct BatchNorm {
  Index T, B, H;
  int threads;
  R eps;
  const R *x;                // (T, B, H)
  const R *gain, *shift;     // (H); null: 1 and 0
  const R *mask;             // (B, H); null: all 1
  R *mean, *scale;           // (H): of x, and 1 / sqrt(variance + eps)
  R *variance;               // (H), not corrected for the sample; forward alone
  R *y;                      // (T, B, H); forward alone
  // Backward alone.
  const R* grad_y;
  R *grad_x, *grad_gain, *grad_shift;
};

// Calls f(row of the batch, offset of the row) for the rows begin ... end of (T * B) rows.
template <class F>
INLINE void for_rows(Index begin, Index end, Index B, Index H, F f) {
  for (Index row = begin; row < end; row++) f(row % B, row * H);
}

constexpr Index BLOCK_ROWS = 32;  // rows whose sums are kept in R before they join sums in double

template <typename R>
int batch_norm_forward(const BatchNorm<R>& a) {
  const Index rows = a.T * a.B;
  struct Moments {
    double count = 0;
    std::vector<double> mean, squares;
  };
  std::vector<Moments> all(a.threads);
  for (auto& one : all) one.mean.assign(a.H, 0), one.squares.assign(a.H, 0);
  const Buffer<R> scratch(2 * a.H * a.threads);
  if (!scratch.get()) return 1;
  // Mean and squared deviations of a block of rows are exact to rounding; blocks are then joined
  // (Chan et al.), so that a mean far from zero costs no accuracy.
  in_shards(rows, a.threads, [&](int shard, Index begin, Index end) {
    R* sum = scratch.get() + 2 * a.H * shard;
    R* squares = sum + a.H;
    Moments& moments = all[shard];
    for (Index first = begin; first < end; first += BLOCK_ROWS) {
      const Index last = std::min(end, first + BLOCK_ROWS);
      const R inverse = R(1) / R(last - first);
      for_vectors<R>(a.H, [&](Index j, auto part) {
        Vec<R> total = {}, deviation = {};
        for (Index row = first; row < last; row++) total += part.load(a.x + row * a.H + j);
        total = total * inverse;
        for (Index row = first; row < last; row++) {
          const Vec<R> d = part.load(a.x + row * a.H + j) - total;
          deviation += d * d;
        }
        part.store(sum + j, total);
        part.store(squares + j, deviation);
      });
      const double count = double(last - first), joined = moments.count + count;
      for (Index j = 0; j < a.H; j++) {
        const double delta = sum[j] - moments.mean[j];
        moments.mean[j] += delta * count / joined;
        moments.squares[j] += squares[j] + delta * delta * moments.count * count / joined;
      }
      moments.count = joined;
    }
  });
  for (Index j = 0; j < a.H; j++) {
    double count = 0, mean = 0, squares = 0;
    for (const auto& one : all) {
      if (one.count == 0) continue;
      const double delta = one.mean[j] - mean, joined = count + one.count;
      mean += delta * one.count / joined;
      squares += one.squares[j] + delta * delta * count * one.count / joined;
      count = joined;
    }
    a.mean[j] = (R)mean;
    a.variance[j] = (R)(squares / count);
    a.scale[j] = (R)(1 / std::sqrt(squares / count + double(a.eps)));
  }
  in_shards(rows, a.threads, [&](int, Index begin, Index end) {
    for_rows(begin, end, a.B, a.H, [&](Index sample, Index at) {
      for_vectors<R>(a.H, [&](Index j, auto part) {
        Vec<R> value = (part.load(a.x + at + j) - part.load(a.mean + j)) * part.load(a.scale + j);
        if (a.gain) value = value * part.load(a.gain + j);
        if (a.shift) value += part.load(a.shift + j);
        if (a.mask) value = value * part.load(a.mask + sample * a.H + j);
        part.store(a.y + at + j, value);
      });
    });
  });
  return 0;
}

template <typename R>
int batch_norm_backward(const BatchNorm<R>& a) {
  const Index rows = a.T * a.B;
  std::vector<std::vector<double>> sums(a.threads, std::vector<double>(2 * a.H, 0.0));
  const Buffer<R> scratch(2 * a.H * std::max(a.threads, 2));
  if (!scratch.get()) return 1;
  in_shards(rows, a.threads, [&](int shard, Index begin, Index end) {
    R* block = scratch.get() + 2 * a.H * shard;
    for (Index first = begin; first < end; first += BLOCK_ROWS) {
      const Index last = std::min(end, first + BLOCK_ROWS);
      for_vectors<R>(a.H, [&](Index j, auto part) {
        const Vec<R> mean = part.load(a.mean + j), scale = part.load(a.scale + j);
        Vec<R> plain = {}, weighted = {};
        for_rows(first, last, a.B, a.H, [&](Index sample, Index at) {
          Vec<R> grad = part.load(a.grad_y + at + j);
          if (a.mask) grad = grad * part.load(a.mask + sample * a.H + j);
          plain += grad;
          weighted += grad * ((part.load(a.x + at + j) - mean) * scale);
        });
        part.store(block + j, plain);
        part.store(block + a.H + j, weighted);
      });
      for (Index j = 0; j < 2 * a.H; j++) sums[shard][j] += block[j];
    }
  });
  R* mean_plain = scratch.get();
  R* mean_weighted = mean_plain + a.H;
  for (Index j = 0; j < a.H; j++) {
    double plain = 0, weighted = 0;
    for (const auto& one : sums) plain += one[j], weighted += one[a.H + j];
    a.grad_shift[j] = (R)plain;
    a.grad_gain[j] = (R)weighted;
    mean_plain[j] = (R)(plain / double(rows));
    mean_weighted[j] = (R)(weighted / double(rows));
  }
  in_shards(rows, a.threads, [&](int, Index begin, Index end) {
    for_rows(begin, end, a.B, a.H, [&](Index sample, Index at) {
      for_vectors<R>(a.H, [&](Index j, auto part) {
        const Vec<R> scale = part.load(a.scale + j);
        Vec<R> grad = part.load(a.grad_y + at + j);
        if (a.mask) grad = grad * part.load(a.mask + sample * a.H + j);
        const Vec<R> normal = (part.load(a.x + at + j) - part.load(a.mean + j)) * scale;
        grad = grad - part.load(mean_plain + j) - normal * part.load(mean_weighted + j);
        grad = grad * (a.gain ? scale * part.load(a.gain + j) : scale);
        part.store(a.grad_x + at + j, grad);
      });
    });
  });
  return 0;
}

template <typename R>
Sequence<R> sequence(const void* start, int64_t time, int64_t batch) {
  return {(R*)const_cast<void*>(start), (Index)time, (Index)batch};
}

// `numbers` and `pointers` are laid out as cpu.py says; 0 is done, 1 is out of memory.
template <typename R>
int elman(const int64_t* numbers, const void* const* p, bool backward) {
  using C = const R;
  Elman<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.I = numbers[2], a.H = numbers[3];
  a.threads = (int)std::max<int64_t>(1, std::min(numbers[4], numbers[1]));
  const bool relu = numbers[5] == RELU;
  a.x = sequence<C>(p[0], numbers[6], numbers[7]);
  a.w_ih = (C*)p[1], a.w_hh = (C*)p[2], a.b_ih = (C*)p[3], a.b_hh = (C*)p[4], a.h0 = (C*)p[5];
  a.lengths = (const int64_t*)p[6];
  a.out = sequence<R>(p[7], numbers[8], numbers[9]);
  if (!backward) {
    use_large_pages(a.out.start, sizeof(R) * a.T * a.B * a.H);
    return relu ? elman_forward<R, RELU>(a) : elman_forward<R, TANH>(a);
  }
  a.grad_out = sequence<C>(p[8], numbers[10], numbers[11]);
  a.grad_hn = (C*)p[9];
  a.grad_x = sequence<R>(p[10], numbers[12], numbers[13]);
  a.grad_pre = sequence<R>(p[11], numbers[14], numbers[15]);
  a.grad_w_ih = (R*)p[12], a.grad_w_hh = (R*)p[13], a.grad_bias = (R*)p[14], a.grad_h0 = (R*)p[15];
  if (a.grad_x) use_large_pages(a.grad_x.start, sizeof(R) * a.T * a.B * a.I);
  if (a.grad_pre) use_large_pages(a.grad_pre.start, sizeof(R) * a.T * a.B * a.H);
  return relu ? elman_backward<R, RELU>(a) : elman_backward<R, TANH>(a);
}

template <typename R>
int indrnn(const int64_t* numbers, const void* const* p, bool backward) {
  using C = const R;
  IndRNN<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.H = numbers[2];
  a.threads = (int)std::max<int64_t>(1, numbers[3]);
  const bool relu = numbers[4] == RELU;
  a.z = sequence<C>(p[0], numbers[5], numbers[6]);
  a.u = (C*)p[1], a.h0 = (C*)p[2], a.lengths = (const int64_t*)p[3];
  a.out = sequence<R>(p[4], numbers[7], numbers[8]);
  a.units = a.H;
  if (backward) {
    a.grad_out = sequence<C>(p[5], numbers[9], numbers[10]);
    a.grad_hn = (C*)p[6];
    a.grad_z = sequence<R>(p[7], numbers[11], numbers[12]);
    a.grad_u = (R*)p[8], a.grad_h0 = (R*)p[9];
  }
  const auto dense = [&](auto& one) { return !one || one.batch == a.H; };
  const bool one_row = !a.lengths && dense(a.z) && dense(a.out) && dense(a.grad_out) && dense(a.grad_z);
  const Buffer<R> all_u(one_row ? a.B * a.H : 0);
  if (!all_u.get()) return 1;
  if (one_row) {
    for (Index c = 0; c < a.B * a.H; c++) all_u.get()[c] = a.u[c % a.H];
    a.u = all_u.get(), a.H *= a.B, a.B = 1;
  }
  if (!backward) {
    use_large_pages(a.out.start, sizeof(R) * a.T * a.B * a.H);
    return relu ? indrnn_forward<R, RELU>(a) : indrnn_forward<R, TANH>(a);
  }
  use_large_pages(a.grad_z.start, sizeof(R) * a.T * a.B * a.H);
  return relu ? indrnn_backward<R, RELU>(a) : indrnn_backward<R, TANH>(a);
}

template <typename R>
int batch_norm(const int64_t* numbers, const void* const* p, bool backward) {
  BatchNorm<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.H = numbers[2];
  a.threads = (int)std::max<int64_t>(1, numbers[3]);
  a.x = (const R*)p[0], a.gain = (const R*)p[1], a.shift = (const R*)p[2], a.mask = (const R*)p[3];
  a.mean = (R*)p[4], a.scale = (R*)p[5];
  const size_t bytes = sizeof(R) * a.T * a.B * a.H;
  if (!backward) {
    a.variance = (R*)p[6], a.y = (R*)p[7], a.eps = *(const R*)p[8];
    use_large_pages(a.y, bytes);
    return batch_norm_forward(a);
  }
  a.grad_y = (const R*)p[6], a.grad_x = (R*)p[7], a.grad_gain = (R*)p[8], a.grad_shift = (R*)p[9];
  use_large_pages(a.grad_x, bytes);
  return batch_norm_backward(a);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

#define KERNEL(name)                                                                            \
  EXPORT int rnnopt_##name##_float32(const int64_t* numbers, const void* const* p, int backward) { \
    return name<float>(numbers, p, backward);                                                    \
  }                                                                                              \
  EXPORT int rnnopt_##name##_float64(const int64_t* numbers, const void* const* p, int backward) { \
    return name<double>(numbers, p, backward);                                                   \
  }
KERNEL(elman)
KERNEL(indrnn)
KERNEL(batch_norm)
