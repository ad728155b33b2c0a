// The forward pass of Elman, GRU and LSTM layers with products in bfloat16; half_cells.h says how it goes.
#pragma once

#include "half_cells.h"

namespace {

// The rows of one thread, from step to step.
template <HalfCell C>
struct HalfForward {
  static constexpr Index WIDE = HalfPanels<C>::WIDE, SPAN = HalfPanels<C>::SPAN;
  static constexpr bool ELMAN = SPAN > 1;
  static constexpr Index GROUP = 64;  // rows whose sums stay in the nearest cache
  const Gated<float>& a;
  const HalfPanels<C>& weights;
  Index begin, rows;
  Index stride = row_stride<float>(a.H);
  Index half_stride = half_depth(a.I + half_depth(a.H)) + HALF_DEPTH;
  Buffer<Half> factors{half_count(rows) * half_stride};  // inputs and states of a step
  Buffer<float> first{rows * stride}, second{rows * stride}, cell{C == HalfCell::LSTM ? rows * stride : 0};
  Buffer<float> sums{GROUP * WIDE};
  float *before = first.get(), *after = second.get();  // states (rows, stride)

  bool allocated() const { return factors.get() && first.get() && second.get() && cell.get() && sums.get(); }

  void run() {
    for (Index row = 0; row < rows; row++) {
      copy_row(before + row * stride, a.h0 ? a.h0 + (begin + row) * a.H : nullptr, a.H);
      if (C == HalfCell::LSTM) copy_row(cell.get() + row * stride, a.c0 ? a.c0 + (begin + row) * a.H : nullptr, a.H);
    }
    for (Index t = 0; t < a.T; t++) {
      step(t);
      std::swap(before, after);
    }
    for (Index row = 0; row < rows; row++) {
      if (a.hn) std::memcpy(a.hn + (begin + row) * a.H, before + row * stride, a.H * sizeof(float));
      if (C == HalfCell::LSTM) std::memcpy(a.cn + (begin + row) * a.H, cell.get() + row * stride, a.H * sizeof(float));
    }
  }

  void step(Index t) {
    // In this order: each fills its last vector up with zeros.
    half_rows(factors.get(), half_stride, a.x.at(t, begin), a.x.batch, rows, a.I);
    const bool from_out = ELMAN && t;  // nothing is kept beside it: no one needs the state after an end
    half_rows(factors.get() + a.I, half_stride, from_out ? a.out.at(t - 1, begin) : before,
              from_out ? a.out.batch : stride, rows, a.H);
    Ahead ahead;
    for (Index panel = 0; panel < weights.count; panel++)
      for (Index row = 0; row < rows; row += GROUP) {
        const Index some = std::min(GROUP, rows - row);
        multiply_half(sums.get(), WIDE, factors.get() + row * half_stride, half_stride, some, weights.part(panel),
                      true, ahead);
        for (Index i = 0; i < weights.blocks_of(panel); i++) {
          const Index block = panel * SPAN + i;
          with_part<float>((int)std::min(VECTOR, a.H - block * VECTOR),
                           [&](auto part) { finish(t, block, row, some, part, sums.get() + i * VECTOR); });
        }
      }
  }

  // From the sums of some rows to their new states, few at a time: a processor overlaps rows only if each
  // has few instructions.
  template <class P>
  INLINE void finish(Index t, Index block, Index row, Index some, P part, float* at) {
    const auto rows_from = [&]<int K>(Index m, std::integral_constant<int, K>) {
      if constexpr (!ELMAN)
        for (int k = 0; k < K; k++) open_gates(t, block, row + m + k, at + (m + k) * WIDE);
      new_states<K>(t, block, row + m, part, at + m * WIDE);
    };
    Index m = 0;
    if constexpr (ELMAN)
      for (; m + 8 <= some; m += 8) rows_from(m, std::integral_constant<int, 8>());
    for (; m + 4 <= some; m += 4) rows_from(m, std::integral_constant<int, 4>());
    for (; m < some; m++) rows_from(m, std::integral_constant<int, 1>());
  }

