// The forward pass of LSTM and GRU layers; gated.h says how it goes.
#pragma once

#include "gated.h"

namespace {

// Fewer rows than these have the inputs of several steps multiplied together: a product of few rows
// reads the whole matrix for little arithmetic.
constexpr Index FEW_ROWS = 8;

// The rows of one thread, from step to step.
template <typename R, bool LSTM>
struct ForwardShard {
  static constexpr int LANES = Simd<R>::LANES, G = GATES<LSTM>, S = SAVED<LSTM>;
  const Gated<R>& a;
  const GatePanels<R, G>&w_hh, &w_ih;
  const R *bias, *recurrent_bias;  // a GRU has that of its new gate's recurrent part apart
  Index begin, rows;
  const Blocks<R, G>& blocks = w_hh.blocks;
  Index stride = row_stride<R>(a.H);
  bool ahead = rows < FEW_ROWS && a.I > 4;
  Index steps = ahead ? std::max<Index>(1, std::min(a.T, 96 / std::max<Index>(1, rows))) : 0;
  Buffer<R> first{rows * stride}, second{rows * stride}, cell{LSTM ? rows * stride : 0};
  Buffer<R> inputs{steps * rows * a.I}, projected{steps * rows * blocks.wide()};
  R *before = first.get(), *after = second.get();  // states (rows, stride)

  bool allocated() const {
    return first.get() && second.get() && cell.get() && inputs.get() && projected.get();
  }

  void run() {
    for (Index row = 0; row < rows; row++) {
      copy_row(before + row * stride, a.h0 ? a.h0 + (begin + row) * a.H : nullptr, a.H);
      if (LSTM) copy_row(cell.get() + row * stride, a.c0 ? a.c0 + (begin + row) * a.H : nullptr, a.H);
    }
    for (Index t = 0; t < a.T; t++) {
      if (ahead && t % steps == 0) project(t, std::min(a.T, t + steps));
      step(t);
      std::swap(before, after);
    }
    for (Index row = 0; row < rows; row++) {
      std::memcpy(a.hn + (begin + row) * a.H, before + row * stride, a.H * sizeof(R));
      if (LSTM) std::memcpy(a.cn + (begin + row) * a.H, cell.get() + row * stride, a.H * sizeof(R));
    }
  }

  // Bias and products of the inputs of steps t0 ... t1 - 1, a panel's rows one after the other.
  void project(Index t0, Index t1) {
    for (Index t = t0; t < t1; t++)
      for (Index row = 0; row < rows; row++)
        copy_row(inputs.get() + ((t - t0) * rows + row) * a.I, a.x.at(t, begin + row), a.I);
    Tile<R> tile;
    for (Index b = 0; b < blocks.count; b++) {
      tile.N = blocks.width(b);
      for_blocks((t1 - t0) * rows, tile.N, [&](Index row, int M) {
        tile.M = M;
        tile.start(bias + blocks.first(b), 0, inputs.get() + row * a.I, a.I, w_ih.panel(b), a.I);
        std::memcpy(projection(b, row), tile.values, M * tile.N * LANES * sizeof(R));
      });
    }
  }
  R* projection(Index block, Index row) const {
    return projected.get() + blocks.first(block) * steps * rows + row * blocks.width(block) * LANES;
  }

  void step(Index t) {
    const bool multiply = t || a.h0;
    Tile<R> tile, recurrent;  // a GRU's new gate takes its recurrent part apart
    for (Index i = 0; i < blocks.count; i++) {
      // To and fro: of a matrix too large for the cache, the end is still there from the step before.
      const Index b = t % 2 ? blocks.count - 1 - i : i;
      const int N = blocks.width(b), units = blocks.units(b);
      tile.N = recurrent.N = N;
      for_blocks(rows, N, [&](Index row, int M) {
        tile.M = recurrent.M = M;
        if (ahead)
          std::memcpy(tile.values, projection(b, t % steps * rows + row), M * N * LANES * sizeof(R));
        else
          tile.start(bias + blocks.first(b), 0, a.x.at(t, begin + row), a.x.batch, w_ih.panel(b), a.I);
        if (LSTM && multiply)
          tile.multiply(before + row * stride, stride, w_hh.panel(b), a.H);
        else if (!LSTM)
          recurrent.start(recurrent_bias + blocks.first(b), 0, before + row * stride, stride, w_hh.panel(b),
                          multiply ? a.H : 0);
        with_part<R>(units, [&](auto part) { finish(t, b, row, part, units, tile, recurrent); });
      });
    }
  }

  R* saved(Index t, Index block, Index row) const {
    return a.saved + ((t * blocks.count + block) * a.B + begin + row) * S * LANES;
  }

