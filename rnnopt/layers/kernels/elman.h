// Elman layers, and IndRNN layers with their input product: fused over time.
//
// The batch is cut into one shard of rows a thread, and a thread carries its rows through all steps
// without waiting for the others. A step is a product of the shard's states with the packed
// recurrent matrix, tile by tile; bias and input go in before the product, and the nonlinearity is
// applied to the tile before it is stored, so each state is written once. Backward, the gradient
// before the nonlinearity is kept for a block of steps only, small enough to stay in the cache; its
// products with states and inputs are added to the thread's own sums, and these are added in the
// order of the threads: the same result in every run with as many threads.
#pragma once

#include "product.h"

namespace {

template <typename R>
struct Elman {
  Index T, B, I, H;
  int threads;
  Sequence<const R> x;  // null: `out` holds the projected inputs
  const R *w_ih, *w_hh, *b_ih, *b_hh;  // w_hh (H, H), or (H) where each unit has its own
  const R* h0;                         // null: zeros
  const int64_t* lengths;              // null: all T
  Sequence<R> out;
  // Backward alone.
  Sequence<const R> grad_out;  // null: zeros
  const R* grad_hn;            // null: zeros
  Sequence<R> grad_x;          // null: not wanted
  Sequence<R> grad_pre;        // wanted when x is null: the gradient before the nonlinearity
  R *grad_w_ih, *grad_w_hh, *grad_bias, *grad_h0;  // null: not wanted

  bool ended(Index t, Index row) const { return lengths && t >= lengths[row]; }
  Index last(Index row) const { return lengths ? lengths[row] - 1 : T - 1; }
  // The states before step t; null for zeros.
  const R* before(Index t, Index row) const {
    return t ? out.at(t - 1, row) : h0 ? h0 + row * H : nullptr;
  }
};

// A row of numbers with zeros behind, so that whole vectors may be read.
template <typename R>
Buffer<R> padded(const R* numbers, Index count, Index wide) {
  Buffer<R> row(wide);
  if (row.get() && numbers) std::memcpy(row.get(), numbers, count * sizeof(R));
  return row;
}

// OWN: each unit has its own recurrent weight, u = w_hh; else w_hh is a matrix.
template <typename R, int ACT, bool OWN>
int elman_forward(const Elman<R>& a) {
  constexpr int LANES = Simd<R>::LANES;
  const Panels<R> w_hh(a.w_hh, OWN ? 0 : a.H, a.H, 1, a.H);
  const Panels<R> w_ih(a.w_ih, a.x ? a.I : 0, a.H, 1, a.I);
  const Index wide = w_hh.vectors * LANES;
  const Buffer<R> bias = padded(a.x ? a.b_ih : nullptr, a.H, wide);
  const Buffer<R> u = padded(OWN ? a.w_hh : nullptr, a.H, wide);
  if (!w_hh.packed || !w_ih.packed || !bias.get() || !u.get()) return 1;
  if (a.x && a.b_hh)
    for (Index j = 0; j < a.H; j++) bias.get()[j] += a.b_hh[j];
  in_shards(a.B, a.threads, [&](int, Index begin, Index end) {
    const Index stride = a.out.batch;
    for (Index t = 0; t < a.T; t++) {
      const R* before = a.before(t, begin);
      const Index before_stride = t ? stride : a.H;
      for_tiles(end - begin, w_hh, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
        R* out = a.out.at(t, begin + row) + column;
        const Index left = a.H - column;
        if (a.x) {
          tile.set([&](int, Index j) { return load(bias.get() + column + j); });
          tile.multiply(a.x.at(t, begin + row), a.x.batch, w_ih.packed + column * a.I, a.I);
        } else {
          tile.set([&](int m, Index j) { return load_up_to(out + m * stride + j, left - j); });
        }
        if (before) {
          const R* state = before + row * before_stride;
          if constexpr (OWN)
            tile.add([&](int m, Index j) {
              return load(u.get() + column + j) *
                     load_up_to(state + m * before_stride + column + j, left - j);
            });
          else
            tile.multiply(state, before_stride, panel, a.H);
        }
        tile.use([&](int m, Index j, Vec<R> sum) {
          const bool ended = a.ended(t, begin + row + m);
          store_up_to(out + m * stride + j, ended ? Vec<R>{} : activate<R, ACT>(sum), left - j);
        });
      });
    }
  });
  return 0;
}

