// The backward pass of LSTM and GRU layers; gated.h says how it goes.
#pragma once

#include "gated.h"

namespace {

// Sums of a thread over its rows, with columns in blocks.
template <typename R>
struct GateSums {
  Index wide, stride, H;
  Buffer<R> all;
  GateSums(Index wide, Index H, Index I)
      : wide(wide), stride(row_stride<R>(wide)), H(H), all(wide ? (H + I + 2) * stride : 0) {}
  R* recurrent(Index row = 0) const { return all.get() + row * stride; }  // (H, wide)
  R* bias(int which) const { return recurrent(H + which); }             // of the states, of the inputs
  R* input(Index row = 0) const { return recurrent(H + 2 + row); }      // (I, wide)
};

template <typename R, bool LSTM>
struct BackwardShard {
  static constexpr int LANES = Simd<R>::LANES, G = GATES<LSTM>, S = SAVED<LSTM>;
  const Gated<R>& a;
  const Panels<R>&w_hh, &w_ih, &columns;  // columns: how those of a sum are cut, no numbers
  const Blocks<R, G>& blocks;
  const GateSums<R>& sums;
  Index begin, rows;
  bool want_x = bool(a.grad_x), want_w = a.grad_w_hh != nullptr;
  Index steps = std::max<Index>(1, std::min(a.T, 192 / std::max<Index>(rows, 1)));  // of a block
  Index stride = row_stride<R>(G * a.H), state_stride = row_stride<R>(a.H);
  // Gradients before the gates, those of one step behind the others. For the inputs of a GRU's new
  // gate they differ.
  Buffer<R> grads{(steps + 1) * rows * stride};
  Buffer<R> input_grads{LSTM || !(want_w || want_x) ? 0 : steps * rows * stride};
  Buffer<R> states{want_w || !LSTM ? steps * rows * state_stride : 0};
  Buffer<R> inputs{want_w ? steps * rows * a.I : 0};
  // What goes back to the state before directly, and to the cell.
  Buffer<R> carry{rows * state_stride}, cell{LSTM ? rows * state_stride : 0};
  Buffer<R> zeros{WIDEST * LANES};

  bool allocated() const {
    return grads.get() && input_grads.get() && states.get() && inputs.get() && carry.get() &&
           cell.get() && zeros.get();
  }
  R* grad_row(Index place) const { return grads.get() + place * stride; }
  R* input_grad_row(Index place) const { return (LSTM ? grads : input_grads).get() + place * stride; }

  void run() {
    for (Index row = 0; row < rows; row++) {
      const Index from = (begin + row) * a.H;
      copy_row(carry.get() + row * state_stride, a.grad_hn ? a.grad_hn + from : nullptr, a.H);
      if (LSTM) copy_row(cell.get() + row * state_stride, a.grad_cn ? a.grad_cn + from : nullptr, a.H);
    }
    for (Index t1 = a.T; t1 > 0;) {
      const Index t0 = std::max<Index>(0, t1 - steps);
      if (t1 < a.T) std::memcpy(grad_row(steps * rows), grads.get(), rows * stride * sizeof(R));
      gather(t0, t1);
      for (Index t = t1 - 1; t >= t0; t--)
        step(t, grad_row((t - t0) * rows), grad_row((t + 1 < t1 ? t + 1 - t0 : steps) * rows), (t - t0) * rows);
      if (want_x) to_inputs(t0, t1);
      if (want_w) add_to_sums((t1 - t0) * rows);
      t1 = t0;
    }
    if (a.grad_h0) to_first_states();
    if (LSTM && a.grad_c0)
      for (Index row = 0; row < rows; row++)
        std::memcpy(a.grad_c0 + (begin + row) * a.H, cell.get() + row * state_stride, a.H * sizeof(R));
  }

