// Elman, GRU and LSTM layers with products in bfloat16, summed in single precision: what the forward and
// the backward pass share.
//
// Threads, blocks of units, and what is saved are as in gated.h. Only the products differ: with tiles they
// take so little of the time that a step multiplies all rows at once, states and inputs side by side in
// one left factor. Every gate of a block of units has a whole vector of columns. States, gates, cells,
// gradients and the sums over time are in single precision; what a product reads is rounded.
#pragma once

#include "gated.h"
#include "layer_products.h"

namespace {

enum class HalfCell { TANH, RELU, GRU, LSTM };

// Gates with weights of their own, and the numbers saved of each unit for the backward pass.
template <HalfCell C>
constexpr int WEIGHTS = C == HalfCell::LSTM ? 4 : C == HalfCell::GRU ? 3 : 1;
template <HalfCell C>
constexpr int KEPT = C == HalfCell::LSTM ? 5 : C == HalfCell::GRU ? 4 : 0;
// Sums of a unit. A GRU's new gate keeps that of the states apart: the reset gate multiplies it.
template <HalfCell C>
constexpr int SUMS = C == HalfCell::LSTM ? 4 : C == HalfCell::GRU ? 4 : 1;

constexpr Index VECTOR = 16;

inline Index whole_vectors(Index count) { return (count + VECTOR - 1) / VECTOR * VECTOR; }

// Weights and biases of the forward pass in panels of four vectors: all sums of one block of units, or the
// one of four blocks. The inputs' rows are above those of the states.
template <HalfCell C>
struct HalfPanels {
  static constexpr Index SPAN = 4 / SUMS<C>, WIDE = 4 * VECTOR;  // blocks of a panel, its columns
  static constexpr int slot_of_states(int gate) { return C == HalfCell::GRU && gate == 2 ? 3 : gate; }
  Index depth, blocks, count;
  Buffer<uint32_t> pairs;
  Buffer<float> biases;

  explicit HalfPanels(const Gated<float>& a)
      : depth(half_depth(a.I + a.H)), blocks(whole_vectors(a.H) / VECTOR), count((blocks + SPAN - 1) / SPAN),
        pairs(count * depth / 2 * WIDE), biases(count * WIDE) {
    const Buffer<float> dense((a.I + a.H) * WIDE);
    if (!dense.get()) pairs.memory.reset();
    for (Index panel = 0; allocated() && panel < count; panel++) {
      std::memset(dense.get(), 0, (a.I + a.H) * WIDE * sizeof(float));
      for (Index block = panel * SPAN; block < std::min(blocks, panel * SPAN + SPAN); block++)
        fill(a, dense.get(), block);
      half_pairs(pairs.get() + panel * depth / 2 * WIDE, WIDE, dense.get(), WIDE, a.I + a.H, WIDE);
    }
  }
  // A block's columns of its panel.
  void fill(const Gated<float>& a, float* dense, Index block) {
    const Index first = block % SPAN * SUMS<C> * VECTOR;
    float* const bias = biases.get() + block / SPAN * WIDE;
    for (int g = 0; g < WEIGHTS<C>; g++)
      for (Index j = 0; j < std::min(VECTOR, a.H - block * VECTOR); j++) {
        const Index row = g * a.H + block * VECTOR + j;
        const Index of_x = first + g * VECTOR + j, of_h = first + slot_of_states(g) * VECTOR + j;
        for (Index i = 0; i < a.I; i++) dense[i * WIDE + of_x] = a.w_ih[row * a.I + i];
        for (Index k = 0; k < a.H; k++) dense[(a.I + k) * WIDE + of_h] = a.w_hh[row * a.H + k];
        if (a.b_ih) bias[of_x] += a.b_ih[row];
        if (a.b_hh) bias[of_h] += a.b_hh[row];
      }
  }
  bool allocated() const { return pairs.get() && biases.get(); }
  Index blocks_of(Index panel) const { return std::min(SPAN, blocks - panel * SPAN); }
  HalfPart part(Index panel) const {
    return {pairs.get() + panel * depth / 2 * WIDE, WIDE, depth, SUMS<C> * blocks_of(panel)};
  }
  // Of a block.
  const float* bias(Index block) const { return biases.get() + block * SUMS<C> * VECTOR; }
};

// As `squash`, with an error of at most 3e-7 instead of some units in the last place, in two thirds of the
// operations: the products that read the results round them to 8 bits. With a sigmoid's y = -x or a tanh's y = 2 x
// it is 1 / (1 + exp y) or 1 - 2 / (1 + exp y); exp y = 2^n 2^f, where 2^f is a polynomial of f in 0 ... 1.
template <unsigned SIGMOIDS, int K>
INLINE void squash_near(Vec<float> (&x)[K]) {
#if HAVE_HALF
  using V = Vec<float>;
  constexpr auto sigmoid = [](int k) { return (SIGMOIDS >> k & 1) != 0; };
  V f[K], p[K];
#define EACH _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)
  EACH x[k] *= sigmoid(k) ? -1.4426950408889634f : 2.8853900817779268f;
  EACH x[k] = most<float>(V{} - 126.0f, least<float>(V{} + 126.0f, x[k]));  // NaN stays
  EACH f[k] = (V)_mm512_reduce_ps((__m512)x[k], 0x09);                       // x - floor x
  EACH p[k] = f[k] * 0.0018775766948238015f + 0.008989340625703335f;
  const auto next = [&](float coefficient) { EACH p[k] = p[k] * f[k] + coefficient; };
  next(0.05582631751894951f), next(0.24015361070632935f), next(0.6931530833244324f), next(0.9999999403953552f);
  EACH p[k] = (V)_mm512_scalef_ps((__m512)p[k], (__m512)x[k]) + 1.0f;
  EACH f[k] = (V)_mm512_rcp14_ps((__m512)p[k]);
  EACH f[k] += f[k] * (1.0f - p[k] * f[k]);
  EACH x[k] = sigmoid(k) ? f[k] : 1.0f - 2.0f * f[k];
#undef EACH
#else
  squash<float, SIGMOIDS>(x);
#endif
}

// What was saved of a unit's block at a step.
template <HalfCell C>
INLINE float* saved_of(const Gated<float>& a, Index t, Index block, Index sample) {
  const Index blocks = (a.H + VECTOR - 1) / VECTOR;
  return a.saved + ((t * blocks + block) * a.B + sample) * KEPT<C> * VECTOR;
}

}  // namespace
