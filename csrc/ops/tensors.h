// What the operators ask of tensors, whatever their device: checks of shapes and dtypes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "common/types.h"

namespace resemb {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

[[noreturn]] inline void fail_value(const std::string& message) { throw std::invalid_argument(message); }

// In Python a MemoryError with this text.
struct OutOfMemory final : std::bad_alloc {
  const char* what() const noexcept override {
    return "resemb_ext: torch could not allocate a tensor, most likely for want of memory";
  }
};

// Runs what makes a tensor. Torch's C interface keeps the reason of a failure to itself, and shapes and
// dtypes were checked before, so that memory is what may be missing.
template <class Make>
Tensor allocated(const Make& make) {
  try {
    return make();
  } catch (const std::runtime_error&) {
    throw OutOfMemory();
  }
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

inline void check_shape(bool ok, const char* name, const Tensor& t, const std::string& expected) {
  if (!ok) fail_value(std::string(name) + ": shape " + shape_of(t) + " does not fit; expected " + expected);
}

// As Python names it, where an operator asks for it.
inline std::string type_name(ScalarType t) {
  switch (t) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    default:
      return torch::headeronly::toString(t);
  }
}

[[noreturn]] inline void fail_type(const Tensor& t, const std::string& expected, const char* name) {
  fail_value(std::string(name) + ": expected dtype " + expected + ", found " + type_name(t.scalar_type()));
}

inline void check_type(const Tensor& t, ScalarType expected, const char* name) {
  if (t.scalar_type() != expected) fail_type(t, type_name(expected), name);
}

// Whether it is float64; float32 is the other that may be.
inline bool is_double(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  if (type != ScalarType::Float && type != ScalarType::Double) fail_type(t, "float32 or float64", name);
  return type == ScalarType::Double;
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

}  // namespace resemb