  // States before, and inputs of, the steps t0 ... t1 - 1, one row after the other. Whatever padding
  // holds, NaN too, must not reach the sums.
  void gather(Index t0, Index t1) {
    if (!states.get()) return;
    for (Index t = t0; t < t1; t++)
      for (Index row = 0; row < rows; row++) {
        const Index place = (t - t0) * rows + row, sample = begin + row;
        if (want_w || !LSTM) {
          const bool first = !t || !a.active(t - 1, sample);
          const R* before = first ? a.h0 ? a.h0 + sample * a.H : nullptr : a.out.at(t - 1, sample);
          copy_row(states.get() + place * state_stride, before, a.H);
        }
        if (want_w)
          copy_row<R>(inputs.get() + place * a.I, a.active(t, sample) ? a.x.at(t, sample) : nullptr, a.I);
      }
  }

  // The gradients of one step from those of the one after it.
  void step(Index t, R* here, const R* after, Index place) {
    for_tiles(rows, w_hh, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
      ask_for_step_before(t, column / LANES, tile.N, row, tile.M);
      from_later(tile, t == a.T - 1 ? nullptr : after, row, panel, column);
      for (int n = 0; n < tile.N; n++) {
        const Index block = column / LANES + n;
        with_part<R>(blocks.units(block), [&](auto part) {
          R cells[12 * LANES];
          if (LSTM) squash_cells(t, block, row, tile.M, cells);
          for (int m = 0; m < tile.M; m++)
            unit(t, block, row + m, place, here, part, load(tile.values + (m * tile.N + n) * LANES),
                 load(cells + m * LANES));
        });
      }
    }, t % 2);
  }

  // What was saved of the step before comes from far away. Half of it is asked for before a product, and
  // half in `unit`: more at once would have to wait.
  INLINE void ask_for_step_before(Index t, Index block, int blocks_here, Index row, int count) const {
    if (t)
      for (int n = 0; n < blocks_here; n++)
        for (int m = 0; m < count; m++)
          for (int s = S - 2; s < S; s++) prefetch(saved(t - 1, block + n, row + m) + s * LANES);
  }

  // The gradient of the states before a step, but for what the loss gives them; null: of the last ones.
  INLINE void from_later(Tile<R>& tile, const R* after, Index row, const R* panel, Index column) {
    const R* const from = carry.get() + row * state_stride + column;
    if (!after)
      tile.set([&](int m, Index j) { return load(from + m * state_stride + j); });
    else if (!LSTM || a.lengths)
      tile.start(from, state_stride, after + row * stride, stride, panel, G * a.H);
    else
      tile.start(zeros.get(), 0, after + row * stride, stride, panel, G * a.H);
  }

  // tanh of the saved cells of M sequences.
  INLINE void squash_cells(Index t, Index block, Index row, int M, R* to) {
    const auto group = [&]<int K>(int m, std::integral_constant<int, K>) {
      Vec<R> c[K];
      for (int k = 0; k < K; k++) c[k] = load(saved(t, block, row + m + k) + (S - 1) * LANES);
      squash<R, 0>(c);
      for (int k = 0; k < K; k++) store<R>(to + (m + k) * LANES, c[k]);
    };
    int m = 0;
    for (; m + 4 <= M; m += 4) group(m, std::integral_constant<int, 4>());
    if (M - m >= 2) group(m, std::integral_constant<int, 2>()), m += 2;
    if (m < M) group(m, std::integral_constant<int, 1>());
  }

  const R* saved(Index t, Index block, Index row) const {
    return a.saved + ((t * blocks.count + block) * a.B + begin + row) * S * LANES;
  }

