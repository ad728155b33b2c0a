// The backward pass of Elman, GRU and LSTM layers with products in bfloat16; half_cells.h says how it goes.
//
// A row of gradients before the gates has each gate's units in whole vectors, one gate behind another. A
// GRU's new gate has two gradients, for the states' part before the others and for the inputs behind
// them: either product takes three neighbouring gates.
#pragma once

#include "half_cells.h"

namespace {

// Where the gates of a row of gradients are.
template <HalfCell C>
struct GradientRow {
  static constexpr int GRADS = C == HalfCell::GRU ? 4 : WEIGHTS<C>;
  Index units, width, inputs, product;  // one gate, all, begin of those of the inputs, gates of a product
  Index stride;
  explicit GradientRow(Index H)
      : units(whole_vectors(H)), width(GRADS * units), inputs((GRADS - WEIGHTS<C>)*units),
        product(WEIGHTS<C> * units), stride(half_depth(width) + HALF_DEPTH) {}
  Index of_states(int gate) const { return (C == HalfCell::GRU ? (gate + 1) % 3 : gate) * units; }
  Index of_inputs(int gate) const { return inputs + gate * units; }
};

// A matrix (gates times H, columns) as right factor, its rows as in a row of gradients from `first` on.
template <HalfCell C, class F>
HalfMatrix gate_rows(const GradientRow<C>& row, const float* matrix, Index H, Index columns, Index first, F place) {
  const Buffer<float> dense(row.product * columns);
  for (int g = 0; dense.get() && g < WEIGHTS<C>; g++)
    std::memcpy(dense.get() + (place(g) - first) * columns, matrix + g * H * columns, H * columns * sizeof(float));
  return HalfMatrix(dense.get(), dense.get() ? row.product : 0, columns, columns, 1);
}

// A thread's sums over its rows; columns as in a row of gradients.
template <HalfCell C>
struct HalfSums {
  Index stride, H;
  Buffer<float> all, biases;
  HalfSums(const GradientRow<C>& row, Index H, Index I, bool want)
      : stride(row_stride<float>(row.product)), H(H), all(want ? (H + I) * stride : 0),
        biases(want ? row.width : 0) {}
  float* recurrent(Index k = 0) const { return all.get() + k * stride; }  // (H, product)
  float* input(Index i = 0) const { return recurrent(H + i); }            // (I, product)
  bool allocated() const { return all.get() && biases.get(); }
};

template <HalfCell C>
struct HalfBackward {
  static constexpr int S = KEPT<C>;
  static constexpr bool LSTM = C == HalfCell::LSTM, GRU = C == HalfCell::GRU;
  const Gated<float>& a;
  const GradientRow<C>& grad;
  const HalfMatrix&w_hh, &w_ih;
  const HalfSums<C>& sums;
  Index begin, rows;
  bool want_x = bool(a.grad_x), want_w = a.grad_w_hh != nullptr;
  Index blocks = grad.units / VECTOR;
  Index steps = std::max<Index>(1, std::min(a.T, 256 / std::max<Index>(rows, 1)));  // of a chunk
  Index state_stride = row_stride<float>(a.H), input_stride = row_stride<float>(a.I);
  Index turned_stride = half_depth(steps * rows) + HALF_DEPTH;
  // Gradients before the gates, and the same rounded, there those of the step after the chunk behind.
  Buffer<float> grads{steps * rows * grad.stride};
  Buffer<Half> rounded{((steps + 1) * rows + 2 * HALF_ROWS) * grad.stride};
  Buffer<float> gathered{want_w || GRU ? steps * rows * state_stride : 0};
  Buffer<float> inputs{want_w || want_x ? steps * rows * input_stride : 0};
  Buffer<Half> turned{want_w ? half_count(std::max(a.H, a.I)) * turned_stride : 0};
  Buffer<uint32_t> pairs{want_w ? half_depth(steps * rows) / 2 * grad.width : 0};
  Buffer<float> carry{rows * state_stride}, cell{LSTM ? rows * state_stride : 0};
  struct Rows {
    const float* start;
    Index stride;
  };
  Rows states{nullptr, 0};  // before the steps of the chunk