  // The gates of one sequence. For `new_states` it leaves an LSTM's new cell and output gate, or a GRU's
  // update gate and the sum of its new gate.
  INLINE void open_gates(Index t, Index block, Index row, float* at) {
    const float* const bias = weights.bias(block);
    const auto sum = [&](int g) { return load(at + g * VECTOR) + load(bias + g * VECTOR); };
    float* const to = a.saved ? saved_of<C>(a, t, block, begin + row) : nullptr;
    if constexpr (C == HalfCell::LSTM) {
      float* const cell_at = cell.get() + row * stride + block * VECTOR;
      const Vec<float> old = load(cell_at);
      Vec<float> gates[4] = {sum(0), sum(1), sum(2), sum(3)};  // i, f, g, o
      squash_near<0b1011>(gates);
      const Vec<float> c = a.active(t, begin + row) ? gates[1] * old + gates[0] * gates[2] : old;
      store<float>(cell_at, c);
      store<float>(at + 3 * VECTOR, gates[3]);
      if (!to) return;
      for (int g = 0; g < 4; g++) store<float>(to + g * VECTOR, gates[g]);
      store<float>(to + 4 * VECTOR, c);
    } else {
      const Vec<float> hidden = sum(3);
      Vec<float> gates[2] = {sum(0), sum(1)};  // r, z
      squash_near<0b11>(gates);
      store<float>(at + VECTOR, gates[1]);
      store<float>(at + 2 * VECTOR, sum(2) + gates[0] * hidden);
      if (!to) return;
      store<float>(to, gates[0]), store<float>(to + VECTOR, gates[1]), store<float>(to + 3 * VECTOR, hidden);
    }
  }

  // The new states of K sequences.
  template <int K, class P>
  INLINE void new_states(Index t, Index block, Index row, P part, const float* at) {
    const Index place = row * stride + block * VECTOR;
    Vec<float> newest[K];
    for (int k = 0; k < K; k++)
      newest[k] = C == HalfCell::LSTM  ? load(cell.get() + place + k * stride)
                  : C == HalfCell::GRU ? load(at + k * WIDE + 2 * VECTOR)
                                       : load(at + k * WIDE) + load(weights.bias(block));
    if constexpr (C != HalfCell::RELU) squash_near<0>(newest);
    for (int k = 0; k < K; k++) {
      const bool active = a.active(t, begin + row + k);
      float* const out = a.out.at(t, begin + row + k) + block * VECTOR;
      if constexpr (ELMAN) {
        const Vec<float> state = C == HalfCell::RELU ? activate<float, RELU>(newest[k]) : newest[k];
        part.store(out, active ? state : Vec<float>{});
        continue;
      }
      const Vec<float> old = load(before + place + k * stride);
      Vec<float> state;
      if constexpr (C == HalfCell::LSTM) {
        state = load(at + k * WIDE + 3 * VECTOR) * newest[k];
      } else {
        state = newest[k] + load(at + k * WIDE + VECTOR) * (old - newest[k]);
        if (a.saved) store<float>(saved_of<C>(a, t, block, begin + row + k) + 2 * VECTOR, newest[k]);
      }
      store<float>(after + place + k * stride, active ? state : old);
      part.store(out, active ? state : Vec<float>{});
    }
  }
};

template <HalfCell C>
int half_forward(const Gated<float>& a) {
  const HalfPanels<C> weights(a);
  if (!weights.allocated()) return 1;
  std::atomic<bool> failed = false;
  in_shards(a.B, a.threads, [&](int, Index begin, Index end) {
    HalfForward<C> shard{a, weights, begin, end - begin};
    if (shard.allocated())
      shard.run();
    else
      failed = true;
  });
  return failed;
}

}  // namespace
