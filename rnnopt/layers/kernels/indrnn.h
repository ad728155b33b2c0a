// The IndRNN recurrence: elementwise, so its cost is reading and writing memory once.
#pragma once

#include "simd.h"

namespace {

template <typename R>
struct IndRNN {
  Index T, B, H;
  int threads;
  Sequence<const R> z;
  const R* u;                  // (H)
  const R* h0;                 // (B, H); null: zeros
  const int64_t* lengths;      // null: all T
  Sequence<R> out;
  // Backward alone.
  Sequence<const R> grad_out;  // null: zeros
  const R* grad_hn;            // null: zeros
  Sequence<R> grad_z;
  R *grad_u, *grad_h0;         // (units), (B, H)
  Index units;                 // H, unless rows that lie end to end have been made one row
};

template <typename R, int ACT>
int indrnn_forward(const IndRNN<R>& a) {
  in_shards(a.B * a.H, a.threads, [&](int, Index begin, Index end) {
    for (Index t = 0; t < a.T; t++)
      for (Index c = begin; c < end;) {
        // As much of one row as falls into the shard.
        const Index row = c / a.H, column = c % a.H;
        const Index count = std::min(a.H - column, end - c);
        const R* z = a.z.at(t, row) + column;
        const R* u = a.u + column;
        const R* previous = t ? a.out.at(t - 1, row) + column : a.h0 ? a.h0 + c : nullptr;
        R* to = a.out.at(t, row) + column;
        if (a.lengths && t >= a.lengths[row]) {
          std::memset(to, 0, count * sizeof(R));
        } else {
          for_vectors<R>(count, [&](Index j, auto part) {
            Vec<R> h = part.load(z + j);
            if (previous) h += part.load(u + j) * part.load(previous + j);
            part.store(to + j, activate<R, ACT>(h));
          });
        }
        c += count;
      }
  });
  return 0;
}

template <typename R, int ACT>
int indrnn_backward(const IndRNN<R>& a) {
  // du of every (sample, unit); added over the samples afterwards, always in the same order.
  const Buffer<R> sums(a.B * a.H);
  if (!sums.get()) return 1;
  in_shards(a.B * a.H, a.threads, [&](int, Index begin, Index end) {
    for (Index t = a.T - 1; t >= 0; t--)
      for (Index c = begin; c < end;) {
        const Index row = c / a.H, column = c % a.H;
        const Index count = std::min(a.H - column, end - c);
        const R* u = a.u + column;
        const R* state = a.out.at(t, row) + column;
        const R* previous = t ? a.out.at(t - 1, row) + column : a.h0 ? a.h0 + c : nullptr;
        const R* grad = a.grad_out ? a.grad_out.at(t, row) + column : nullptr;
        const Index last = a.lengths ? a.lengths[row] - 1 : a.T - 1;
        const R* grad_hn = a.grad_hn && t == last ? a.grad_hn + c : nullptr;
        const R* after = t + 1 < a.T ? a.grad_z.at(t + 1, row) + column : nullptr;
        R* to = a.grad_z.at(t, row) + column;
        R* sum = sums.get() + c;
        if (t > last) {
          std::memset(to, 0, count * sizeof(R));
        } else {
          for_vectors<R>(count, [&](Index j, auto part) {
            Vec<R> e = {};
            if (grad) e = part.load(grad + j);
            if (grad_hn) e += part.load(grad_hn + j);
            if (after) e += part.load(u + j) * part.load(after + j);
            e = through<R, ACT>(e, part.load(state + j));
            part.store(to + j, e);
            if (previous) part.store(sum + j, part.load(sum + j) + e * part.load(previous + j));
          });
        }
        c += count;
      }
  });
  for (Index j = 0; a.grad_u && j < a.units; j++) {
    double total = 0;
    for (Index c = j; c < a.B * a.H; c += a.units) total += sums.get()[c];
    a.grad_u[j] = (R)total;
  }
  for (Index c = 0; a.grad_h0 && c < a.B * a.H; c++)
    a.grad_h0[c] = a.u[c % a.H] * a.grad_z.at(0, c / a.H)[c % a.H];
  return 0;
}

}  // namespace