  template <class P>
  INLINE void unit(Index t, Index block, Index row, Index place, R* here, P part, Vec<R> grad, Vec<R> c) {
    const Index sample = begin + row, at = row * state_stride + block * LANES;
    const bool active = a.active(t, sample);
    const R* const from = saved(t, block, row);
    const auto get = [&](int s) { return load(from + s * LANES); };
    if (t)
      for (int s = 0; s < S - 2; s++) prefetch(saved(t - 1, block, row) + s * LANES);
    Vec<R> total = grad, to[G], back;
    if (a.grad_out) total += part.load(a.grad_out.at(t, sample) + block * LANES);
    R* const row_here = here + row * stride + blocks.first(block);
    const int units = blocks.units(block);
    if constexpr (LSTM) {
      const Vec<R> i = get(0), f = get(1), g = get(2), o = get(3);
      Vec<R> old = {};
      if (t)
        old = load(saved(t - 1, block, row) + 4 * LANES);
      else if (a.c0)
        old = part.load(a.c0 + sample * a.H + block * LANES);
      const Vec<R> later = load(cell.get() + at), through = total * o;
      const Vec<R> of_cell = later + (through - through * c * c);
      to[0] = of_cell * g * (i - i * i);
      to[1] = of_cell * old * (f - f * f);
      to[2] = of_cell * i * (R(1) - g * g);
      to[3] = total * c * (o - o * o);
      store<R>(cell.get() + at, active ? of_cell * f : later);
      back = Vec<R>{};
      if (a.lengths) store<R>(carry.get() + at, active ? back : grad);
    } else {
      const Vec<R> r = get(0), z = get(1), n = get(2), hidden = get(3);
      const Vec<R> old = load(states.get() + (place + row) * state_stride + block * LANES);
      const Vec<R> of_new = (total - total * z) * (R(1) - n * n);
      to[0] = of_new * hidden * (r - r * r);
      to[1] = total * (old - n) * (z - z * z);
      to[2] = of_new * r;
      store<R>(carry.get() + at, active ? total * z : grad);
      if (want_w || want_x) {
        R* row_input = input_grad_row(place + row) + blocks.first(block);
        part.store(row_input, active ? to[0] : Vec<R>{});
        part.store(row_input + units, active ? to[1] : Vec<R>{});
        part.store(row_input + 2 * units, active ? of_new : Vec<R>{});
      }
    }
    for (int g = 0; g < G; g++) part.store(row_here + g * units, active ? to[g] : Vec<R>{});
  }

  void to_inputs(Index t0, Index t1) {
    for_tiles((t1 - t0) * rows, w_ih, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
      tile.set([](int, Index) { return Vec<R>{}; });
      tile.multiply(input_grad_row(row), stride, panel, G * a.H);
      tile.use([&](int m, Index j, Vec<R> grad) {
        const Index t = t0 + (row + m) / rows, sample = begin + (row + m) % rows;
        store_up_to(a.grad_x.at(t, sample) + column + j, grad, a.I - column - j);
      });
    });
  }

  // to (columns of left, wide) += left' right, over `depth` rows.
  void add_product(R* to, const R* left, Index left_stride, Index left_columns, const R* right, Index depth) {
    for_tiles(left_columns, columns, [&](Tile<R>& tile, Index row, const R*, Index column) {
      R* at = to + row * sums.stride + column;
      product_for<R, true>(tile.M, tile.N)(at, sums.stride, at, sums.stride, left + row, left_stride,
                                            right + column, stride, depth);
    });
  }
  void add_rows(R* to, const R* from, Index depth) {
    for (Index j = 0; j < sums.wide; j += LANES) {
      Vec<R> sum = load(to + j);
      for (Index row = 0; row < depth; row++) sum += load(from + row * stride + j);
      store<R>(to + j, sum);
    }
  }
  void add_to_sums(Index depth) {
    add_product(sums.recurrent(), states.get(), state_stride, a.H, grads.get(), depth);
    add_product(sums.input(), inputs.get(), a.I, a.I, input_grad_row(0), depth);
    add_rows(sums.bias(0), grads.get(), depth);
    if (!LSTM) add_rows(sums.bias(1), input_grad_row(0), depth);
  }

  void to_first_states() {
    for_tiles(rows, w_hh, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
      from_later(tile, grad_row(0), row, panel, column);
      tile.use([&](int m, Index j, Vec<R> grad) {
        store_up_to(a.grad_h0 + (begin + row + m) * a.H + column + j, grad, a.H - column - j);
      });
    });
  }
};

