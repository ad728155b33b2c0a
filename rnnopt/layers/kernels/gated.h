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

}  // namespace
