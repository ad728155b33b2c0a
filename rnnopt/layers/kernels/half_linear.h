// z = x W' over all rows, in bfloat16 summed in single precision, and its gradients: for layers whose
// recurrence is a kernel of its own.
#pragma once

#include "layer_products.h"

namespace {

struct HalfLinear {
  Index rows, I, H;
  int threads;
  const float *x, *w;  // (rows, I), (H, I)
  float* z;            // (rows, H)
  // Backward alone.
  const float* e;          // (rows, H): gradient of z
  float *grad_x, *grad_w;  // like x, null where not wanted, and w
};

constexpr Index LINEAR_ROWS = 256;  // of a chunk, which stays in the cache

// Copies rows of `columns` numbers to other strides.
inline void copy_rows(float* to, Index stride_to, const float* from, Index stride_from, Index rows, Index columns) {
  for (Index row = 0; row < rows; row++)
    std::memcpy(to + row * stride_to, from + row * stride_from, columns * sizeof(float));
}

inline int half_linear(const HalfLinear& a) {
  const HalfProducts products(a.w, a.I, a.H, Pass::FORWARD);
  if (!products) return 1;
  std::atomic<bool> failed = false;
  in_shards(a.rows, a.threads, [&](int, Index begin, Index end) {
    const Index stride = chunk_stride<float>(a.H);
    HalfProducts::Room room(products, LINEAR_ROWS);
    const Buffer<float> z(LINEAR_ROWS * stride);
    if (!room || !z.get()) {
      failed = true;
      return;
    }
    Ahead ahead;
    for (Index row = begin; row < end; row += LINEAR_ROWS) {
      const Index rows = std::min(LINEAR_ROWS, end - row);
      products.up(z.get(), stride, a.x + row * a.I, a.I, rows, room, ahead);
      copy_rows(a.z + row * a.H, a.H, z.get(), stride, rows, a.H);
    }
  });
  return failed;
}

inline int half_linear_backward(const HalfLinear& a) {
  const HalfProducts products(a.w, a.I, a.H, a.grad_x ? Pass::BACKWARD : Pass::BACKWARD_WITHOUT_INPUTS);
  const Index wide = chunk_stride<float>(a.H), narrow = chunk_stride<float>(a.I);
  if (!products) return 1;
  std::vector<Buffer<float>> sums;
  for (int i = 0; i < a.threads; i++) {
    sums.emplace_back(a.I * wide);
    if (!sums.back().get()) return 1;
  }
  std::atomic<bool> failed = false;
  in_shards(a.rows, a.threads, [&](int shard, Index begin, Index end) {
    HalfProducts::Room room(products, LINEAR_ROWS);
    const Buffer<float> d(LINEAR_ROWS * narrow);
    if (!room || !d.get()) {
      failed = true;
      return;
    }
    Ahead ahead;
    for (Index row = begin; row < end; row += LINEAR_ROWS) {
      const Index rows = std::min(LINEAR_ROWS, end - row);
      const float* e = a.e + row * a.H;
      products.add(sums[shard].get(), wide, a.x + row * a.I, a.I, e, a.H, rows, room, ahead);
      if (!a.grad_x) continue;
      products.down(d.get(), narrow, e, a.H, rows, room, ahead);
      copy_rows(a.grad_x + row * a.I, a.I, d.get(), narrow, rows, a.I);
    }
  });
  if (failed) return 1;
  for (Index j = 0; j < a.H; j++)
    for (Index i = 0; i < a.I; i++) {
      float total = 0;
      for (const auto& one : sums) total += one.get()[i * wide + j];
      a.grad_w[j * a.I + i] = total;
    }
  return 0;
}

}  // namespace
