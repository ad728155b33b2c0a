// LSTM and GRU layers, fused over time.
//
// As in elman.h, the batch is cut into one shard of rows a thread, and a thread carries its rows
// through all steps without waiting for the others. The recurrent matrix is packed block by block: a
// block has the gates of as many units as a vector has lanes, so that one tile of the product holds all
// gates of its units, and the new state is computed before the tile leaves the nearest cache. What the
// backward pass needs is saved in the order of computation.
//
// Backward, a step's gradients of the gates go into a buffer of some steps, small enough to stay in the
// cache; its products with states and inputs are added to the thread's own sums. These are added in the
// order of the threads: the same result in every run with as many threads.
#pragma once

#include "product.h"

namespace {

template <typename R>
struct Gated {
  Index T, B, I, H;
  int threads;
  bool reverse;  // step 0 is the last one of the sequence
  Sequence<const R> x;
  const R *w_ih, *w_hh, *b_ih, *b_hh;  // gates (4 or 3) times H rows; biases may be null
  const R *h0, *c0;                    // null: zeros
  const int64_t* lengths;              // null: all T
  Sequence<R> out;
  R *hn, *cn;
  R* saved;  // null: no backward pass follows
  // Backward alone.
  Sequence<const R> grad_out;      // null: zeros
  const R *grad_hn, *grad_cn;      // null: zeros
  Sequence<R> grad_x;              // null: not wanted
  R *grad_w_ih, *grad_w_hh, *grad_b_ih, *grad_b_hh, *grad_h0, *grad_c0;  // null: not wanted

  bool active(Index t, Index row) const { return !lengths || (reverse ? T - 1 - t : t) < lengths[row]; }
};

// What is saved of each unit. LSTM: the gates i, f, g, o and the cell c. GRU: r, z, n and W_hn h + b_hn.
template <bool LSTM>
constexpr int GATES = LSTM ? 4 : 3;
template <bool LSTM>
constexpr int SAVED = LSTM ? 5 : 4;

// Columns in blocks: of each block first all units of the first gate, then of the second ...
template <typename R, int G>
struct Blocks {
  static constexpr int LANES = Simd<R>::LANES;
  Index H, count;
  explicit Blocks(Index H) : H(H), count((H + LANES - 1) / LANES) {}
  int units(Index block) const { return (int)std::min<Index>(LANES, H - block * LANES); }
  Index first(Index block) const { return block * LANES * G; }
  // Vectors of a block's columns.
  int width(Index block) const { return (G * units(block) + LANES - 1) / LANES; }
  // All columns, with those that fill up the last vector.
  Index wide() const { return first(count - 1) + width(count - 1) * LANES; }
  // Calls f(row of the matrix, column here, columns next to one another).
  template <class F>
  void for_parts(F f) const {
    for (Index b = 0; b < count; b++)
      for (int g = 0; g < G; g++) f(g * H + b * LANES, first(b) + g * units(b), units(b));
  }
};

// The transpose of a matrix (G H, depth), in panels of one block each, row after row.
template <typename R, int G>
struct GatePanels {
  static constexpr int LANES = Simd<R>::LANES;
  Blocks<R, G> blocks;
  Index depth;
  Buffer<R> packed;

  GatePanels(const R* matrix, Index depth, Index H) : blocks(H), depth(depth), packed(depth * blocks.wide()) {
    if (!packed.get()) return;
    for (Index b = 0; b < blocks.count; b++) {
      const int units = blocks.units(b);
      const Index width = blocks.width(b) * LANES;
      R* const to = packed.get() + blocks.first(b) * depth;
      for (Index k0 = 0; k0 < depth; k0 += 16)  // squares of 16 keep both sides in the cache
        for (int g = 0; g < G; g++)
          for (int j = 0; j < units; j++) {
            const R* from = matrix + (g * H + b * LANES + j) * depth;
            for (Index k = k0; k < std::min(depth, k0 + 16); k++) to[k * width + g * units + j] = from[k];
          }
    }
  }
  const R* panel(Index block) const { return packed.get() + blocks.first(block) * depth; }
};

// A bias (G H) in the order of blocks: one, and of the gates from ... to - 1 the other is added.
template <typename R, int G>
Buffer<R> in_blocks(const Blocks<R, G>& blocks, const R* one, const R* other, int to, int from = 0) {
  Buffer<R> row(blocks.wide() + Simd<R>::LANES);
  if (row.get())
    blocks.for_parts([&](Index at, Index place, int units) {
      const bool both = other && from * blocks.H <= at && at < to * blocks.H;
      for (int j = 0; j < units; j++) row.get()[place + j] = (one ? one[at + j] : 0) + (both ? other[at + j] : 0);
    });
  return row;
}

// Rows one vector longer than needed: rows a power of two apart would share few places of the cache.
template <typename R>
Index row_stride(Index count) {
  constexpr Index LANES = Simd<R>::LANES;
  return (count + LANES - 1) / LANES * LANES + LANES;
}

template <typename R>
void copy_row(R* to, const R* from, Index count) {
  if (from)
    std::memcpy(to, from, count * sizeof(R));
  else
    std::memset(to, 0, count * sizeof(R));
}

// Calls f with what loads and stores vectors of so many units.
template <typename R, class F>
INLINE void with_part(int units, F f) {
  if (units == Simd<R>::LANES)
    f(Whole<R>{});
  else
    f(Rest<R>{units});
}

// ---- Forward ---------------------------------------------------------------------------------------

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

// ---- Backward --------------------------------------------------------------------------------------

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
      if (input_grads.get() && (want_w || want_x)) {
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