  bool allocated() const {
    return grads.get() && rounded.get() && gathered.get() && inputs.get() && turned.get() && pairs.get() &&
           carry.get() && cell.get();
  }
  Half* rounded_row(Index place) const { return rounded.get() + place * grad.stride; }

  void run() {
    for (Index row = 0; row < rows; row++) {
      const Index from = (begin + row) * a.H;
      copy_row(carry.get() + row * state_stride, a.grad_hn ? a.grad_hn + from : nullptr, a.H);
      if (LSTM) copy_row(cell.get() + row * state_stride, a.grad_cn ? a.grad_cn + from : nullptr, a.H);
    }
    for (Index t1 = a.T; t1 > 0;) {
      const Index t0 = std::max<Index>(0, t1 - steps);
      if (t1 < a.T) std::memcpy(rounded_row(steps * rows), rounded.get(), rows * grad.stride * sizeof(Half));
      gather_states(t0, t1);
      for (Index t = t1 - 1; t >= t0; t--) {
        if (t + 1 < a.T) to_states(rounded_row((t + 1 < t1 ? t + 1 - t0 : steps) * rows));
        step(t, (t - t0) * rows);
      }
      if (want_w) add_to_sums(t0, t1);
      if (want_x) to_inputs(t0, t1);
      t1 = t0;
    }
    if (a.grad_h0) {
      to_states(rounded.get());
      for (Index row = 0; row < rows; row++)
        std::memcpy(a.grad_h0 + (begin + row) * a.H, carry.get() + row * state_stride, a.H * sizeof(float));
    }
    if (LSTM && a.grad_c0)
      for (Index row = 0; row < rows; row++)
        std::memcpy(a.grad_c0 + (begin + row) * a.H, cell.get() + row * state_stride, a.H * sizeof(float));
  }

  // Whether the rows of all steps are equally far apart.
  bool regular(const auto& sequence) const {
    return !a.lengths && rows == a.B && sequence.time == a.B * sequence.batch;
  }

  // States before the steps t0 ... t1 - 1, one row after the other.
  void gather_states(Index t0, Index t1) {
    if (t0 && regular(a.out)) {
      states = {a.out.at(t0 - 1, 0), a.out.batch};
      return;
    }
    states = {gathered.get(), state_stride};
    for (Index t = t0; (want_w || GRU) && t < t1; t++)
      for (Index row = 0; row < rows; row++) {
        const Index sample = begin + row;
        const bool first = !t || !a.active(t - 1, sample);
        const float* before = first ? a.h0 ? a.h0 + sample * a.H : nullptr : a.out.at(t - 1, sample);
        copy_row(gathered.get() + ((t - t0) * rows + row) * state_stride, before, a.H);
      }
  }

  // The gradient of the states before a step, but for what the loss gives them.
  void to_states(const Half* later) {
    Ahead ahead;
    // What `unit` left in `carry` is a part of it: of a GRU always, of others where sequences have ended.
    const bool fresh = !GRU && !a.lengths;
    multiply_half(carry.get(), state_stride, later, grad.stride, rows, w_hh.part(), fresh, ahead);
  }

  // The gradients of one step, from those of its states.
  void step(Index t, Index place) {
    for (Index block = 0; block < blocks; block++)
      with_part<float>((int)std::min(VECTOR, a.H - block * VECTOR), [&](auto part) {
        Vec<float> bias[GradientRow<C>::GRADS] = {};
        const auto rows_from = [&]<int K>(Index row, std::integral_constant<int, K>) {
          Vec<float> c[K];
          for (int k = 0; LSTM && k < K; k++)
            c[k] = load(saved_of<C>(a, t, block, begin + row + k) + (LSTM ? S - 1 : 0) * VECTOR);
          if constexpr (LSTM) squash_near<0>(c);
          for (int k = 0; k < K; k++) unit(t, block, row + k, place, part, c[k], bias);
        };
        Index row = 0;
        for (; row + 4 <= rows; row += 4) rows_from(row, std::integral_constant<int, 4>());
        for (; row < rows; row++) rows_from(row, std::integral_constant<int, 1>());
        if (!want_w) return;
        for (int g = 0; g < GradientRow<C>::GRADS; g++) {
          float* const to = sums.biases.get() + g * grad.units + block * VECTOR;
          store<float>(to, load(to) + bias[g]);
        }
      });
    half_rows(rounded_row(place), grad.stride, grads.get() + place * grad.stride, grad.stride, rows, grad.width);
  }

