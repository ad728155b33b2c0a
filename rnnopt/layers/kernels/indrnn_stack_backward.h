// Backward through stacked IndRNN layers; see indrnn_stack.h.
#pragma once

#include "indrnn_stack.h"

namespace {

// Sums over time and batch of one layer's gradient d after normalisation, and of d times the normalised
// state: of a few rows in R, of all rows of a shard in double precision.
template <typename R>
struct NormSums {
  Index H;
  std::vector<double> all;  // (2, H)
  Buffer<R> some;
  explicit NormSums(Index H) : H(H), all(2 * H), some(2 * H) {}
  // Rows of a step: `grad` times the mask, which is also written to `to`, with the states. The mask and
  // `to` may be null; rows are H apart but those of `grad`.
  void add(const R* grad, Index stride, const R* mask, R* to, const R* state, Index rows,
           const Normalisation<R>& norm) {
    for_strips<R>(H, 0, rows, [&](Index j, auto part, Index row, Index end) {
      const Vec<R> mean = part.load(norm.mean + j), scale = part.load(norm.scale + j);
      Vec<R> plain = part.load(some.get() + j), weighted = part.load(some.get() + H + j);
      for (; row < end; row++) {
        Vec<R> d = part.load(grad + row * stride + j);
        const Vec<R> normal = (part.load(state + row * H + j) - mean) * scale;
        if (mask) d = d * part.load(mask + row * H + j);
        if (to) part.store(to + row * H + j, d);
        plain += d;
        weighted += d * normal;
      }
      part.store(some.get() + j, plain);
      part.store(some.get() + H + j, weighted);
    });
  }
  void settle() {
    for (Index j = 0; j < 2 * H; j++) all[j] += some.get()[j], some.get()[j] = 0;
  }
};

// A shard's sums for the weights of one layer.
template <typename R>
struct LayerSums {
  Index stride;
  std::vector<double> b, u;
  Buffer<R> some, w;  // (2, H) of a few rows; (inputs, H)
  LayerSums(Index inputs, Index H) : stride(chunk_stride<R>(H)), b(H), u(H), some(2 * H), w(inputs * stride) {}
  void settle() {
    const Index H = (Index)b.size();
    for (Index j = 0; j < H; j++) b[j] += some.get()[j], u[j] += some.get()[H + j];
    std::memset(some.get(), 0, 2 * H * sizeof(R));
  }
};

// How the gradient d after the normalisation of layer k becomes that of the states:
// factor (d - plain - n weighted), with n the normalised state.
template <typename R>
struct NormGradient {
  const Normalisation<R>& norm;
  Buffer<R> plain, weighted;
  NormGradient(const Stack<R>& a, const Normalisation<R>& norm, const std::vector<NormSums<R>>& sums)
      : norm(norm), plain(a.H), weighted(a.H) {
    if (!plain.get() || !weighted.get()) return;
    const StackLayer<R>& layer = a.layers[norm.k];
    const double rows = double(a.T) * double(a.B);
    for (Index j = 0; j < a.H; j++) {
      double d = 0, dn = 0;
      for (const auto& one : sums) d += one.all[j], dn += one.all[a.H + j];
      layer.grad_shift[j] = (R)d, layer.grad_gain[j] = (R)dn;
      plain.get()[j] = (R)(d / rows), weighted.get()[j] = (R)(dn / rows);
    }
  }
};

// The gradient of layer k's normalised states at step t, from a row on.
template <typename R>
struct Arriving {
  const R* grad;  // null: zeros
  Index stride;
  const R* mask;  // what is still to be multiplied; null: nothing
};
template <typename R>
Arriving<R> arriving(const Stack<R>& a, Index k, Index t, Index row) {
  if (k + 1 < a.count()) return {a.grads + (t * a.B + row) * a.H, a.H, nullptr};
  const Index step = t - (a.T - a.kept);
  return {a.grad_y && step >= 0 ? a.grad_y.at(step, row) : nullptr, a.grad_y.batch, a.mask(k, row)};
}

// The gradients before the nonlinearity at step t of the rows first ... last - 1, from those at t + 1
// (null at the end), both in rows `stride` apart.
template <typename R, int ACT>
void stack_recur_backward(const Stack<R>& a, const NormGradient<R>& through_norm, LayerSums<R>& sums, Index t,
                          Index first, Index last, const R* after, R* to, Index stride) {
  const Normalisation<R>& norm = through_norm.norm;
  const Index k = norm.k;
  const Arriving<R> from = arriving(a, k, t, first);
  const R *states = a.state(k, t, first), *before = a.before(k, t, first);
  const R* ends = a.grad_ends && t == a.T - 1 ? a.grad_ends + (k * a.B + first) * a.H : nullptr;
  R *sum_b = sums.some.get(), *sum_u = sum_b + a.H;
  for_strips<R>(a.H, 0, last - first, [&](Index j, auto part, Index row, Index end) {
    const Vec<R> mean = part.load(norm.mean + j), scale = part.load(norm.scale + j);
    const Vec<R> plain = part.load(through_norm.plain.get() + j);
    const Vec<R> weighted = part.load(through_norm.weighted.get() + j);
    const Vec<R> factor = part.load(norm.factor.get() + j), u = part.load(a.layers[k].u + j);
    Vec<R> b = part.load(sum_b + j), du = part.load(sum_u + j);
    for (; row < end; row++) {
      const Vec<R> h = part.load(states + row * a.H + j);
      Vec<R> e = {};
      if (from.grad) {
        e = part.load(from.grad + row * from.stride + j);
        if (from.mask) e = e * part.load(from.mask + row * a.H + j);
      }
      e = (e - plain - (h - mean) * scale * weighted) * factor;
      if (ends) e += part.load(ends + row * a.H + j);
      if (after) e += u * part.load(after + row * stride + j);
      e = through<R, ACT>(e, h);
      if (before) du += e * part.load(before + row * a.H + j);
      part.store(to + row * stride + j, e);
      b += e;
    }
    part.store(sum_b + j, b);
    part.store(sum_u + j, du);
  });
}

// Hands the gradient of layer k's inputs at the steps t0 ... t1 - 1 on: to the layer below, times the
// mask, with the sums for its normalisation; or to the caller.
template <typename R>
void hand_down(const Stack<R>& a, const Normalisation<R>* below, NormSums<R>& sums, const Chunk<R>& grads, Index t0,
               Index t1, Index first, Index last) {
  for (Index t = t0; t < t1; t++) {
    const R* from = grads.at((t - t0) * (last - first));
    if (below)
      sums.add(from, grads.stride, a.mask(below->k, first), a.grads + (t * a.B + first) * a.H,
               a.state(below->k, t, first), last - first, *below);
    else
      for (Index row = first; row < last; row++, from += grads.stride)
        std::memcpy(a.grad_x + (t * a.B + row) * a.I, from, a.I * sizeof(R));
  }
  if (below) sums.settle();
}

template <typename R, int ACT, class Products>
int stack_layer_backward(const Stack<R>& a, const Normalisation<R>& norm, const Normalisation<R>* below,
                         std::vector<NormSums<R>>& norm_sums) {
  const Index k = norm.k, inputs = a.inputs(k);
  const bool down = below || a.grad_x;
  const NormGradient<R> through_norm(a, norm, norm_sums);
  const Products products(a.layers[k].w, inputs, a.H, down ? Pass::BACKWARD : Pass::BACKWARD_WITHOUT_INPUTS);
  if (!products || !through_norm.weighted.get()) return 1;
  std::vector<LayerSums<R>> sums;
  norm_sums.clear();
  for (int i = 0; i < a.threads; i++) {
    sums.emplace_back(inputs, a.H), norm_sums.emplace_back(a.H);
    if (!sums.back().some.get() || !sums.back().w.get() || !norm_sums.back().some.get()) return 1;
  }
  std::atomic<bool> failed = false;

  in_shards(a.B, a.threads, [&](int shard, Index begin, Index end) {
    LayerSums<R>& sum = sums[shard];
    const Chunk<R> x(a.T, end - begin, inputs), e(a.T, end - begin, a.H), later(1, end - begin, a.H);
    const Chunk<R> grads(a.T, end - begin, inputs);
    typename Products::Room room(products, x.places);
    if (!x.at(0) || !e.at(0) || !later.at(0) || !grads.at(0) || !room) {
      failed = true;
      return;
    }
    Ahead ahead;
    for_groups(begin, end, [&](Index first, Index last) {
      const Index rows = last - first, steps = chunk_steps(a.T, rows);
      for (Index t1 = a.T; t1 > 0;) {
        const Index t0 = std::max<Index>(0, t1 - steps), all = (t1 - t0) * rows;
        // The step after the chunk is the first one of the chunk before, which is about to be lost.
        if (t1 < a.T) std::memcpy(later.at(0), e.at(0), rows * e.stride * sizeof(R));
        for (Index t = t1 - 1; t >= t0; t--) {
          const R* after = t + 1 < t1 ? e.at((t + 1 - t0) * rows) : t1 < a.T ? later.at(0) : nullptr;
          stack_recur_backward<R, ACT>(a, through_norm, sum, t, first, last, after, e.at((t - t0) * rows), e.stride);
        }
        sum.settle();
        fill_inputs(a, k, below, x, t0, t1, first, last);
        const Index next = std::max<Index>(0, t0 - steps);
        ahead.clear();
        ask_for(ahead, a, (const R*)a.state(k, 0, 0), std::max<Index>(0, next - 1), t0 - 1, first, last);
        if (k + 1 < a.count()) ask_for<R>(ahead, a, a.grads, next, t0, first, last);
        if (below) ask_for(ahead, a, (const R*)a.state(below->k, 0, 0), next, t0, first, last);
        products.add(sum.w.get(), sum.stride, x.at(0), x.stride, e.at(0), e.stride, all, room, ahead);
        if (down) {
          products.down(grads.at(0), grads.stride, e.at(0), e.stride, all, room, ahead);
          hand_down(a, below, norm_sums[shard], grads, t0, t1, first, last);
        }
        t1 = t0;
      }
      for (Index row = 0; a.grad_h0 && row < rows; row++)
        for (Index j = 0; j < a.H; j++)
          a.grad_h0[(k * a.B + first + row) * a.H + j] = a.layers[k].u[j] * e.at(row)[j];
    });
  });
  if (failed) return 1;

  const StackLayer<R>& layer = a.layers[k];
  for (Index j = 0; j < a.H; j++) {
    double b = 0, u = 0;
    for (const auto& one : sums) b += one.b[j], u += one.u[j];
    layer.grad_b[j] = (R)b, layer.grad_u[j] = (R)u;
    for (Index i = 0; i < inputs; i++) {
      R total = 0;
      for (const auto& one : sums) total += one.w.get()[i * one.stride + j];
      layer.grad_w[j * inputs + i] = total;
    }
  }
  return 0;
}

// The sums for the last layer's normalisation, from the gradient of its results.
template <typename R>
void add_last_sums(const Stack<R>& a, const Normalisation<R>& norm, std::vector<NormSums<R>>& sums) {
  if (!a.grad_y) return;
  in_shards(a.B, a.threads, [&](int shard, Index begin, Index end) {
    for (Index t = a.T - a.kept; t < a.T; t++) {
      const Arriving<R> from = arriving(a, norm.k, t, begin);
      sums[shard].add(from.grad, from.stride, from.mask, nullptr, a.state(norm.k, t, begin), end - begin, norm);
      sums[shard].settle();
    }
  });
}

template <typename R, int ACT, class Products>
int stack_backward(const Stack<R>& a) {
  std::vector<NormSums<R>> sums;
  std::unique_ptr<Normalisation<R>> norm, below;
  norm = std::make_unique<Normalisation<R>>(a, a.count() - 1);
  for (int i = 0; i < a.threads; i++) {
    sums.emplace_back(a.H);
    if (!sums.back().some.get()) return 1;
  }
  if (!norm->factor.get()) return 1;
  add_last_sums(a, *norm, sums);
  for (; norm; norm = std::move(below)) {
    if (norm->k) below = std::make_unique<Normalisation<R>>(a, norm->k - 1);
    if (below && !below->factor.get()) return 1;
    if (stack_layer_backward<R, ACT, Products>(a, *norm, below.get(), sums)) return 1;
  }
  return 0;
}

}  // namespace
