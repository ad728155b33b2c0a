// Vectors as wide as the machine's registers, and what the kernels share.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>
#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
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
// Asks for the line of the cache that holds a number, which will be read soon.
INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

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

// The smaller and the larger of two; the second where either is NaN.
template <typename R>
INLINE Vec<R> least(Vec<R> a, Vec<R> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(R) == 4)
    return (Vec<R>)_mm512_min_ps((__m512)a, (__m512)b);
  else
    return (Vec<R>)_mm512_min_pd((__m512d)a, (__m512d)b);
#else
  return a < b ? a : b;
#endif
}
template <typename R>
INLINE Vec<R> most(Vec<R> a, Vec<R> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(R) == 4)
    return (Vec<R>)_mm512_max_ps((__m512)a, (__m512)b);
  else
    return (Vec<R>)_mm512_max_pd((__m512d)a, (__m512d)b);
#else
  return a > b ? a : b;
#endif
}

// exp(y) - 1 for each of K vectors, y in -87 ... 88 (single) or -708 ... 708 (double precision): it is
// (2^n - 1) + 2^n (exp r - 1), where y = n ln 2 + r, |r| <= ln 2 / 2: no cancellation anywhere. exp r - 1
// is a polynomial with less than half a rounding of error. The K are computed in step: each operation
// waits for the one before, and a processor does not look far enough ahead to find others.
template <typename R, int K>
INLINE void expm1_of(Vec<R> (&y)[K]) {
  using V = Vec<R>;
  using I = typename Simd<R>::I;
  constexpr bool single = sizeof(R) == 4;
  constexpr int MANTISSA = single ? 23 : 52;
  // Adding and taking away 1.5 * 2^MANTISSA rounds to an integer, which the low bits then hold.
  constexpr R magic = single ? R(12582912.0) : R(6755399441055744.0);
  constexpr R high = single ? R(0.693145751953125) : R(0.6931471803691238);
  constexpr R low = single ? R(1.42860677e-6) : R(1.9082149292705877e-10);
  V n[K], p[K], scale[K];
#define EACH _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)
  EACH scale[k] = y[k] * R(1.4426950408889634074) + magic;
  EACH n[k] = scale[k] - magic;
  EACH y[k] = y[k] - n[k] * high;
  EACH y[k] = y[k] - n[k] * low;
  const auto next = [&](R coefficient) { EACH p[k] = p[k] * y[k] + coefficient; };
  if constexpr (single) {  // chosen for the least error, 4e-9
    EACH p[k] = y[k] * R(0.001381457201205194) + R(0.008368724957108498);
    next(R(0.04166838899254799)), next(R(0.1666652113199234)), next(R(0.4999999403953552));
  } else {  // Taylor's
    EACH p[k] = y[k] * R(1.0 / 6227020800.0) + R(1.0 / 479001600.0);
    next(R(1.0 / 39916800)), next(R(1.0 / 3628800)), next(R(1.0 / 362880)), next(R(1.0 / 40320));
    next(R(1.0 / 5040)), next(R(1.0 / 720)), next(R(1.0 / 120)), next(R(1.0 / 24)), next(R(1.0 / 6));
    next(R(0.5));
  }
  EACH scale[k] = (V)(((I)scale[k] << MANTISSA) + (I)(V{} + R(1)));  // 2^n
  EACH p[k] = p[k] * y[k];
  EACH p[k] = p[k] * y[k] + y[k];
  EACH y[k] = scale[k] * p[k] + (scale[k] - R(1));
}

// Each of K vectors x becomes tanh x = -m / (2 + m) sgn x with m = exp(-2|x|) - 1, or if it is one of
// those marked in SIGMOIDS, 1 / (1 + exp(-x)) = 1 / (2 + m) with m = exp(-x) - 1. Largest error of tanh
// measured in single precision: 2.5 units in the last place. NaN stays NaN.
template <typename R, unsigned SIGMOIDS, int K>
INLINE void squash(Vec<R> (&x)[K]) {
  using V = Vec<R>;
  constexpr bool single = sizeof(R) == 4;
  constexpr auto sigmoid = [](int k) { return (SIGMOIDS >> k & 1) != 0; };
  V m[K], all[K], inverse[K];
  // tanh rounds to 1 from the first bound on; the sigmoid is zero below the third.
  EACH m[k] = sigmoid(k) ? least<R>(V{} + (single ? R(88) : R(708)), -x[k])
                         : R(-2) * least<R>(V{} + (single ? R(9.2) : R(19.5)), x[k] < 0 ? -x[k] : x[k]);
  EACH if (sigmoid(k)) m[k] = most<R>(V{} - (single ? R(87) : R(708)), m[k]);
  expm1_of<R>(m);
  EACH all[k] = m[k] + R(2);
#if defined(__AVX512F__)
  // The widest registers divide slowly: an estimate of 1 / all to 14 bits and a Newton step are faster;
  // for tanh a last step leaves hardly more than a rounding.
  if constexpr (single) {
    EACH inverse[k] = (V)_mm512_rcp14_ps((__m512)all[k]);
    EACH inverse[k] += inverse[k] * (R(1) - all[k] * inverse[k]);
    V t[K];
    EACH t[k] = m[k] * inverse[k];
    EACH t[k] += inverse[k] * (m[k] - t[k] * all[k]);
    EACH x[k] = sigmoid(k) ? inverse[k] : x[k] < 0 ? t[k] : -t[k];
    return;
  }
#endif
  EACH inverse[k] = (sigmoid(k) ? V{} + R(1) : m[k]) / all[k];
  EACH x[k] = sigmoid(k) ? inverse[k] : x[k] < 0 ? inverse[k] : -inverse[k];
#undef EACH
}

template <typename R>
INLINE Vec<R> tanh_of(Vec<R> x) {
  Vec<R> one[1] = {x};
  squash<R, 0>(one);
  return one[0];
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

// Where a (time, batch, feature) array lies; features are next to one another.
template <typename R>
struct Sequence {
  R* start;
  Index time, batch;
  R* at(Index t, Index row) const { return start + t * time + row * batch; }
  explicit operator bool() const { return start != nullptr; }
};

// Numbers too small for full precision (below 1e-38 in single precision) count as zero while a kernel
// runs: gradients that vanish over time pass through them, and many processors take far longer over
// each.
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

}  // namespace