  // The gradients of a block's units of one sequence; c is the tanh of an LSTM's cells.
  template <class P>
  INLINE void unit(Index t, Index block, Index row, Index place, P part, Vec<float> c,
                   Vec<float> (&bias)[GradientRow<C>::GRADS]) {
    const Index sample = begin + row, at = row * state_stride + block * VECTOR;
    const bool active = a.active(t, sample);
    const float* const from = S ? saved_of<C>(a, t, block, sample) : nullptr;
    const auto get = [&](int s) { return load(from + s * VECTOR); };
    if (t)  // it comes from far away
      for (int s = 0; s < S; s++) prefetch(saved_of<C>(a, t - 1, block, sample) + s * VECTOR);
    const Vec<float> later = load(carry.get() + at);
    Vec<float> total = later, to[GradientRow<C>::GRADS], back = {};
    if (a.grad_out) total += part.load(a.grad_out.at(t, sample) + block * VECTOR);
    if constexpr (LSTM) {
      const Vec<float> i = get(0), f = get(1), g = get(2), o = get(3);
      Vec<float> old = {};
      if (t)
        old = load(saved_of<C>(a, t - 1, block, sample) + 4 * VECTOR);
      else if (a.c0)
        old = part.load(a.c0 + sample * a.H + block * VECTOR);
      const Vec<float> cell_later = load(cell.get() + at), through = total * o;
      const Vec<float> of_cell = cell_later + (through - through * c * c);
      to[0] = of_cell * g * (i - i * i);
      to[1] = of_cell * old * (f - f * f);
      to[2] = of_cell * i * (1.0f - g * g);
      to[3] = total * c * (o - o * o);
      store<float>(cell.get() + at, active ? of_cell * f : cell_later);
    } else if constexpr (GRU) {
      const Vec<float> r = get(0), z = get(1), n = get(2), hidden = get(3);
      const Vec<float> old = part.load(states.start + (place + row) * states.stride + block * VECTOR);
      const Vec<float> of_new = (total - total * z) * (1.0f - n * n);
      to[0] = of_new * r;
      to[1] = of_new * hidden * (r - r * r);
      to[2] = total * (old - n) * (z - z * z);
      to[3] = of_new;
      back = total * z;
    } else {
      to[0] = through<float, C == HalfCell::RELU ? RELU : TANH>(total, part.load(a.out.at(t, sample) + block * VECTOR));
    }
    if (GRU || a.lengths) store<float>(carry.get() + at, active ? back : later);
    float* const row_here = grads.get() + (place + row) * grad.stride + block * VECTOR;
    for (int g = 0; g < GradientRow<C>::GRADS; g++) {
      to[g] = active ? to[g] : Vec<float>{};
      bias[g] += to[g];
      store<float>(row_here + g * grad.units, to[g]);
    }
  }

  void to_inputs(Index t0, Index t1) {
    Ahead ahead;
    multiply_half(inputs.get(), input_stride, rounded.get() + grad.inputs, grad.stride, (t1 - t0) * rows, w_ih.part(),
                  true, ahead);
    for (Index t = t0; t < t1; t++)
      for (Index row = 0; row < rows; row++)
        std::memcpy(a.grad_x.at(t, begin + row), inputs.get() + ((t - t0) * rows + row) * input_stride,
                    a.I * sizeof(float));
  }

