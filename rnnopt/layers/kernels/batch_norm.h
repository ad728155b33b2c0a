// Batch normalisation over time and batch, and dropout shared over time.
#pragma once

#include "simd.h"

namespace {

template <typename R>
struct BatchNorm {
  Index T, B, H;
  int threads;
  R eps;
  const R *x;                // (T, B, H)
  const R *gain, *shift;     // (H); null: 1 and 0
  const R *mask;             // (B, H); null: all 1
  R *mean, *scale;           // (H): of x, and 1 / sqrt(variance + eps)
  R *variance;               // (H), not corrected for the sample; forward alone
  R *y;                      // (T, B, H); forward alone
  // Backward alone.
  const R* grad_y;
  R *grad_x, *grad_gain, *grad_shift;
};

// Calls f(row of the batch, offset of the row) for the rows begin ... end of (T * B) rows.
template <class F>
INLINE void for_rows(Index begin, Index end, Index B, Index H, F f) {
  for (Index row = begin; row < end; row++) f(row % B, row * H);
}

constexpr Index BLOCK_ROWS = 32;  // rows whose sums are kept in R before they join sums in double

template <typename R>
int batch_norm_forward(const BatchNorm<R>& a) {
  const Index rows = a.T * a.B;
  struct Moments {
    double count = 0;
    std::vector<double> mean, squares;
  };
  std::vector<Moments> all(a.threads);
  for (auto& one : all) one.mean.assign(a.H, 0), one.squares.assign(a.H, 0);
  const Buffer<R> scratch(2 * a.H * a.threads);
  if (!scratch.get()) return 1;
  // Mean and squared deviations of a block of rows are exact to rounding; blocks are then joined
  // (Chan et al.), so that a mean far from zero costs no accuracy.
  in_shards(rows, a.threads, [&](int shard, Index begin, Index end) {
    R* sum = scratch.get() + 2 * a.H * shard;
    R* squares = sum + a.H;
    Moments& moments = all[shard];
    for (Index first = begin; first < end; first += BLOCK_ROWS) {
      const Index last = std::min(end, first + BLOCK_ROWS);
      const R inverse = R(1) / R(last - first);
      for_vectors<R>(a.H, [&](Index j, auto part) {
        Vec<R> total = {}, deviation = {};
        for (Index row = first; row < last; row++) total += part.load(a.x + row * a.H + j);
        total = total * inverse;
        for (Index row = first; row < last; row++) {
          const Vec<R> d = part.load(a.x + row * a.H + j) - total;
          deviation += d * d;
        }
        part.store(sum + j, total);
        part.store(squares + j, deviation);
      });
      const double count = double(last - first), joined = moments.count + count;
      for (Index j = 0; j < a.H; j++) {
        const double delta = sum[j] - moments.mean[j];
        moments.mean[j] += delta * count / joined;
        moments.squares[j] += squares[j] + delta * delta * moments.count * count / joined;
      }
      moments.count = joined;
    }
  });
  for (Index j = 0; j < a.H; j++) {
    double count = 0, mean = 0, squares = 0;
    for (const auto& one : all) {
      if (one.count == 0) continue;
      const double delta = one.mean[j] - mean, joined = count + one.count;
      mean += delta * one.count / joined;
      squares += one.squares[j] + delta * delta * count * one.count / joined;
      count = joined;
    }
    a.mean[j] = (R)mean;
    a.variance[j] = (R)(squares / count);
    a.scale[j] = (R)(1 / std::sqrt(squares / count + double(a.eps)));
  }
  in_shards(rows, a.threads, [&](int, Index begin, Index end) {
    for_rows(begin, end, a.B, a.H, [&](Index sample, Index at) {
      for_vectors<R>(a.H, [&](Index j, auto part) {
        Vec<R> value = (part.load(a.x + at + j) - part.load(a.mean + j)) * part.load(a.scale + j);
        if (a.gain) value = value * part.load(a.gain + j);
        if (a.shift) value += part.load(a.shift + j);
        if (a.mask) value = value * part.load(a.mask + sample * a.H + j);
        part.store(a.y + at + j, value);
      });
    });
  });
  return 0;
}

template <typename R>
int batch_norm_backward(const BatchNorm<R>& a) {
  const Index rows = a.T * a.B;
  std::vector<std::vector<double>> sums(a.threads, std::vector<double>(2 * a.H, 0.0));
  const Buffer<R> scratch(2 * a.H * std::max(a.threads, 2));
  if (!scratch.get()) return 1;
  in_shards(rows, a.threads, [&](int shard, Index begin, Index end) {
    R* block = scratch.get() + 2 * a.H * shard;
    for (Index first = begin; first < end; first += BLOCK_ROWS) {
      const Index last = std::min(end, first + BLOCK_ROWS);
      for_vectors<R>(a.H, [&](Index j, auto part) {
        const Vec<R> mean = part.load(a.mean + j), scale = part.load(a.scale + j);
        Vec<R> plain = {}, weighted = {};
        for_rows(first, last, a.B, a.H, [&](Index sample, Index at) {
          Vec<R> grad = part.load(a.grad_y + at + j);
          if (a.mask) grad = grad * part.load(a.mask + sample * a.H + j);
          plain += grad;
          weighted += grad * ((part.load(a.x + at + j) - mean) * scale);
        });
        part.store(block + j, plain);
        part.store(block + a.H + j, weighted);
      });
      for (Index j = 0; j < 2 * a.H; j++) sums[shard][j] += block[j];
    }
  });
  R* mean_plain = scratch.get();
  R* mean_weighted = mean_plain + a.H;
  for (Index j = 0; j < a.H; j++) {
    double plain = 0, weighted = 0;
    for (const auto& one : sums) plain += one[j], weighted += one[a.H + j];
    a.grad_shift[j] = (R)plain;
    a.grad_gain[j] = (R)weighted;
    mean_plain[j] = (R)(plain / double(rows));
    mean_weighted[j] = (R)(weighted / double(rows));
  }
  in_shards(rows, a.threads, [&](int, Index begin, Index end) {
    for_rows(begin, end, a.B, a.H, [&](Index sample, Index at) {
      for_vectors<R>(a.H, [&](Index j, auto part) {
        const Vec<R> scale = part.load(a.scale + j);
        Vec<R> grad = part.load(a.grad_y + at + j);
        if (a.mask) grad = grad * part.load(a.mask + sample * a.H + j);
        const Vec<R> normal = (part.load(a.x + at + j) - part.load(a.mean + j)) * scale;
        grad = grad - part.load(mean_plain + j) - normal * part.load(mean_weighted + j);
        grad = grad * (a.gain ? scale * part.load(a.gain + j) : scale);
        part.store(a.grad_x + at + j, grad);
      });
    });
  });
  return 0;
}

}  // namespace
