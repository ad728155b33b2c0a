// The CPU kernels' C interface. Plain C++20 with GCC and Clang vector types: nothing of torch or
// Python is included, so one build serves every version of both. What the functions compute is
// written out in elman.py, lstm.py, gru.py, indrnn.py, indrnn_stack.py, batch_norm.py, stream.py, and in
// learnt_kernel.py, commit_kernel.py and polar_kernel.py of optimizers/frank_wolfe.

#include "batch_norm.h"
#include "commit.h"
#include "elman.h"
#include "gated_backward.h"
#include "gated_forward.h"
#include "half_backward.h"
#include "half_forward.h"
#include "half_linear.h"
#include "indrnn.h"
#include "indrnn_stack_backward.h"
#include "polar.h"
#include "stream.h"

namespace {

template <typename R>
Sequence<R> sequence(const void* start, int64_t time, int64_t batch) {
  return {(R*)const_cast<void*>(start), (Index)time, (Index)batch};
}

// For a dense array that is about to be written; backwards in time it starts at its last step.
template <typename R>
void large_pages(const Sequence<R>& array, Index steps, Index batch, Index size) {
  R* lowest = array.start + std::min<Index>(0, (steps - 1) * array.time);
  use_large_pages(lowest, sizeof(R) * steps * batch * size);
}

// `numbers` and `p` are as elman.py, indrnn.py and batch_norm.py lay them out; 0 is done, 1 is out of
// memory.
template <typename R>
Gated<R> as_gated(const Elman<R>& a) {
  Gated<R> b{};
  b.T = a.T, b.B = a.B, b.I = a.I, b.H = a.H, b.threads = a.threads;  // its places are in the order of time
  b.x = a.x, b.w_ih = a.w_ih, b.w_hh = a.w_hh, b.b_ih = a.b_ih, b.b_hh = a.b_hh, b.h0 = a.h0;
  b.lengths = a.lengths, b.out = a.out;
  b.grad_out = a.grad_out, b.grad_hn = a.grad_hn, b.grad_x = a.grad_x;
  b.grad_w_ih = a.grad_w_ih, b.grad_w_hh = a.grad_w_hh, b.grad_b_ih = a.grad_bias, b.grad_h0 = a.grad_h0;
  return b;
}

template <typename R, bool OWN>
int elman_layer(const int64_t* numbers, const void* const* p, bool backward) {
  using C = const R;
  Elman<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.I = numbers[2], a.H = numbers[3];
  a.threads = (int)std::max<int64_t>(1, std::min(numbers[4], numbers[1]));
  const bool relu = numbers[5] == RELU;
  a.x = sequence<C>(p[0], numbers[6], numbers[7]);
  a.w_ih = (C*)p[1], a.w_hh = (C*)p[2], a.b_ih = (C*)p[3], a.b_hh = (C*)p[4], a.h0 = (C*)p[5];
  a.lengths = (const int64_t*)p[6];
  a.out = sequence<R>(p[7], numbers[8], numbers[9]);
  if (!backward) {
    large_pages(a.out, a.T, a.B, a.H);
    if constexpr (sizeof(R) == 4 && !OWN && HAVE_HALF)
      if (numbers[10]) return relu ? half_forward<HalfCell::RELU>(as_gated(a)) : half_forward<HalfCell::TANH>(as_gated(a));
    return relu ? elman_forward<R, RELU, OWN>(a) : elman_forward<R, TANH, OWN>(a);
  }
  a.grad_out = sequence<C>(p[8], numbers[10], numbers[11]);
  a.grad_hn = (C*)p[9];
  a.grad_x = sequence<R>(p[10], numbers[12], numbers[13]);
  a.grad_pre = sequence<R>(p[11], numbers[14], numbers[15]);
  a.grad_w_ih = (R*)p[12], a.grad_w_hh = (R*)p[13], a.grad_bias = (R*)p[14], a.grad_h0 = (R*)p[15];
  if (a.grad_x) large_pages(a.grad_x, a.T, a.B, a.I);
  if (a.grad_pre) large_pages(a.grad_pre, a.T, a.B, a.H);
  if constexpr (sizeof(R) == 4 && !OWN && HAVE_HALF)
    if (numbers[16]) return relu ? half_backward<HalfCell::RELU>(as_gated(a)) : half_backward<HalfCell::TANH>(as_gated(a));
  return relu ? elman_backward<R, RELU, OWN>(a) : elman_backward<R, TANH, OWN>(a);
}

template <typename R>
int elman(const int64_t* numbers, const void* const* p, bool backward) {
  return elman_layer<R, false>(numbers, p, backward);
}

template <typename R>
int indrnn_layer(const int64_t* numbers, const void* const* p, bool backward) {
  return elman_layer<R, true>(numbers, p, backward);
}

template <typename R>
int indrnn(const int64_t* numbers, const void* const* p, bool backward) {
  using C = const R;
  IndRNN<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.H = numbers[2];
  a.threads = (int)std::max<int64_t>(1, numbers[3]);
  const bool relu = numbers[4] == RELU;
  a.z = sequence<C>(p[0], numbers[5], numbers[6]);
  a.u = (C*)p[1], a.h0 = (C*)p[2], a.lengths = (const int64_t*)p[3];
  a.out = sequence<R>(p[4], numbers[7], numbers[8]);
  a.units = a.H;
  if (backward) {
    a.grad_out = sequence<C>(p[5], numbers[9], numbers[10]);
    a.grad_hn = (C*)p[6];
    a.grad_z = sequence<R>(p[7], numbers[11], numbers[12]);
    a.grad_u = (R*)p[8], a.grad_h0 = (R*)p[9];
  }
  const auto dense = [&](auto& one) { return !one || one.batch == a.H; };
  const bool one_row = !a.lengths && dense(a.z) && dense(a.out) && dense(a.grad_out) && dense(a.grad_z);
  const Buffer<R> all_u(one_row ? a.B * a.H : 0);
  if (!all_u.get()) return 1;
  if (one_row) {
    for (Index c = 0; c < a.B * a.H; c++) all_u.get()[c] = a.u[c % a.H];
    a.u = all_u.get(), a.H *= a.B, a.B = 1;
  }
  if (!backward) {
    use_large_pages(a.out.start, sizeof(R) * a.T * a.B * a.H);
    return relu ? indrnn_forward<R, RELU>(a) : indrnn_forward<R, TANH>(a);
  }
  use_large_pages(a.grad_z.start, sizeof(R) * a.T * a.B * a.H);
  return relu ? indrnn_backward<R, RELU>(a) : indrnn_backward<R, TANH>(a);
}

template <typename R, bool LSTM>
int gated_layer(const int64_t* numbers, const void* const* p, bool backward) {
  using C = const R;
  Gated<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.I = numbers[2], a.H = numbers[3];
  a.threads = (int)std::max<int64_t>(1, std::min(numbers[4], numbers[1]));
  a.reverse = numbers[5];
  a.x = sequence<C>(p[0], numbers[6], numbers[7]);
  a.w_ih = (C*)p[1], a.w_hh = (C*)p[2], a.b_ih = (C*)p[3], a.b_hh = (C*)p[4];
  a.h0 = (C*)p[5], a.c0 = (C*)p[6], a.lengths = (const int64_t*)p[7];
  a.out = sequence<R>(p[8], numbers[8], numbers[9]);
  a.saved = (R*)const_cast<void*>(p[9]);
  if (!backward) {
    a.hn = (R*)const_cast<void*>(p[10]), a.cn = (R*)const_cast<void*>(p[11]);
    large_pages(a.out, a.T, a.B, a.H);
    if (a.saved) use_large_pages(a.saved, sizeof(R) * a.T * a.B * a.H * SAVED<LSTM>);
    if constexpr (sizeof(R) == 4 && HAVE_HALF)
      if (numbers[10]) return half_forward<LSTM ? HalfCell::LSTM : HalfCell::GRU>(a);
    return gated_forward<R, LSTM>(a);
  }
  a.grad_out = sequence<C>(p[10], numbers[10], numbers[11]);
  a.grad_hn = (C*)p[11], a.grad_cn = (C*)p[12];
  a.grad_x = sequence<R>(p[13], numbers[12], numbers[13]);
  R** const grads[] = {&a.grad_w_ih, &a.grad_w_hh, &a.grad_b_ih, &a.grad_b_hh, &a.grad_h0, &a.grad_c0};
  for (int i = 0; i < 6; i++) *grads[i] = (R*)const_cast<void*>(p[14 + i]);
  if (a.grad_x) large_pages(a.grad_x, a.T, a.B, a.I);
  if constexpr (sizeof(R) == 4 && HAVE_HALF)
    if (numbers[14]) return half_backward<LSTM ? HalfCell::LSTM : HalfCell::GRU>(a);
  return gated_backward<R, LSTM>(a);
}

template <typename R>
int lstm(const int64_t* numbers, const void* const* p, bool backward) {
  return gated_layer<R, true>(numbers, p, backward);
}

template <typename R>
int gru(const int64_t* numbers, const void* const* p, bool backward) {
  return gated_layer<R, false>(numbers, p, backward);
}

template <typename R>
int batch_norm(const int64_t* numbers, const void* const* p, bool backward) {
  BatchNorm<R> a{};
  a.T = numbers[0], a.B = numbers[1], a.H = numbers[2];
  a.threads = (int)std::max<int64_t>(1, numbers[3]);
  a.x = (const R*)p[0], a.gain = (const R*)p[1], a.shift = (const R*)p[2], a.mask = (const R*)p[3];
  a.mean = (R*)p[4], a.scale = (R*)p[5];
  const size_t bytes = sizeof(R) * a.T * a.B * a.H;
  if (!backward) {
    a.variance = (R*)p[6], a.y = (R*)p[7], a.eps = *(const R*)p[8];
    use_large_pages(a.y, bytes);
    return batch_norm_forward(a);
  }
  a.grad_y = (const R*)p[6], a.grad_x = (R*)p[7], a.grad_gain = (R*)p[8], a.grad_shift = (R*)p[9];
  use_large_pages(a.grad_x, bytes);
  return batch_norm_backward(a);
}

template <typename R>
int indrnn_stack(const int64_t* numbers, const void* const* p, bool backward) {
  Stack<R> a{};
  const int64_t layers = numbers[0];
  a.T = numbers[1], a.B = numbers[2], a.I = numbers[3], a.H = numbers[4];
  a.threads = (int)std::max<int64_t>(1, std::min(numbers[5], numbers[2]));
  const bool relu = numbers[6] == RELU;
  a.kept = numbers[7];
  a.x = sequence<const R>(p[0], numbers[8], numbers[9]);
  a.h0 = (const R*)p[1], a.masks = (const R*)p[2], a.eps = *(const R*)p[3];
  R* const* tensors = (R* const*)p + 4;
  a.states = tensors[0], a.mean = tensors[1], a.scale = tensors[2], a.variance = tensors[3], a.y = tensors[4];
  a.grad_y = sequence<const R>(tensors[5], numbers[10], numbers[11]);
  a.grad_ends = tensors[6], a.grads = tensors[7], a.grad_x = tensors[8], a.grad_h0 = tensors[9];
  tensors += 10;
  for (int64_t k = 0; k < layers; k++, tensors += backward ? 10 : 5) {
    a.layers.push_back({tensors[0], tensors[1], tensors[2], tensors[3], tensors[4]});
    if (!backward) continue;
    StackLayer<R>& layer = a.layers.back();
    layer.grad_w = tensors[5], layer.grad_b = tensors[6], layer.grad_u = tensors[7];
    layer.grad_gain = tensors[8], layer.grad_shift = tensors[9];
  }
  const size_t bytes = sizeof(R) * a.T * a.B * a.H;
  use_large_pages(backward ? a.grads : a.states, backward ? bytes : layers * bytes);
  const auto run = [&]<class Products>(Products*) {
    if (!backward) return relu ? stack_forward<R, RELU, Products>(a) : stack_forward<R, TANH, Products>(a);
    return relu ? stack_backward<R, RELU, Products>(a) : stack_backward<R, TANH, Products>(a);
  };
  if constexpr (sizeof(R) == 4 && HAVE_HALF)
    if (numbers[12]) return run((HalfProducts*)nullptr);
  return run((FullProducts<R>*)nullptr);
}

// The products of all rows of a (time * batch) with a layer's weights, in bfloat16.
template <typename R>
int half_product(const int64_t* numbers, const void* const* p, bool backward) {
  if constexpr (sizeof(R) == 4 && HAVE_HALF) {
    HalfLinear a{};
    a.rows = numbers[0], a.I = numbers[1], a.H = numbers[2];
    a.threads = (int)std::max<int64_t>(1, numbers[3]);
    float* const* tensors = (float* const*)p;
    a.x = tensors[0], a.w = tensors[1], a.z = tensors[2];
    if (!backward) return half_linear(a);
    a.e = tensors[2], a.grad_x = tensors[3], a.grad_w = tensors[4];
    return half_linear_backward(a);
  }
  return 1;
}

template <typename R>
int learnt_ball(const int64_t* numbers, const void* const* p, bool) {
  LearntBall<R> a{};
  a.gates = numbers[0], a.n = numbers[1], a.k = numbers[2];
  a.learns_left = numbers[3], a.learns_right = numbers[4], a.turns = numbers[5];
  R* const* tensors = (R* const*)p;
  a.left = tensors[0], a.left_basis = tensors[1], a.right = tensors[2], a.right_basis = tensors[3];
  a.mean = tensors[4], a.squares = tensors[5], a.size2 = tensors[6], a.log_radius = tensors[7];
  const double* number = (const double*)p[8];
  for (R* one : {&a.old_seen, &a.size_seen, &a.size_beta, &a.keep, &a.momentum, &a.nesterov, &a.weight,
                 &a.rate, &a.seen, &a.beta, &a.clip, &a.floor, &a.largest, &a.shift, &a.scale})
    *one = (R)*number++;
  for (int64_t i = 0; i < numbers[6]; i++)
    a.members.push_back({tensors[9 + 3 * i], tensors[10 + 3 * i], tensors[11 + 3 * i], (Index)numbers[7 + i]});
  a.step();
  return 0;
}

template <typename R>
int commit(const int64_t* numbers, const void* const* p, bool) {
  const double* number = (const double*)p[0];
  const Pace<R> pace{(R)number[0], (R)number[1], (R)number[2], (R)number[3], number[4] != 0};
  R* const* tensors = (R* const*)p + 1;
  for (int64_t i = 0; i < numbers[0]; i++, tensors += 5)
    commit_one<R>({tensors[0], tensors[2], tensors[3], tensors[1], tensors[4], (Index)numbers[1 + i]}, pace);
  return 0;
}

template <typename R>
int polar(const int64_t* numbers, const void* const* p, bool) {
  const Index count = numbers[0], rows = numbers[1], columns = numbers[2];
  const Index n = std::min(rows, columns), k = std::max(rows, columns);
  const SmallIsZero guard;
  Workspace<R> space(Polar<R>::size(n, k));
  Polar<R> one(n, k, space);
  for (Index i = 0; i < count; i++)
    one((const R*)p[0] + i * n * k, (R*)const_cast<void*>(p[1]) + i * n * k, rows > columns,
        (const double*)p[2], numbers[3]);
  return 0;
}

// No exception may leave through the C interface.
template <class F>
int guarded(F f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

#define KERNEL(name)                                                                            \
  EXPORT int rnnopt_##name##_float32(const int64_t* numbers, const void* const* p, int backward) { \
    return guarded([&] { return name<float>(numbers, p, backward); });                                                   \
  }                                                                                              \
  EXPORT int rnnopt_##name##_float64(const int64_t* numbers, const void* const* p, int backward) { \
    return guarded([&] { return name<double>(numbers, p, backward); });                                                  \
  }
KERNEL(elman)
KERNEL(lstm)
KERNEL(gru)
KERNEL(indrnn)
KERNEL(indrnn_layer)
KERNEL(indrnn_stack)
KERNEL(half_product)
KERNEL(batch_norm)
KERNEL(learnt_ball)
KERNEL(commit)
KERNEL(polar)
KERNEL(stream)

// How bfloat16 products are computed here: 0 not at all, 1 by vectors, 2 by tiles.
EXPORT int rnnopt_half_kind() { return (int)half_kind(); }
// From now on at most this kind, for tests.
EXPORT void rnnopt_limit_half_kind(int kind) { half_limit = kind; }
