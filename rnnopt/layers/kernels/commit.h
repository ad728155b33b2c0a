// A plain commit of FrankWolfe: decay, step, mean of weights. What it computes is written out in
// rnnopt/optimizers/frank_wolfe/commit_kernel.py.
#pragma once

#include "simd.h"

namespace {

template <typename R>
struct Commit {
  R *weight, *average, *written;  // of `size` entries; null where there is none
  const R *step, *start_size;     // start_size of one entry, null without decay of growth
  Index size;
};

// How commits are taken: numbers common to all tensors.
template <typename R>
struct Pace {
  R growth, shrink, length, newest;
  bool first;  // the mean so far counts nothing
};

// The part of the weights that is taken back for what noise added to their norm.
template <typename R>
R noise_in(const Commit<R>& a, const Pace<R>& pace) {
  Vec<R> weights = {}, steps = {};
  for_vectors<R>(a.size, [&](Index i, auto part) {
    const Vec<R> w = part.load(a.weight + i), s = part.load(a.step + i);
    weights += w * w, steps += s * s;
  });
  R weight2 = 0, step2 = 0;
  for (int lane = 0; lane < Simd<R>::LANES; lane++) weight2 += weights[lane], step2 += steps[lane];
  const R excess = 1 - *a.start_size * *a.start_size / weight2;
  const R rate = std::min(R(0.5), pace.growth * (step2 / weight2)) * std::max(R(0), excess);
  return std::isfinite(rate) && step2 == step2 ? rate : R(0);
}

template <typename R>
void commit_one(const Commit<R>& a, const Pace<R>& pace) {
  const R kept = a.start_size ? 1 - noise_in(a, pace) : R(1), shrink = pace.shrink;
  for_vectors<R>(a.size, [&](Index i, auto part) {
    const Vec<R> w = part.load(a.weight + i) * kept * shrink + pace.length * part.load(a.step + i);
    part.store(a.weight + i, w);
    if (a.written) part.store(a.written + i, w);
    if (!a.average) return;
    const Vec<R> mean = part.load(a.average + i);
    // The form that is exact at the nearer end, as torch's lerp.
    const Vec<R> next = pace.newest < R(0.5) ? mean + pace.newest * (w - mean) : w - (w - mean) * (1 - pace.newest);
    part.store(a.average + i, pace.first ? w : next);
  });
}

}  // namespace
