// What the operators of the attention link take besides a lookup's tensors, on either device.
#pragma once

#include <string>
#include <utility>

#include "common/attention.h"
#include "ops/tensors.h"

namespace resemb {

// Which gradients a backward gives.
struct Needs {
  bool central, residual, attention, sample_weights;

  bool columns() const { return central || attention; }
  bool rows() const { return columns() || residual; }
};

// The link's parameters, checked and contiguous.
struct AttentionInputs {
  OptionalTensor a_src, a_dst, b, seed;

  // dense(tensor, name): contiguous on the lookup's device, or an error.
  template <class Dense>
  Attention take(const Dense& dense, const Tensor& a_src_in, const Tensor& a_dst_in, const Tensor& b_in,
                 double dropout, const OptionalTensor& seed_in, int64_t dim, ScalarType acc) {
    a_src = dense(a_src_in, "a_src");
    a_dst = dense(a_dst_in, "a_dst");
    b = dense(b_in, "b");
    const std::string columns = "[" + std::to_string(dim) + "]";
    check_shape(a_src->dim() == 1 && a_src->size(0) == dim, "a_src", *a_src, columns);
    check_shape(a_dst->dim() == 1 && a_dst->size(0) == dim, "a_dst", *a_dst, columns);
    check_shape(b->dim() == 1 && b->size(0) >= 1 && dim >= 1 && dim % b->size(0) == 0, "b", *b,
                "[heads], heads a divisor of D = " + std::to_string(dim));
    for (const auto& [tensor, name] : {std::pair{&a_src, "a_src"}, {&a_dst, "a_dst"}, {&b, "b"}}) {
      if ((*tensor)->scalar_type() != acc) {
        fail_value(std::string(name) + ": expected dtype " + torch::headeronly::toString(acc));
      }
    }
    if (!(dropout >= 0 && dropout < 1)) {
      fail_value("dropout: found " + std::to_string(dropout) + "; expected one in [0, 1)");
    }
    if (dropout > 0) {
      if (!seed_in.has_value()) fail_value("seed: missing; dropout needs one");
      seed = dense(*seed_in, "seed");
      check_shape(seed->numel() == 1, "seed", *seed, "[1]");
      if (seed->scalar_type() != ScalarType::Long) fail_value("seed: expected dtype int64");
    }
    return {b->size(0),
            a_src->const_data_ptr(),
            a_dst->const_data_ptr(),
            b->const_data_ptr(),
            dropout,
            seed.has_value() ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr};
  }
};

template <class Result, class Own>
Own taken_by(Result (*)(const Own&));

// The operators of backward, with the schema's arguments: `place` takes a device's AttentionBackward, which
// they make, and puts the tables' gradients where they go.
template <auto place>
auto attention_backward(const Tensor& grad, const Tensor& plan, const Tensor& central,
                        const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors,
                        const Tensor& log_weights, const Tensor& a_src, const Tensor& a_dst,
                        const Tensor& b_in, const OptionalTensor& seed, const OptionalTensor& offsets,
                        const OptionalTensor& sample_weights, bool mean, double dropout, bool need_central,
                        bool need_residual, bool need_attention, bool need_sample_weights) {
  using Own = decltype(taken_by(place));
  return place(Own(grad, plan, central, residual, indptr, neighbors, log_weights, a_src, a_dst, b_in, seed,
                   offsets, sample_weights, mean, dropout,
                   {need_central, need_residual, need_attention, need_sample_weights}));
}

}  // namespace resemb
