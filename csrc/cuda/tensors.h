// Tensors of the operators as the CUDA kernels take them, and what one call of an operator keeps.
#pragma once

#ifndef RESEMB_EMULATE
#include <torch/csrc/stable/accelerator.h>
#endif

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/device.h"
#include "cuda/lookup.h"
#include "ops/attention_inputs.h"
#include "ops/tensors.h"

#ifdef RESEMB_EMULATE
#define RESEMB_DEVICE_KEY CPU  // stands in for the CPU's own operators
#else
#define RESEMB_DEVICE_KEY CUDA
#endif

namespace resemb::cuda {

// Scratch of torch's allocator: freed in the order of the stream.
class TensorMemory final : public Memory {
 public:
  explicit TensorMemory(const Tensor& like) : like_(like) {}
  void* bytes(size_t n) override {
    kept_.push_back(torch::stable::new_empty(like_, {static_cast<int64_t>(n)}, ScalarType::Byte));
    return kept_.back().mutable_data_ptr();
  }

 private:
  Tensor like_;
  std::vector<Tensor> kept_;
};

void* current_stream(int device);

// A call on the device of `like`: on its current stream, with its scratch; throws a fault of earlier calls.
struct Call {
  Tensor like;
  int device;
#ifndef RESEMB_EMULATE
  torch::stable::accelerator::DeviceGuard guard;
#endif
  DeviceScope scope;
  TensorMemory memory;
  Context context;

  Call(const Tensor& like_in, const char* name);
  Call(const Call&) = delete;

  // A contiguous tensor on this device; kept alive by the caller.
  Tensor dense(const Tensor& t, const char* name) const;
  // The same, or a contiguous one in pinned host memory, where kernels read it too.
  Tensor dense_or_pinned(const Tensor& t, const char* name) const;
  bool holds(const Tensor& t) const;  // in the device's own memory
  Tensor empty(std::vector<int64_t> size, ScalarType type) const {
    return torch::stable::new_empty(like, size, type);
  }
};

// The tensors behind a Lookup, checked and contiguous.
struct Inputs {
  Tensor indptr, neighbors, weights;
  OptionalTensor central, residual, offsets, sample_weights;
  AttentionInputs link;  // of the attention link
  Lookup lookup{};

  Inputs(Call& call, const OptionalTensor& central_in, const OptionalTensor& residual_in,
         const Tensor& indptr_in, const Tensor& neighbors_in, const Tensor& weights_in,
         const OptionalTensor& offsets_in, const OptionalTensor& sample_weights_in, ScalarType table,
         int64_t dim, int64_t positions, bool mean);

  ScalarType acc_type() const { return scalar_type(lookup.acc()); }

  // Makes the link attention, with weights log z.
  void attend(const Call& call, const Tensor& a_src_in, const Tensor& a_dst_in, const Tensor& b_in,
              double dropout, const OptionalTensor& seed_in);
};

// Ids of a lookup in that table, checked and contiguous.
Tensor flat_ids(const Call& call, const Tensor& ids, const Tensor& central);

// Output and plan of a lookup.
std::tuple<Tensor, Tensor> run_forward(Call& call, const Tensor& ids, Inputs& in, int64_t padding_idx,
                                       std::optional<ScalarType> out_dtype);

// What the backward operators need before they differ: inputs, the plan's groups, contiguous gradient.
struct Backward {
  Call call;
  Tensor grad, plan_tensor;
  int64_t positions;
  Inputs in;
  Groups groups{};

  Backward(const Tensor& grad_in, const Tensor& plan_in, const OptionalTensor& central,
           const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors,
           const Tensor& weights, const OptionalTensor& offsets, const OptionalTensor& sample_weights,
           bool mean, ScalarType table);

  const Lookup& x() const { return in.lookup; }
  const Context& context() const { return call.context; }
  void need_tables(bool both, const char* what) const;
  void need_link_weights() const;
  TouchedEdges touched() const;
  Columns transposed(const TouchedEdges& edges) const;
  void sum_rows(void* g) const;  // G, unless the batch is empty
  Tensor sample_weights_gradient(bool needed) const;
};

}  // namespace resemb::cuda
