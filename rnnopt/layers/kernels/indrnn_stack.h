// Stacked IndRNN layers with batch normalisation and dropout after each, fused over time.
//
// A layer is one pass forward and one backward over its states, in chunks of steps that stay in the
// cache: normalised inputs, product, recurrence and the sums for the statistics; backward the gradient
// of the recurrence, the products to the weights and to the inputs, and the sums for the normalisation
// below. Only the states before normalisation are kept; normalised ones are made anew from them, which
// costs less than reading them. The batch is cut into one shard of rows a thread, whose sums are
// added in the order of the threads.
#pragma once

#include "batch_norm.h"
#include "layer_products.h"

namespace {

template <typename R>
struct StackLayer {
  const R *w, *b, *u, *gain, *shift;  // (H, inputs), then (H)
  R *grad_w, *grad_b, *grad_u, *grad_gain, *grad_shift;
};

template <typename R>
struct Stack {
  Index T, B, I, H;
  int threads;
  std::vector<StackLayer<R>> layers;
  Sequence<const R> x;
  const R* h0;          // (layers, B, H); null: zeros
  const R* masks;       // (layers, B, H); null: all 1
  R eps;
  Index kept;           // steps of y: the last ones
  R* states;            // (layers, T, B, H), before normalisation
  R *mean, *scale;      // (layers, H): of the states, and 1 / sqrt(variance + eps)
  R* variance;          // (layers, H); forward alone
  R* y;                 // (kept, B, H); forward alone
  // Backward alone.
  Sequence<const R> grad_y;  // null: zeros
  const R* grad_ends;   // (layers, B, H), of the last states; null: zeros
  R* grads;             // (T, B, H): gradient of a layer's normalised states, times the mask
  R* grad_x;            // (T, B, I); null: not wanted
  R* grad_h0;           // (layers, B, H); null: not wanted

