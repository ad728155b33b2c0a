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

// Mean and squared deviations of each unit. Those of a block of rows are exact to rounding; blocks are
// then joined (Chan et al.), so that a mean far from zero costs no accuracy.
template <typename R>
struct Moments {
  Index H;
  double count = 0;
  std::vector<double> mean, squares;
  std::vector<R> sum, deviation;  // of one block
  explicit Moments(Index H) : H(H), mean(H), squares(H), sum(H), deviation(H) {}

  // Rows one behind the other.
  void add(const R* x, Index rows) {
    for (Index first = 0; first < rows; first += BLOCK_ROWS)
      add_block(x + first * H, std::min(BLOCK_ROWS, rows - first));
  }
  void add_block(const R* x, Index rows) {
    const R inverse = R(1) / R(rows);
    for_vectors<R>(H, [&](Index j, auto part) {
      Vec<R> total = {}, squared = {};
      for (Index row = 0; row < rows; row++) total += part.load(x + row * H + j);
      total = total * inverse;
      for (Index row = 0; row < rows; row++) {
        const Vec<R> d = part.load(x + row * H + j) - total;
        squared += d * d;
      }
      part.store(sum.data() + j, total);
      part.store(deviation.data() + j, squared);
    });
    const double more = double(rows), joined = count + more;
    const double share = more / joined, weight = count * more / joined;
    for (Index j = 0; j < H; j++) {
      const double delta = sum[j] - mean[j];
      mean[j] += delta * share;
      squares[j] += deviation[j] + delta * delta * weight;
    }
    count = joined;
  }
  void join(const Moments& other) {
    if (other.count == 0) return;
    const double joined = count + other.count;
    for (Index j = 0; j < H; j++) {
      const double delta = other.mean[j] - mean[j];
      mean[j] += delta * other.count / joined;
      squares[j] += other.squares[j] + delta * delta * count * other.count / joined;
    }
    count = joined;
  }
};

// Joins the moments of all shards in their order; sets mean, variance and 1 / sqrt(variance + eps).
template <typename R>
void set_statistics(const std::vector<Moments<R>>& shards, R eps, R* mean, R* variance, R* scale) {
  Moments<R> total(shards[0].H);
  for (const auto& one : shards) total.join(one);
  for (Index j = 0; j < total.H; j++) {
    const double divided = total.squares[j] / total.count;
    mean[j] = (R)total.mean[j];
    variance[j] = (R)divided;
    scale[j] = (R)(1 / std::sqrt(divided + double(eps)));
  }
}

template <typename R>
int batch_norm_forward(const BatchNorm<R>& a) {
  const Index rows = a.T * a.B;
  std::vector<Moments<R>> moments(a.threads, Moments<R>(a.H));
  in_shards(rows, a.threads, [&](int shard, Index begin, Index end) {
    moments[shard].add(a.x + begin * a.H, end - begin);
  });
  set_statistics(moments, a.eps, a.mean, a.variance, a.scale);
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
