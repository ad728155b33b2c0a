// One step of a network, for a few sequences: products of matrices as torch stores them with a vector
// each, so that nothing is packed and weights that change in place are seen.
#pragma once

#include "simd.h"

namespace {

// ---- Sums of many vectors at once ------------------------------------------------------------------

// Lane l of the result: of b if bit H of l is set, else of a, what stands there and H lanes away.
template <typename R, int H, int... L>
INLINE Vec<R> fold_lanes(Vec<R> a, Vec<R> b, std::integer_sequence<int, L...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  constexpr int N = Simd<R>::LANES;
  return __builtin_shufflevector(a, b, ((L & H) ? N + L : L)...) +
         __builtin_shufflevector(a, b, ((L & H) ? N + (L ^ H) : (L ^ H))...);
#else
  Vec<R> sum = {};
  ((sum[L] = (L & H) ? b[L] + b[L ^ H] : a[L] + a[L ^ H]), ...);
  return sum;
#endif
}

// A vector whose lane l is the sum of the lanes of at[l].
template <typename R, int H = 1>
INLINE Vec<R> sums(Vec<R>* at) {
  constexpr int N = Simd<R>::LANES;
  if constexpr (H == N) {
    return at[0];
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < N / H / 2; i++)
      at[i] = fold_lanes<R, H>(at[2 * i], at[2 * i + 1], std::make_integer_sequence<int, N>());
    return sums<R, 2 * H>(at);
  }
}

// The first `count` < LANES entries, for rows that are short: load_some goes number by number.
template <typename R>
struct Short {
#if defined(__AVX2__) && !defined(__AVX512F__)
  __m256i mask;
  explicit Short(int count) {
    typename Simd<R>::I lanes;
    for (int i = 0; i < Simd<R>::LANES; i++) lanes[i] = i < count ? -1 : 0;
    mask = (__m256i)lanes;
  }
  INLINE Vec<R> load(const R* p) const {
    if constexpr (sizeof(R) == 4)
      return (Vec<R>)_mm256_maskload_ps(p, mask);
    else
      return (Vec<R>)_mm256_maskload_pd(p, mask);
  }
#else
  int count;
  explicit Short(int count) : count(count) {}
  INLINE Vec<R> load(const R* p) const { return load_some(p, count); }
#endif
};

// Products of LANES rows of matrices with vectors, summed.
template <typename R>
struct Rows {
  static constexpr int LANES = Simd<R>::LANES;
  Vec<R> at[LANES] = {};

  // += rows from `row` of matrix (rows, columns) times `vector`. Beyond the last row the last one is
  // taken, and its product is not stored.
  INLINE void add(const R* matrix, Index rows, Index columns, Index row, const R* vector) {
    const R* start[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) start[i] = matrix + std::min(row + i, rows - 1) * columns;
    Index k = 0;
    for (; k + LANES <= columns; k += LANES) {
      const Vec<R> v = load(vector + k);
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) at[i] += load(start[i] + k) * v;
    }
    if (k < columns) {
      const Short<R> rest((int)(columns - k));
      const Vec<R> v = rest.load(vector + k);
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) at[i] += rest.load(start[i] + k) * v;
    }
  }
  INLINE Vec<R> sum() { return sums<R>(at); }
};

template <typename R>
INLINE Vec<R> sigmoid_of(Vec<R> x) {
  return R(0.5) + R(0.5) * tanh_of<R>(R(0.5) * x);
}

// ---- A layer and a network -------------------------------------------------------------------------

enum Cell { CELL_RNN = 0, CELL_LSTM = 1, CELL_GRU = 2, CELL_INDRNN = 3 };
enum NormPlace { NORM_NONE = 0, NORM_BEFORE = 1, NORM_AFTER = 2 };

template <typename R>
struct StreamLayer {
  static constexpr int LANES = Simd<R>::LANES;
  Index cell, relu, input, hidden, norm;
  const R *w_ih, *w_hh, *b_ih, *b_hh;
  R *h, *c;  // (batch, hidden)
  const R *mean, *variance, *gain, *shift;
  R eps, bound;
  R* scale;  // (hidden,) of the normalisation, for this step

  void prepare() {
    if (norm == NORM_NONE) return;
    for (Index j = 0; j < hidden; j++) scale[j] = R(1) / std::sqrt(variance[j] + eps);
    if (gain)
      for (Index j = 0; j < hidden; j++) scale[j] *= gain[j];
  }
  INLINE Vec<R> normal(Vec<R> x, Index j) const {
    const Index left = hidden - j;
    x = (x - load_up_to(mean + j, left)) * load_up_to(scale + j, left);
    return shift ? x + load_up_to(shift + j, left) : x;
  }
  // The products of gate `gate` with the inputs and with the states, where there are any, and biases.
  INLINE Vec<R> gate(Index gate, Index j, const R* x, const R* state) const {
    Rows<R> rows;
    Vec<R> bias = {};
    // The rows of the gate alone: beyond its last one is another gate.
    const Index first = gate * hidden, left = hidden - j;
    if (x) rows.add(w_ih + first * input, hidden, input, j, x);
    if (state) rows.add(w_hh + first * hidden, hidden, hidden, j, state);
    if (x && b_ih) bias += load_up_to(b_ih + first + j, left);
    if (state && b_hh) bias += load_up_to(b_hh + first + j, left);
    return rows.sum() + bias;
  }
  INLINE Vec<R> act(Vec<R> z) const { return relu ? activate<R, RELU>(z) : activate<R, TANH>(z); }