// A matrix (G H, columns) in panels of columns, its rows in the order of blocks.
template <typename R, int G>
Panels<R> panels_in_blocks(const Blocks<R, G>& blocks, const R* matrix, Index columns) {
  constexpr Index LANES = Simd<R>::LANES;
  Panels<R> panels(matrix, 0, columns, columns, 1);
  panels.rows = G * blocks.H;
  panels.owned = Buffer<R>(Panels<R>::size(panels.rows, columns));
  panels.packed = panels.owned.get();
  for (Index p = 0; panels.packed && p < panels.count; p++) {
    const Index first = panels.first(p) * LANES, width = panels.width(p) * LANES;
    const Index used = std::min(columns - first, width);
    blocks.for_parts([&](Index from, Index to, int units) {
      for (int j = 0; j < units; j++)
        std::memcpy(panels.panel(p) + (to + j) * width, matrix + (from + j) * columns + first, used * sizeof(R));
    });
  }
  return panels;
}

// The gradients of weights and biases from the threads' sums, added in the order of the threads.
template <typename R, bool LSTM>
void add_up(const Gated<R>& a, const Blocks<R, GATES<LSTM>>& blocks, const std::vector<GateSums<R>>& sums) {
  const auto total = [&](auto row, Index column) {
    R sum = row(sums[0])[column];
    for (size_t i = 1; i < sums.size(); i++) sum += row(sums[i])[column];
    return sum;
  };
  // A transpose: squares of 16 keep both sides in the cache.
  const auto transpose = [&](R* to, Index columns, Index from, int units, auto row) {
    for (Index k0 = 0; k0 < columns; k0 += 16)
      for (int j = 0; j < units; j++)
        for (Index k = k0; k < std::min(columns, k0 + 16); k++)
          to[j * columns + k] = total([&](auto& one) { return row(one, k); }, from + j);
  };
  blocks.for_parts([&](Index to, Index from, int units) {
    for (int j = 0; j < units; j++) {
      a.grad_b_ih[to + j] = total([](auto& one) { return one.bias(LSTM ? 0 : 1); }, from + j);
      if (!LSTM) a.grad_b_hh[to + j] = total([](auto& one) { return one.bias(0); }, from + j);
    }
    transpose(a.grad_w_hh + to * a.H, a.H, from, units, [](auto& one, Index k) { return one.recurrent(k); });
    transpose(a.grad_w_ih + to * a.I, a.I, from, units, [](auto& one, Index k) { return one.input(k); });
  });
}

template <typename R, bool LSTM>
int gated_backward(const Gated<R>& a) {
  constexpr int G = GATES<LSTM>;
  const bool want_x = bool(a.grad_x), want_w = a.grad_w_hh != nullptr;
  const Blocks<R, G> blocks(a.H);
  const Panels<R> w_hh = panels_in_blocks(blocks, a.w_hh, a.H);
  const Panels<R> w_ih = panels_in_blocks(blocks, a.w_ih, want_x ? a.I : 0);
  const Panels<R> columns(a.w_hh, 0, G * a.H, 0, 1);
  if (!w_hh.packed || !w_ih.packed) return 1;
  std::vector<GateSums<R>> sums;
  for (int i = 0; i < a.threads; i++)
    sums.emplace_back(want_w ? columns.vectors * Simd<R>::LANES : 0, a.H, a.I);
  for (auto& one : sums)
    if (!one.all.get()) return 1;
  std::atomic<bool> failed = false;
  in_shards(a.B, a.threads, [&](int i, Index begin, Index end) {
    BackwardShard<R, LSTM> shard{a, w_hh, w_ih, columns, blocks, sums[i], begin, end - begin};
    if (shard.allocated())
      shard.run();
    else
      failed = true;
  });
  if (failed) return 1;
  if (!want_w) return 0;
  add_up<R, LSTM>(a, blocks, sums);
  return 0;
}

}  // namespace
