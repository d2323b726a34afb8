// Plain types shared by every kernel. No torch headers here or in anything the kernels include.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// Forced inlining keeps code compiled for one instruction set out of the linker's reach: a weak copy
// of an inline function from the AVX2 file could otherwise serve the baseline path as well.
#ifdef __CUDACC__
#define RESEMB_INLINE __host__ __device__ __forceinline__
#else
#define RESEMB_INLINE inline __attribute__((always_inline))
#endif

namespace resemb {

enum class DType : int32_t { f32, f64, f16, bf16 };

constexpr size_t item_size(DType t) { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }

// Sums are kept in double for float64 tables and in float for all others.
constexpr DType accumulator(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

// The same as C++ types: float and double stand for themselves.
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulator<T>::type;

// The number that a float16 holds. It needs neither F16C nor subnormal floats, which a processor may be told
// to read as 0.
RESEMB_INLINE float half_value(uint16_t half) {
  const uint32_t body = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  const uint32_t exponent = half & 0x7c00u;
  // The exponents' biases are 15 and 127. A subnormal float16 has the exponent of the smallest normal one and
  // no leading 1, which is added and taken off again.
  uint32_t bits = body + (exponent == 0x7c00u ? 224u << 23 : exponent == 0 ? 113u << 23 : 112u << 23);
  float value;
  memcpy(&value, &bits, 4);
  if (exponent == 0) value -= 0x1p-14f;
  memcpy(&bits, &value, 4);
  bits |= sign;
  memcpy(&value, &bits, 4);
  return value;
}

// CSR rows of the interest graph with the link's weights.
struct GraphView {
  const int64_t* indptr;  // [H + 1]
  const void* neighbors;  // [E] int32 or int64
  const void* weights;    // [E] of weights_type
  bool neighbors_are_int64;
  DType weights_type;  // f32, f64 or f16

  RESEMB_INLINE int64_t neighbor(int64_t e) const {
    return neighbors_are_int64 ? static_cast<const int64_t*>(neighbors)[e]
                               : static_cast<const int32_t*>(neighbors)[e];
  }
  template <class A>
  RESEMB_INLINE A weight(int64_t e) const {
    if (weights_type == DType::f32) return static_cast<A>(static_cast<const float*>(weights)[e]);
    if (weights_type == DType::f64) return static_cast<A>(static_cast<const double*>(weights)[e]);
    return static_cast<A>(half_value(static_cast<const Half*>(weights)[e].bits));
  }
};

// One term of a segment sum: `weight` times row `source` of a matrix. A is float or double.
template <class A>
struct Term {
  uint32_t source;
  A weight;
};

// Segments longer than this are summed in chunks of this many terms, then the chunks in order, so
// that a sum does not depend on how work was split over threads or blocks.
constexpr int64_t kChunk = 256;

}  // namespace resemb
