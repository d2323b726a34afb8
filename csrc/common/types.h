// Plain types shared by every kernel. No torch headers here or in anything the kernels include.
#pragma once

#include <cstddef>
#include <cstdint>

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

// CSR rows of the interest graph with the link's weights.
struct GraphView {
  const int64_t* indptr;  // [H + 1]
  const void* neighbors;  // [E] int32 or int64
  const void* weights;    // [E] float or double
  bool neighbors_are_int64;
  bool weights_are_double;

  RESEMB_INLINE int64_t neighbor(int64_t e) const {
    return neighbors_are_int64 ? static_cast<const int64_t*>(neighbors)[e]
                               : static_cast<const int32_t*>(neighbors)[e];
  }
  template <class A>
  RESEMB_INLINE A weight(int64_t e) const {
    return weights_are_double ? static_cast<A>(static_cast<const double*>(weights)[e])
                              : static_cast<A>(static_cast<const float*>(weights)[e]);
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
