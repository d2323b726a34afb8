// One call of an operator: its device, and tensors there.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/backend.h"
#include "ops/tensors.h"

// Where kernels for a device are built in. Under emulation CUDA's stand in for the CPU's own.
#ifndef RESEMB_EMULATE
#define RESEMB_ON_CPU
#endif
#if defined(RESEMB_WITH_CUDA) || defined(RESEMB_EMULATE)
#define RESEMB_ON_CUDA
#endif

namespace resemb {

class Call {
 public:
  // On the device of `like`, an argument called `name`; on CUDA throws what earlier calls have found wrong.
  Call(const Tensor& like, const char* name);
  Call(const Call&) = delete;

  Backend& backend() const { return *backend_; }
  const Tensor& like() const { return like_; }

  // Throws where a tensor is on another device.
  void check_device(const Tensor& t, const char* name) const;
  // A contiguous tensor on this device; kept alive by the caller.
  Tensor dense(const Tensor& t, const char* name) const;
  // The same, or a contiguous one in pinned host memory, where kernels of CUDA read it too.
  Tensor dense_or_pinned(const Tensor& t, const char* name) const;
  // Whether it is in the device's own memory.
  bool holds(const Tensor& t) const;

  Tensor empty(const std::vector<int64_t>& size, ScalarType type) const {
    return allocated([&] { return torch::stable::new_empty(like_, size, type); });
  }
  // Zeros where wanted, else an empty tensor, [0].
  Tensor zeros_if(bool wanted, const std::vector<int64_t>& size, ScalarType type) const {
    return wanted ? allocated([&] { return torch::stable::new_zeros(like_, size, type); }) : empty({0}, type);
  }
  // Of floats. On the CPU a large one lives in a pooled block that returns when the tensor is freed.
  Tensor output(const std::vector<int64_t>& size, ScalarType type) const;

 private:
  Tensor like_;
  const char* name_;
  bool on_cpu_;
  int device_;
  std::unique_ptr<Backend> backend_;
};

// A backend's output as tensors; empty ones where none was taken.
class SparseTensor final : public SparseOutput {
 public:
  // Indices alone, int64 [n].
  explicit SparseTensor(const Call& call) : call_(call) {}
  // With values, [n, *row].
  SparseTensor(const Call& call, std::vector<int64_t> row, ScalarType type)
      : call_(call), row_(std::move(row)), type_(type) {}

  Memory take(int64_t n) override {
    indices_ = call_.empty({n}, ScalarType::Long);
    if (type_.has_value()) values_ = call_.output(size_of(n), *type_);
    return {static_cast<int64_t*>(indices_->mutable_data_ptr()),
            values_.has_value() ? values_->mutable_data_ptr() : nullptr};
  }

  Tensor indices() const { return indices_.has_value() ? *indices_ : call_.empty({0}, ScalarType::Long); }
  Tensor values() const { return values_.has_value() ? *values_ : call_.empty(size_of(0), *type_); }

 private:
  std::vector<int64_t> size_of(int64_t n) const {
    std::vector<int64_t> size{n};
    size.insert(size.end(), row_.begin(), row_.end());
    return size;
  }

  const Call& call_;
  std::vector<int64_t> row_;
  std::optional<ScalarType> type_;
  OptionalTensor indices_, values_;
};

}  // namespace resemb