// A thread's own sums over its rows; added up when all are done.
template <typename R>
struct Sums {
  Index wide, recurrent_rows;
  Buffer<R> all;
  Sums(Index wide, Index recurrent_rows, Index inputs)
      : wide(wide), recurrent_rows(recurrent_rows), all((recurrent_rows + 1 + inputs) * wide) {}
  R* recurrent(Index row = 0) const { return all.get() + row * wide; }            // (H or 1, wide)
  R* bias() const { return recurrent(recurrent_rows); }                           // (wide)
  R* input(Index row = 0) const { return recurrent(recurrent_rows + 1 + row); }   // (I, wide)
};

template <typename R, int ACT, bool OWN>
int elman_backward(const Elman<R>& a) {
  constexpr int LANES = Simd<R>::LANES;
  constexpr Index ROWS = 192;  // of a block of steps: its gradients and states fit in the cache
  const bool whole = bool(a.grad_pre);
  const bool want_x = bool(a.grad_x), want_w = a.grad_w_hh != nullptr;
  const Panels<R> w_hh(a.w_hh, OWN ? 0 : a.H, a.H, a.H, 1);
  const Panels<R> w_ih(a.w_ih, want_x ? a.H : 0, want_x ? a.I : 0, a.I, 1);
  const Index wide = w_hh.vectors * LANES;
  // One vector more than needed: rows a power of two apart would share few places of the cache.
  const Index stride = wide + LANES;
  const Buffer<R> u = padded(OWN ? a.w_hh : nullptr, a.H, wide);
  if (!w_hh.packed || !w_ih.packed || !u.get()) return 1;
  std::vector<Sums<R>> sums;
  for (int i = 0; i < a.threads; i++)
    sums.emplace_back(want_w ? wide : 0, OWN ? 1 : a.H, a.x ? a.I : 0);
  for (auto& one : sums)
    if (!one.all.get()) return 1;
  std::atomic<bool> failed = false;

  in_shards(a.B, a.threads, [&](int shard, Index begin, Index end) {
    const Sums<R>& sum = sums[shard];
    const Index rows = end - begin;
    const Index steps = std::max<Index>(1, std::min(a.T, ROWS / std::max<Index>(rows, 1)));
    const Buffer<R> grads(whole ? 0 : (steps + 1) * rows * stride);
    const Buffer<R> states(want_w ? steps * rows * stride : 0);
    const Buffer<R> inputs(want_w && a.x ? steps * rows * a.I : 0);
    if (!grads.get() || !states.get() || !inputs.get()) {
      failed = true;
      return;
    }

    // The gradient of one step from the one after it, and what goes on to the inputs.
    const auto one_step = [&](Index t, const Sequence<R>& here, const Sequence<R>& after) {
      for_tiles(rows, w_hh, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
        const Index left = a.H - column;
        tile.set([&](int m, Index j) {
          const Index sample = begin + row + m;
          Vec<R> grad = {};
          if (a.grad_out) grad = load_up_to(a.grad_out.at(t, sample) + column + j, left - j);
          if (a.grad_hn && t == a.last(sample))
            grad += load_up_to(a.grad_hn + sample * a.H + column + j, left - j);
          if (OWN && after) {
            const R* later = after.at(0, row + m) + column + j;
            grad += load(u.get() + column + j) * load_up_to(later, left - j);
          }
          return grad;
        });
        if (!OWN && after) tile.multiply(after.at(0, row), after.batch, panel, a.H);
        tile.use([&](int m, Index j, Vec<R> grad) {
          const Index sample = begin + row + m;
          const Vec<R> state = load_up_to(a.out.at(t, sample) + column + j, left - j);
          grad = a.ended(t, sample) ? Vec<R>{} : through<R, ACT>(grad, state);
          store_up_to(here.at(0, row + m) + column + j, grad, whole ? left - j : LANES);
        });
      });
      if (!want_x) return;
      for_tiles(rows, w_ih, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
        tile.set([](int, Index) { return Vec<R>{}; });
        tile.multiply(here.at(0, row), here.batch, panel, a.H);
        tile.use([&](int m, Index j, Vec<R> grad) {
          store_up_to(a.grad_x.at(t, begin + row + m) + column + j, grad, a.I - column - j);
        });
      });
    };

    // States before, and inputs of, the steps t0 ... t1 - 1, one row after the other.
    const auto gather = [&](Index t0, Index t1) {
      for (Index t = t0; t < t1; t++)
        for (Index row = 0; row < rows; row++) {
          const Index place = (t - t0) * rows + row;
          R* state = states.get() + place * stride;
          if (const R* before = a.before(t, begin + row))
            std::memcpy(state, before, a.H * sizeof(R));
          else
            std::memset(state, 0, a.H * sizeof(R));
          if (!a.x) continue;
          R* input = inputs.get() + place * a.I;
          if (a.ended(t, begin + row))  // whatever padding holds, NaN too, must not reach the sums
            std::memset(input, 0, a.I * sizeof(R));
          else
            std::memcpy(input, a.x.at(t, begin + row), a.I * sizeof(R));
        }
    };

    // to (columns of left, wide) += left' right, over `depth` rows.
    const auto add_product = [&](R* to, const R* left, Index left_stride, Index left_columns,
                                 const R* right, Index depth) {
      for_tiles(left_columns, w_hh, [&](Tile<R>& tile, Index row, const R*, Index column) {
        R* at = to + row * wide + column;
        product_for<R, true>(tile.M, tile.N)(at, wide, at, wide, left + row, left_stride, right + column,
                                              stride, depth);
      });
    };

    const auto add_to_sums = [&](Index depth) {
      if (!OWN) add_product(sum.recurrent(), grads.get(), stride, a.H, states.get(), depth);
      if (a.x) add_product(sum.input(), inputs.get(), a.I, a.I, grads.get(), depth);
      for (Index j = 0; j < wide; j += LANES) {
        Vec<R> plain = {}, weighted = {};
        for (Index row = 0; row < depth; row++) {
          const Vec<R> grad = load(grads.get() + row * stride + j);
          plain += grad;
          if (OWN) weighted += grad * load(states.get() + row * stride + j);
        }
        store<R>(sum.bias() + j, load(sum.bias() + j) + plain);
        if (OWN) store<R>(sum.recurrent() + j, load(sum.recurrent() + j) + weighted);
      }
    };

    for (Index t1 = a.T; t1 > 0;) {
      const Index t0 = std::max<Index>(0, t1 - steps);
      // The gradient of step t: in the block's buffer, or where the caller wants all of them. The
      // step after the block is kept behind the block.
      const auto gradient = [&](Index t) {
        if (whole) return Sequence<R>{a.grad_pre.at(t, begin), 0, a.grad_pre.batch};
        const Index place = t < t1 ? t - t0 : steps;
        return Sequence<R>{grads.get() + place * rows * stride, 0, stride};
      };
      if (!whole && t1 < a.T)
        std::memmove(gradient(t1).start, grads.get(), rows * stride * sizeof(R));
      for (Index t = t1 - 1; t >= t0; t--)
        one_step(t, gradient(t), t + 1 < a.T ? gradient(t + 1) : Sequence<R>{nullptr, 0, 0});
      if (want_w) {
        gather(t0, t1);
        add_to_sums((t1 - t0) * rows);
      }
      t1 = t0;
    }

    if (!a.grad_h0) return;
    const Sequence<R> first = whole ? Sequence<R>{a.grad_pre.at(0, begin), 0, a.grad_pre.batch}
                                    : Sequence<R>{grads.get(), 0, stride};
    for_tiles(rows, w_hh, [&](Tile<R>& tile, Index row, const R* panel, Index column) {
      const Index left = a.H - column;
      tile.set([&](int m, Index j) {
        if (!OWN) return Vec<R>{};
        return load(u.get() + column + j) * load_up_to(first.at(0, row + m) + column + j, left - j);
      });
      if (!OWN) tile.multiply(first.at(0, row), first.batch, panel, a.H);
      tile.use([&](int m, Index j, Vec<R> grad) {
        store_up_to(a.grad_h0 + (begin + row + m) * a.H + column + j, grad, left - j);
      });
    });
  });

  if (failed) return 1;
  if (!want_w) return 0;
  const auto total = [&](auto place) {
    R sum = 0;
    for (auto& one : sums) sum += *place(one);
    return sum;
  };
  for (Index i = 0; i < (OWN ? 1 : a.H); i++)
    for (Index j = 0; j < a.H; j++)
      a.grad_w_hh[i * a.H + j] = total([&](auto& one) { return one.recurrent(i) + j; });
  for (Index j = 0; j < a.H; j++) {
    a.grad_bias[j] = total([&](auto& one) { return one.bias() + j; });
    for (Index i = 0; a.x && i < a.I; i++)
      a.grad_w_ih[j * a.I + i] = total([&](auto& one) { return one.input(i) + j; });
  }
  return 0;
}

}  // namespace
