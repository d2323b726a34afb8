// The tensors of a lookup and of its backward, checked, as backends take them.
#pragma once

#include <tuple>

#include "ops/call.h"

namespace resemb {

// The parameters of the attention link as the operators are given them.
struct AttentionArguments {
  const Tensor &a_src, &a_dst, &b;
  double dropout;
  const OptionalTensor& seed;
};

// What a lookup and its backward have in common, as the operators are given it.
struct LookupArguments {
  const OptionalTensor &central, &residual;
  const Tensor &indptr, &neighbors, &weights;
  const OptionalTensor &offsets, &sample_weights;
  bool mean;
  ScalarType table;                               // dtype of the tables
  const AttentionArguments* attention = nullptr;  // weights are log z
};

// The tensors behind a Lookup, checked and contiguous.
struct LookupInputs {
  Tensor indptr, neighbors, weights;
  OptionalTensor central, residual, offsets, sample_weights, a_src, a_dst, b, seed;
  Lookup lookup{};

  LookupInputs(const Call& call, const LookupArguments& in, int64_t dim, int64_t positions);

  ScalarType acc_type() const { return scalar_type(lookup.acc()); }

 private:
  const void* take_table(const Call& call, const OptionalTensor& in, OptionalTensor& kept, const char* name);
  void take_sample_weights(const Call& call, const Tensor& in);
  void attend(const Call& call, const AttentionArguments& in);
};

// Output and plan of a lookup.
std::tuple<Tensor, Tensor> look_up(const Tensor& ids, const LookupArguments& in, const Tensor& central,
                                   int64_t padding_idx, std::optional<ScalarType> out_dtype);

// What all backward operators are given: inputs, plan, contiguous gradient.
struct BackwardInputs {
  Call call;
  Tensor grad, plan_tensor;
  LookupInputs in;

  BackwardInputs(const Tensor& grad, const Tensor& plan, const LookupArguments& in);

  const Lookup& x() const { return in.lookup; }
  int32_t* plan() { return static_cast<int32_t*>(plan_tensor.mutable_data_ptr()); }
  // Throws where a gradient that is wanted reads what is not there.
  void check_needs(bool link_weights, bool sample_weights) const;
  // The gradient of the sample weights, [P], or [0].
  Tensor sample_weights_gradient(bool wanted) const {
    return call.empty({wanted ? x().positions : 0}, in.acc_type());
  }
};

// Where a backend writes a gradient: null where it is not wanted.
inline void* place_of(Tensor& t, bool wanted) { return wanted ? t.mutable_data_ptr() : nullptr; }

}  // namespace resemb