  // From the sums before the gates to the new states of a block's units, in two passes over the rows of
  // the tile: a processor overlaps rows only if each has few instructions.
  template <class P>
  INLINE void finish(Index t, Index block, Index row, P part, int units, Tile<R>& tile, Tile<R>& recurrent) {
    const Index length = tile.N * LANES;
    for (int m = 0; m < tile.M; m++)
      open_gates(t, block, row + m, part, units, tile.values + m * length, recurrent.values + m * length);
    const auto rows_from = [&]<int K>(int m, std::integral_constant<int, K>) {
      new_states<K>(t, block, row + m, part, units, tile.values + m * length, length);
    };
    int m = 0;
    for (; m + 4 <= tile.M; m += 4) rows_from(m, std::integral_constant<int, 4>());
    if (tile.M - m >= 2) rows_from(m, std::integral_constant<int, 2>()), m += 2;
    if (m < tile.M) rows_from(m, std::integral_constant<int, 1>());
  }

  // The gates of one sequence. For `new_states` it leaves an LSTM's new cell and in place of the last
  // sum its output gate, or in place of a GRU's last sums its update gate and the sum of its new gate.
  template <class P>
  INLINE void open_gates(Index t, Index block, Index row, P part, int units, R* sums, const R* recurrent) {
    const auto sum = [&](int g) { return part.load(sums + g * units); };
    const auto apart = [&](int g) { return part.load(recurrent + g * units); };
    if constexpr (LSTM) {
      R* const cell_at = cell.get() + row * stride + block * LANES;
      const Vec<R> old = load(cell_at);
      Vec<R> gates[4] = {sum(0), sum(1), sum(2), sum(3)};  // i, f, g, o
      squash<R, 0b1011>(gates);
      const Vec<R> c = a.active(t, begin + row) ? gates[1] * old + gates[0] * gates[2] : old;
      store<R>(cell_at, c);
      part.store(sums + 3 * units, gates[3]);
      if (!a.saved) return;
      R* const to = saved(t, block, row);
      for (int g = 0; g < 4; g++) store<R>(to + g * LANES, gates[g]);
      store<R>(to + 4 * LANES, c);
    } else {
      const Vec<R> hidden = apart(2);
      Vec<R> gates[2] = {sum(0) + apart(0), sum(1) + apart(1)};  // r, z
      squash<R, 0b11>(gates);
      const Vec<R> in_new = sum(2) + gates[0] * hidden;
      part.store(sums + units, gates[1]);
      part.store(sums + 2 * units, in_new);
      if (!a.saved) return;
      R* const to = saved(t, block, row);
      store<R>(to, gates[0]), store<R>(to + LANES, gates[1]), store<R>(to + 3 * LANES, hidden);
    }
  }

  // The new states of K sequences.
  template <int K, class P>
  INLINE void new_states(Index t, Index block, Index row, P part, int units, const R* sums, Index length) {
    const Index at = row * stride + block * LANES;
    Vec<R> new_gate[K];
    for (int k = 0; k < K; k++)
      new_gate[k] = LSTM ? load(cell.get() + at + k * stride) : part.load(sums + k * length + 2 * units);
    squash<R, 0>(new_gate);
    for (int k = 0; k < K; k++) {
      const Vec<R> old = load(before + at + k * stride);
      const Vec<R> gate = part.load(sums + k * length + (LSTM ? 3 : 1) * units);
      const Vec<R> state = LSTM ? gate * new_gate[k] : new_gate[k] + gate * (old - new_gate[k]);
      if (!LSTM && a.saved) store<R>(saved(t, block, row + k) + 2 * LANES, new_gate[k]);
      const bool active = a.active(t, begin + row + k);
      store<R>(after + at + k * stride, active ? state : old);
      part.store(a.out.at(t, begin + row + k) + block * LANES, active ? state : Vec<R>{});
    }
  }
};

template <typename R, bool LSTM>
int gated_forward(const Gated<R>& a) {
  constexpr int G = GATES<LSTM>;
  const GatePanels<R, G> w_hh(a.w_hh, a.H, a.H), w_ih(a.w_ih, a.I, a.H);
  const Buffer<R> bias = in_blocks<R, G>(w_hh.blocks, a.b_ih, a.b_hh, LSTM ? G : 2);
  const Buffer<R> recurrent = in_blocks<R, G>(w_hh.blocks, nullptr, LSTM ? nullptr : a.b_hh, G, 2);
  if (!w_hh.packed.get() || !w_ih.packed.get() || !bias.get() || !recurrent.get()) return 1;
  std::atomic<bool> failed = false;
  in_shards(a.B, a.threads, [&](int, Index begin, Index end) {
    ForwardShard<R, LSTM> shard{a, w_hh, w_ih, bias.get(), recurrent.get(), begin, end - begin};
    if (shard.allocated())
      shard.run();
    else
      failed = true;
  });
  return failed;
}

}  // namespace