  // += the products of states before and of inputs with the gradients of the steps t0 ... t1 - 1.
  void add_to_sums(Index t0, Index t1) {
    const Index depth = (t1 - t0) * rows, wide = grad.width;
    half_pairs(pairs.get(), wide, grads.get(), grad.stride, depth, wide);
    const auto add = [&](float* to, const Rows& left, Index columns, Index from) {
      Ahead ahead;
      half_turned(turned.get(), turned_stride, left.start, left.stride, depth, columns);
      const HalfPart right{pairs.get() + from, wide, half_depth(depth), grad.product / VECTOR};
      multiply_half(to, sums.stride, turned.get(), turned_stride, columns, right, false, ahead);
    };
    add(sums.recurrent(), states, a.H, 0);
    if (regular(a.x)) return add(sums.input(), {a.x.at(t0, 0), a.x.batch}, a.I, grad.inputs);
    for (Index t = t0; t < t1; t++)
      for (Index row = 0; row < rows; row++)  // whatever padding holds, NaN too, must not reach the sums
        copy_row<float>(inputs.get() + ((t - t0) * rows + row) * input_stride,
                        a.active(t, begin + row) ? a.x.at(t, begin + row) : nullptr, a.I);
    add(sums.input(), {inputs.get(), input_stride}, a.I, grad.inputs);
  }
};

// The gradients of weights and biases from the threads' sums, added in the order of the threads.
template <HalfCell C>
void add_up(const Gated<float>& a, const GradientRow<C>& grad, const std::vector<HalfSums<C>>& sums) {
  const auto total = [&](auto number) {
    float sum = number(sums[0]);
    for (size_t i = 1; i < sums.size(); i++) sum += number(sums[i]);
    return sum;
  };
  for (int g = 0; g < WEIGHTS<C>; g++) {
    const Index of_h = grad.of_states(g), of_x = grad.of_inputs(g);
    for (Index j0 = 0; j0 < a.H; j0 += VECTOR)  // a transpose: squares of 16 keep both sides in the cache
      for (Index k0 = 0; k0 < std::max(a.H, a.I); k0 += VECTOR)
        for (Index j = j0; j < std::min(a.H, j0 + VECTOR); j++) {
          const Index row = g * a.H + j;
          for (Index k = k0; k < std::min(a.H, k0 + VECTOR); k++)
            a.grad_w_hh[row * a.H + k] = total([&](auto& one) { return one.recurrent(k)[of_h + j]; });
          for (Index i = k0; i < std::min(a.I, k0 + VECTOR); i++)
            a.grad_w_ih[row * a.I + i] = total([&](auto& one) { return one.input(i)[of_x - grad.inputs + j]; });
        }
    for (Index j = 0; j < a.H; j++) {
      a.grad_b_ih[g * a.H + j] = total([&](auto& one) { return one.biases.get()[of_x + j]; });
      if (C == HalfCell::GRU) a.grad_b_hh[g * a.H + j] = total([&](auto& one) { return one.biases.get()[of_h + j]; });
    }
  }
}

template <HalfCell C>
int half_backward(const Gated<float>& a) {
  const GradientRow<C> grad(a.H);
  const bool want_x = bool(a.grad_x), want_w = a.grad_w_hh != nullptr;
  const HalfMatrix w_hh = gate_rows(grad, a.w_hh, a.H, a.H, 0, [&](int g) { return grad.of_states(g); });
  const HalfMatrix w_ih = gate_rows(grad, a.w_ih, a.H, want_x ? a.I : 0, grad.inputs,
                                    [&](int g) { return grad.of_inputs(g); });
  if (!w_hh.rows || !w_ih.rows || !w_hh.pairs.get() || !w_ih.pairs.get()) return 1;
  std::vector<HalfSums<C>> sums;
  for (int i = 0; i < a.threads; i++) {
    sums.emplace_back(grad, a.H, a.I, want_w);
    if (!sums.back().allocated()) return 1;
  }
  std::atomic<bool> failed = false;
  in_shards(a.B, a.threads, [&](int i, Index begin, Index end) {
    HalfBackward<C> shard{a, grad, w_hh, w_ih, sums[i], begin, end - begin};
    if (shard.allocated())
      shard.run();
    else
      failed = true;
  });
  if (failed) return 1;
  if (want_w) add_up<C>(a, grad, sums);
  return 0;
}

}  // namespace
