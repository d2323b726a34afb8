// Arrays of the table types and of indices, each a heap block of exactly its size, for the sanitizers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "common/types.h"

namespace driver {

using resemb::DType;
using resemb::item_size;

// Half the distance from 1 to the next number.
inline double unit_roundoff(DType type) {
  switch (type) {
    case DType::f64:
      return 0x1p-53;
    case DType::f32:
      return 0x1p-24;
    case DType::f16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

inline double decode(DType type, const void* data, int64_t i) {
  if (type == DType::f64) return static_cast<const double*>(data)[i];
  if (type == DType::f32) return static_cast<const float*>(data)[i];
  const uint32_t bits = static_cast<const uint16_t*>(data)[i];
  if (type == DType::bf16) {
    const uint32_t wide = bits << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                      : exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 != 0 ? -size : size;
}

// Of NaN and of values that the type holds exactly, for half as a normal number.
inline void encode(DType type, void* data, int64_t i, double value) {
  if (type == DType::f64) {
    static_cast<double*>(data)[i] = value;
  } else if (type == DType::f32) {
    static_cast<float*>(data)[i] = static_cast<float>(value);
  } else if (type == DType::bf16) {
    const float narrow = static_cast<float>(value);
    uint32_t wide;
    std::memcpy(&wide, &narrow, sizeof wide);
    static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(wide >> 16);
  } else {
    uint32_t bits = 0;
    if (std::isnan(value)) {
      bits = 0x7e00;
    } else if (std::isinf(value)) {
      bits = 0x7c00;
    } else if (value != 0) {
      int exponent;
      const double fraction = std::frexp(std::fabs(value), &exponent);  // in [0.5, 1)
      bits = static_cast<uint32_t>((exponent + 14) << 10 | static_cast<int>(fraction * 2048 - 1024));
    }
    static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
  }
}

// Ends with its last element; null where empty; aligned to 64 bytes or to no more than one element. NaN
// until set, so that what a kernel leaves out is found.
class Array {
 public:
  Array() = default;
  Array(DType type, int64_t n, bool aligned) : type_(type), size_(n) {
    if (n == 0) return;
    const size_t shift = aligned ? 0 : item_size(type), bytes = static_cast<size_t>(n) * item_size(type);
    void* block = nullptr;
    if (posix_memalign(&block, 64, bytes + shift) != 0) throw std::bad_alloc();
    block_.reset(static_cast<char*>(block));
    data_ = block_.get() + shift;
    std::memset(data_, 0xff, bytes);
  }

  void* data() { return data_; }
  const void* data() const { return data_; }
  int64_t size() const { return size_; }
  double operator[](int64_t i) const { return decode(type_, data_, i); }
  void set(int64_t i, double value) { encode(type_, data_, i, value); }
  Array& zero() {
    if (size_ > 0) std::memset(data_, 0, size_ * item_size(type_));
    return *this;
  }
  bool same_bits(const Array& other) const {
    return size_ == other.size_ &&
           (size_ == 0 || std::memcmp(data_, other.data_, size_ * item_size(type_)) == 0);
  }
  // Rows of `width` elements, put at rows targets[i] of an array of zeros with `size` elements.
  Array spread(const std::vector<int64_t>& targets, int64_t width, int64_t size) const {
    Array whole(type_, size, true);
    whole.zero();
    const size_t bytes = static_cast<size_t>(width) * item_size(type_);
    for (size_t i = 0; i < targets.size(); ++i) {
      std::memcpy(whole.data_ + targets[i] * bytes, data_ + i * bytes, bytes);
    }
    return whole;
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  DType type_ = DType::f32;
  int64_t size_ = 0;
  std::unique_ptr<char, Free> block_;
  char* data_ = nullptr;
};

// int32 or int64 numbers.
class Indices {
 public:
  Indices(const std::vector<int64_t>& values, bool wide) {
    if (wide) {
      wide_ = {values.begin(), values.end()};
    } else {
      narrow_ = {values.begin(), values.end()};
    }
  }
  const void* data() const {
    return wide_.empty() ? static_cast<const void*>(narrow_.data()) : static_cast<const void*>(wide_.data());
  }

 private:
  std::vector<int64_t> wide_;
  std::vector<int32_t> narrow_;
};

}  // namespace driver
