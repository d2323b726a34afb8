// What the operator layer asks of tensors: checks, contiguous inputs, pooled outputs, torch's threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/types.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace resemb {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline cpu::Parallel torch_pool() {
  return cpu::Parallel(static_cast<int>(torch::stable::get_num_threads()),
                       [](int threads, void (*body)(void*), void* context) {
                         torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { body(context); });
                       });
}

[[noreturn]] inline void fail_value(const std::string& message) { throw std::invalid_argument(message); }

[[noreturn]] inline void fail_id(const char* name, int64_t id, int64_t position, int64_t num_items) {
  throw std::out_of_range(std::string(name) + ": id " + std::to_string(id) + " at position " +
                          std::to_string(position) + " is out of range; expected ids in [0, " +
                          std::to_string(num_items) + ")");
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

inline DType table_type(ScalarType t, const char* name) {
  switch (t) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    default:
      fail_value(std::string(name) + ": dtype " + torch::headeronly::toString(t) +
                 " is not supported; expected float32, float64, float16 or bfloat16");
  }
}

inline ScalarType scalar_type(DType t) {
  switch (t) {
    case DType::f32:
      return ScalarType::Float;
    case DType::f64:
      return ScalarType::Double;
    case DType::f16:
      return ScalarType::Half;
    default:
      return ScalarType::BFloat16;
  }
}

inline bool is_int64(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  if (type != ScalarType::Long && type != ScalarType::Int) {
    fail_value(std::string(name) + ": dtype " + torch::headeronly::toString(type) +
               " is not supported; expected int64 or int32");
  }
  return type == ScalarType::Long;
}

inline void check_shape(bool ok, const char* name, const Tensor& t, const std::string& expected) {
  if (!ok) fail_value(std::string(name) + ": shape " + shape_of(t) + " does not fit; expected " + expected);
}

// A contiguous tensor on the CPU; kept alive by the caller.
inline Tensor dense_cpu(const Tensor& t, const char* name) {
  if (!t.is_cpu()) fail_value(std::string(name) + ": is not on the CPU, while ids are");
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// A contiguous output; a large one lives in a pooled block that returns when the tensor is freed.
inline Tensor new_output(const Tensor& like, std::vector<int64_t> size, ScalarType type) {
  size_t bytes = item_size(table_type(type, "output"));
  for (const int64_t n : size) bytes *= static_cast<size_t>(n);
  if (bytes < cpu::kSmallestPooled) return torch::stable::new_empty(like, size, type);
  std::vector<int64_t> strides(size.size(), 1);
  for (size_t i = size.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * size[i];
  void* data = cpu::take_block(bytes);
  return torch::stable::from_blob(data, size, strides, like.device(), type,
                                  [bytes](void* block) { cpu::give_block(block, bytes); });
}

}  // namespace resemb