  Index count() const { return (Index)layers.size(); }
  Index inputs(Index k) const { return k ? H : I; }
  R* state(Index k, Index t, Index row) const { return states + ((k * T + t) * B + row) * H; }
  // The states before step t; null for zeros.
  const R* before(Index k, Index t, Index row) const {
    return t ? state(k, t - 1, row) : h0 ? h0 + (k * B + row) * H : nullptr;
  }
  const R* mask(Index k, Index row) const { return masks ? masks + (k * B + row) * H : nullptr; }
};

// Calls f(first column, part, first row, last row) for every vector of columns of rows that lie one
// behind the other, a few rows at a time: what belongs to the columns stays in registers, and the
// columns beside them in the nearest cache.
constexpr Index STRIP_ROWS = 32;
template <typename R, class F>
INLINE void for_strips(Index H, Index first, Index last, F f) {
  for (Index row = first; row < last; row += STRIP_ROWS)
    for_vectors<R>(H, [&](Index j, auto part) { f(j, part, row, std::min(last, row + STRIP_ROWS)); });
}

// What normalisation does to the states of layer k: (h - mean) factor + shift, times the mask.
template <typename R>
struct Normalisation {
  const Stack<R>& a;
  Index k;
  const R *mean, *scale, *shift;
  Buffer<R> factor;
  Normalisation(const Stack<R>& a, Index k)
      : a(a), k(k), mean(a.mean + k * a.H), scale(a.scale + k * a.H), shift(a.layers[k].shift),
        factor(a.H) {
    for (Index j = 0; factor.get() && j < a.H; j++) factor.get()[j] = scale[j] * a.layers[k].gain[j];
  }
  // To rows `stride` apart, from step t of the rows first ... last - 1.
  void apply(R* to, Index stride, Index t, Index first, Index last) const {
    const R *from = a.state(k, t, first), *mask = a.mask(k, first);
    for_strips<R>(a.H, 0, last - first, [&](Index j, auto part, Index row, Index end) {
      const Vec<R> middle = part.load(mean + j), slope = part.load(factor.get() + j), above = part.load(shift + j);
      for (; row < end; row++) {
        Vec<R> value = (part.load(from + row * a.H + j) - middle) * slope + above;
        if (mask) value = value * part.load(mask + row * a.H + j);
        part.store(to + row * stride + j, value);
      }
    });
  }
};

// A shard's rows in groups, and each group's steps in chunks: CHUNK_ROWS rows of (time, batch).
constexpr Index CHUNK_ROWS = 128;

template <class F>
void for_groups(Index begin, Index end, F f) {
  for (Index first = begin; first < end; first += CHUNK_ROWS) f(first, std::min(end, first + CHUNK_ROWS));
}
inline Index chunk_steps(Index T, Index rows) {
  return std::max<Index>(1, std::min(T, CHUNK_ROWS / std::max<Index>(rows, 1)));
}

// The rows of a chunk with room for `columns` numbers each.
template <typename R>
struct Chunk {
  Index rows, stride;  // rows of a step in the largest group
  Index places;
  Buffer<R> memory;
  Chunk(Index T, Index shard_rows, Index columns)
      : rows(std::min(shard_rows, CHUNK_ROWS)), stride(chunk_stride<R>(columns)),
        places(std::min(rows * T, std::max(rows, CHUNK_ROWS))), memory(places * stride) {}
  R* at(Index place) const { return memory.get() + place * stride; }
};

// Asks for rows of a (time, batch, H) array at the steps t0 ... t1 - 1.
template <typename R>
void ask_for(Ahead& ahead, const Stack<R>& a, const R* array, Index t0, Index t1, Index first, Index last) {
  for (Index t = t0; array && t < t1; t++) ahead.add(array + (t * a.B + first) * a.H, (last - first) * a.H);
}

// The inputs of layer k at the steps t0 ... t1 - 1 of the rows first ... last - 1.
template <typename R>
void fill_inputs(const Stack<R>& a, Index k, const Normalisation<R>* below, const Chunk<R>& inputs, Index t0,
                 Index t1, Index first, Index last) {
  for (Index t = t0; t < t1; t++) {
    R* to = inputs.at((t - t0) * (last - first));
    if (below)
      below->apply(to, inputs.stride, t, first, last);
    else
      for (Index row = first; row < last; row++, to += inputs.stride)
        std::memcpy(to, a.x.at(t, row), a.I * sizeof(R));
  }
}

// ---- Forward ---------------------------------------------------------------------------------------

// Step t of the rows first ... last - 1, from what reaches the units.
template <typename R, int ACT>
void stack_recur(const Stack<R>& a, Index k, Index t, Index first, Index last, const R* reaching, Index stride) {
  const R* before = a.before(k, t, first);
  R* to = a.state(k, t, first);
  for_strips<R>(a.H, 0, last - first, [&](Index j, auto part, Index row, Index end) {
    const Vec<R> bias = part.load(a.layers[k].b + j), u = part.load(a.layers[k].u + j);
    for (; row < end; row++) {
      Vec<R> h = part.load(reaching + row * stride + j) + bias;
      if (before) h += u * part.load(before + row * a.H + j);
      part.store(to + row * a.H + j, activate<R, ACT>(h));
    }
  });
}

template <typename R, int ACT, class Products>
int stack_layer_forward(const Stack<R>& a, Index k, const Normalisation<R>* below) {
  const Products products(a.layers[k].w, a.inputs(k), a.H, Pass::FORWARD);
  if (!products) return 1;
  std::vector<Moments<R>> moments(a.threads, Moments<R>(a.H));
  std::atomic<bool> failed = false;
  in_shards(a.B, a.threads, [&](int shard, Index begin, Index end) {
    const Chunk<R> inputs(a.T, end - begin, a.inputs(k)), reaching(a.T, end - begin, a.H);
    typename Products::Room room(products, inputs.places);
    if (!inputs.at(0) || !reaching.at(0) || !room) {
      failed = true;
      return;
    }
    Ahead ahead;
    for_groups(begin, end, [&](Index first, Index last) {
      const Index rows = last - first, steps = chunk_steps(a.T, rows);
      for (Index t0 = 0; t0 < a.T; t0 += steps) {
        const Index t1 = std::min(a.T, t0 + steps);
        fill_inputs(a, k, below, inputs, t0, t1, first, last);
        ahead.clear();
        ask_for(ahead, a, (const R*)a.state(k, 0, 0), t0, t1, first, last);
        if (below) ask_for(ahead, a, (const R*)a.state(below->k, 0, 0), t1, std::min(a.T, t1 + steps), first, last);
        products.up(reaching.at(0), reaching.stride, inputs.at(0), inputs.stride, (t1 - t0) * rows, room, ahead);
        for (Index t = t0; t < t1; t++) {
          stack_recur<R, ACT>(a, k, t, first, last, reaching.at((t - t0) * rows), reaching.stride);
          moments[shard].add(a.state(k, t, first), rows);
        }
      }
    });
  });
  if (failed) return 1;
  set_statistics(moments, a.eps, a.mean + k * a.H, a.variance + k * a.H, a.scale + k * a.H);
  return 0;
}

template <typename R, int ACT, class Products>
int stack_forward(const Stack<R>& a) {
  std::vector<std::unique_ptr<Normalisation<R>>> norms;
  for (Index k = 0; k < a.count(); k++) {
    if (stack_layer_forward<R, ACT, Products>(a, k, k ? norms.back().get() : nullptr)) return 1;
    norms.push_back(std::make_unique<Normalisation<R>>(a, k));
    if (!norms.back()->factor.get()) return 1;
  }
  in_shards(a.B, a.threads, [&](int, Index begin, Index end) {
    for (Index step = 0; step < a.kept; step++)
      norms.back()->apply(a.y + (step * a.B + begin) * a.H, a.H, a.T - a.kept + step, begin, end);
  });
  return 0;
}

}  // namespace