  // The new states from j on, of the sequence in row `row`.
  INLINE Vec<R> unit(Index j, Index row, const R* x) const {
    const Index left = hidden - j;
    const R* old = h + row * hidden;
    if (cell == CELL_LSTM) {
      R* cells = c + row * hidden + j;
      const Vec<R> in = sigmoid_of<R>(gate(0, j, x, old)), forget = sigmoid_of<R>(gate(1, j, x, old));
      const Vec<R> candidate = tanh_of<R>(gate(2, j, x, old));
      const Vec<R> now = forget * load_up_to(cells, left) + in * candidate;
      const Vec<R> out = sigmoid_of<R>(gate(3, j, x, old));
      store_up_to(cells, now, left);
      return out * tanh_of<R>(now);
    }
    if (cell == CELL_GRU) {
      const Vec<R> reset = sigmoid_of<R>(gate(0, j, x, old)), keep = sigmoid_of<R>(gate(1, j, x, old));
      const Vec<R> candidate = tanh_of<R>(gate(2, j, x, nullptr) + reset * gate(2, j, nullptr, old));
      return candidate + keep * (load_up_to(old + j, left) - candidate);
    }
    if (cell == CELL_RNN) return act(gate(0, j, x, old));
    Vec<R> z = gate(0, j, x, nullptr), u = load_up_to(w_hh + j, left);
    if (norm == NORM_BEFORE) z = normal(z, j);
    u = u > bound ? Vec<R>{} + bound : u < -bound ? Vec<R>{} - bound : u;
    return act(z + u * load_up_to(old + j, left));
  }

  // The states of one sequence, and what the layer gives to the next one; `fresh` is (hidden,). But for
  // an LSTM's cells nothing is written before all units have read: x may be an output or h.
  void step(Index row, const R* x, R* out, R* fresh) const {
    for (Index j = 0; j < hidden; j += LANES) store_up_to(fresh + j, unit(j, row, x), hidden - j);
    std::memcpy(h + row * hidden, fresh, hidden * sizeof(R));
    for (Index j = 0; j < hidden; j += LANES) {
      const Index left = hidden - j;
      const Vec<R> state = load_up_to(fresh + j, left);
      store_up_to(out + j, norm == NORM_AFTER ? normal(state, j) : state, left);
    }
  }
};

// states (hidden,) to outputs (count,).
template <typename R>
void read_out(const R* weight, const R* bias, Index count, Index hidden, const R* states, R* outputs) {
  for (Index j = 0; j < count; j += Simd<R>::LANES) {
    Rows<R> rows;
    rows.add(weight, count, hidden, j, states);
    Vec<R> sum = rows.sum();
    if (bias) sum += load_up_to(bias + j, count - j);
    store_up_to(outputs + j, sum, count - j);
  }
}

// `numbers` and `p` are as kernels/stream.py lays them out.
template <typename R>
int stream(const int64_t* numbers, const void* const* p, bool) {
  const SmallIsZero guard;
  const Index batch = numbers[0], layers = numbers[1], outputs = numbers[2], widest = numbers[3];
  const R* x = (const R*)p[0];
  R* const last = (R*)p[1];  // (batch, hidden), what the last layer gives
  R *buffers[2] = {(R*)p[2], (R*)p[2] + batch * widest}, *scale = buffers[1] + batch * widest;
  R* const fresh = scale + widest;
  double* total = (double*)p[6];
  int64_t* steps = (int64_t*)p[7];
  Index hidden = 0;
  for (Index k = 0; k < layers; k++) {
    const int64_t* n = numbers + 4 + 5 * k;
    const void* const* q = p + 8 + 11 * k;
    const double* reals = (const double*)q[10];
    StreamLayer<R> layer{n[0], n[1], n[2], n[3], n[4],
                         (const R*)q[0], (const R*)q[1], (const R*)q[2], (const R*)q[3],
                         (R*)q[4], (R*)q[5],
                         (const R*)q[6], (const R*)q[7], (const R*)q[8], (const R*)q[9],
                         (R)reals[0], (R)reals[1], scale};
    layer.prepare();
    hidden = layer.hidden;
    R* out = k + 1 < layers ? buffers[k % 2] : last;
    for (Index row = 0; row < batch; row++)
      layer.step(row, x + row * layer.input, out + row * hidden, fresh);
    x = out;
  }
  if (!outputs) return 0;
  if (total) ++*steps;
  for (Index row = 0; row < batch; row++) {
    const R* states = last + row * hidden;
    if (total) {  // the mean of the states so far
      for (Index j = 0; j < hidden; j++) {
        total[row * hidden + j] += states[j];
        fresh[j] = (R)(total[row * hidden + j] / (double)*steps);
      }
      states = fresh;
    }
    read_out((const R*)p[3], (const R*)p[4], outputs, hidden, states, (R*)const_cast<void*>(p[5]) + row * outputs);
  }
  return 0;
}

}  // namespace
