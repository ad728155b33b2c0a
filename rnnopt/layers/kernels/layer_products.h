// A layer's three products over a chunk of rows, in the numbers' own precision or in bfloat16:
//
//     up      z = x W'        forward
//     down    d = e W         backward, to the inputs
//     add     G += x' e       backward, to the weights; G is the transpose of W's gradient
//
// x (rows, inputs) and e, z (rows, H) have rows of whole vectors (chunk_stride).
#pragma once

#include "product_bf16.h"

namespace {

// What a layer's products are for: room and packed weights are only made for these.
enum class Pass { FORWARD, BACKWARD, BACKWARD_WITHOUT_INPUTS };

template <typename R>
struct FullProducts {
  Index inputs;
  Panels<R> w, cut;  // W' forward, W backward; how H columns are cut
  FullProducts(const R* weights, Index inputs, Index H, Pass pass)
      : inputs(inputs),
        w(weights, pass == Pass::FORWARD ? inputs : H,
          pass == Pass::FORWARD ? H : pass == Pass::BACKWARD ? inputs : 0,
          pass == Pass::FORWARD ? 1 : inputs, pass == Pass::FORWARD ? inputs : 1),
        cut(weights, 0, H, 1, 1) {}
  explicit operator bool() const { return w.packed && cut.packed; }

  // A thread's own.
  struct Room {
    Room(const FullProducts&, Index) {}
    explicit operator bool() const { return true; }
  };
  void up(R* z, Index stride_z, const R* x, Index stride_x, Index rows, Room&, Ahead& ahead) const {
    multiply_chunk(z, stride_z, x, stride_x, rows, w, ahead);
  }
  void add(R* G, Index stride_G, const R* x, Index stride_x, const R* e, Index stride_e, Index rows, Room&,
           Ahead& ahead) const {
    add_chunk_product(G, stride_G, x, stride_x, inputs, e, stride_e, cut, rows, ahead);
  }
  void down(R* d, Index stride_d, const R* e, Index stride_e, Index rows, Room&, Ahead& ahead) const {
    multiply_chunk(d, stride_d, e, stride_e, rows, w, ahead);
  }
};

struct HalfProducts {
  Index inputs, H;
  Pass pass;
  HalfMatrix w;
  HalfProducts(const float* weights, Index inputs, Index H, Pass pass)
      : inputs(inputs), H(H), pass(pass),
        w(weights, pass == Pass::FORWARD ? inputs : H,
          pass == Pass::FORWARD ? H : pass == Pass::BACKWARD ? inputs : 0,
          pass == Pass::FORWARD ? 1 : inputs, pass == Pass::FORWARD ? inputs : 1) {}
  explicit operator bool() const { return w.pairs.get(); }

  struct Room {
    Index row_stride, turned_stride, pair_stride;
    Buffer<Half> rows, turned;
    Buffer<uint32_t> pairs;
    Room(const HalfProducts& of, Index count)
        : row_stride(half_depth(of.w.rows)), turned_stride(half_depth(count) + HALF_DEPTH),
          pair_stride((of.H + 15) / 16 * 16), rows(half_count(count) * row_stride),
          turned(of.pass == Pass::FORWARD ? 0 : half_count(of.inputs) * turned_stride),
          pairs(of.pass == Pass::FORWARD ? 0 : half_depth(count) / 2 * pair_stride) {}
    explicit operator bool() const { return rows.get() && turned.get() && pairs.get(); }
  };
  void up(float* z, Index stride_z, const float* x, Index stride_x, Index rows, Room& room, Ahead& ahead) const {
    half_rows(room.rows.get(), room.row_stride, x, stride_x, rows, w.rows);
    multiply_half(z, stride_z, room.rows.get(), room.row_stride, rows, w.part(), true, ahead);
  }
  void add(float* G, Index stride_G, const float* x, Index stride_x, const float* e, Index stride_e, Index rows,
           Room& room, Ahead& ahead) const {
    half_turned(room.turned.get(), room.turned_stride, x, stride_x, rows, inputs);
    half_pairs(room.pairs.get(), room.pair_stride, e, stride_e, rows, H);
    const HalfPart right{room.pairs.get(), room.pair_stride, half_depth(rows), room.pair_stride / 16};
    multiply_half(G, stride_G, room.turned.get(), room.turned_stride, inputs, right, false, ahead);
  }
  void down(float* d, Index stride_d, const float* e, Index stride_e, Index rows, Room& room, Ahead& ahead) const {
    up(d, stride_d, e, stride_e, rows, room, ahead);
  }
};

}  // namespace
