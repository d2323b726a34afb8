// The tables' number types on the device: conversions and loads of up to 16 bytes.
#pragma once

#ifndef RESEMB_EMULATE
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cmath>
#include <cstring>
#include <type_traits>

#include "cuda/runtime.cuh"

namespace resemb::cuda {

#ifdef RESEMB_EMULATE
using std::exp, std::pow, std::sqrt;  // of float where the number is one, as on the device
#endif

__device__ __forceinline__ uint32_t bits_of(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
__device__ __forceinline__ float float_of(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

__device__ __forceinline__ float upcast(float x) { return x; }
__device__ __forceinline__ double upcast(double x) { return x; }
__device__ __forceinline__ float upcast(BFloat x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
__device__ __forceinline__ float upcast(Half x) {
#ifdef RESEMB_EMULATE
  _Float16 h;
  memcpy(&h, &x, 2);
  return static_cast<float>(h);
#else
  return __half2float(__ushort_as_half(x.bits));
#endif
}

// Rounds to nearest, ties to even.
template <class T>
struct Downcast;
template <>
struct Downcast<float> {
  static __device__ __forceinline__ float of(float x) { return x; }
};
template <>
struct Downcast<double> {
  static __device__ __forceinline__ double of(double x) { return x; }
};
template <>
struct Downcast<BFloat> {
  static __device__ __forceinline__ BFloat of(float x) {
    const uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
  }
};
template <>
struct Downcast<Half> {
  static __device__ __forceinline__ Half of(float x) {
#ifdef RESEMB_EMULATE
    const _Float16 h = static_cast<_Float16>(x);
    Half result;
    memcpy(&result, &h, 2);
    return result;
#else
    return {__half_as_ushort(__float2half_rn(x))};
#endif
  }
};
template <class T>
__device__ __forceinline__ T downcast(Acc<T> x) {
  return Downcast<T>::of(x);
}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// N numbers at p, in as few accesses of at most 16 bytes as that takes; p is aligned to them.
template <int N, class T>
__device__ __forceinline__ void load(const T* p, T (&out)[N]) {
  constexpr int kPart = sizeof(T) * N > 16 ? 16 / sizeof(T) : N;
#pragma unroll
  for (int i = 0; i < N; i += kPart) {
    const Pack<T, kPart> part = *reinterpret_cast<const Pack<T, kPart>*>(p + i);
#pragma unroll
    for (int j = 0; j < kPart; ++j) out[i + j] = part.v[j];
  }
}
template <int N, class T>
__device__ __forceinline__ void store(T* p, const T (&in)[N]) {
  constexpr int kPart = sizeof(T) * N > 16 ? 16 / sizeof(T) : N;
#pragma unroll
  for (int i = 0; i < N; i += kPart) {
    Pack<T, kPart> part;
#pragma unroll
    for (int j = 0; j < kPart; ++j) part.v[j] = in[i + j];
    *reinterpret_cast<Pack<T, kPart>*>(p + i) = part;
  }
}

// Two numbers of a 16-bit type in a word, the first in its low half: one instruction converts each on the
// device, where numbers apart would first have to be taken out of their words.
template <class T>
struct Pair;
template <>
struct Pair<BFloat> {
  static __device__ __forceinline__ void upcast(uint32_t word, float& first, float& second) {
    first = float_of(word << 16);
    second = float_of(word & 0xffff0000u);
  }
  static __device__ __forceinline__ uint32_t downcast(float first, float second) {
#ifdef RESEMB_EMULATE
    return static_cast<uint32_t>(Downcast<BFloat>::of(second).bits) << 16 | Downcast<BFloat>::of(first).bits;
#else
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    uint32_t word;
    memcpy(&word, &pair, 4);
    return word;
#endif
  }
};
template <>
struct Pair<Half> {
  static __device__ __forceinline__ void upcast(uint32_t word, float& first, float& second) {
    first = cuda::upcast(Half{static_cast<uint16_t>(word)});
    second = cuda::upcast(Half{static_cast<uint16_t>(word >> 16)});
  }
  static __device__ __forceinline__ uint32_t downcast(float first, float second) {
#ifdef RESEMB_EMULATE
    return static_cast<uint32_t>(Downcast<Half>::of(second).bits) << 16 | Downcast<Half>::of(first).bits;
#else
    const __half2 pair = __floats2half2_rn(first, second);
    uint32_t word;
    memcpy(&word, &pair, 4);
    return word;
#endif
  }
};

// N numbers as they lie in memory: in words of two where the type is one of 16 bits and N even.
template <class T, int N>
struct Raw {
  static constexpr bool kPairs = sizeof(T) == 2 && N % 2 == 0;
  static constexpr int kWords = kPairs ? N / 2 : N;
  using Word = std::conditional_t<kPairs, uint32_t, T>;
  Word word[kWords];

  __device__ __forceinline__ void load(const T* p) {
    cuda::load<kWords>(reinterpret_cast<const Word*>(p), word);
  }
  __device__ __forceinline__ void store(T* p) const { cuda::store<kWords>(reinterpret_cast<Word*>(p), word); }
  __device__ __forceinline__ void upcast(Acc<T> (&out)[N]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kPairs) {
        Pair<T>::upcast(word[i], out[2 * i], out[2 * i + 1]);
      } else {
        out[i] = cuda::upcast(word[i]);
      }
    }
  }
  __device__ __forceinline__ void downcast(const Acc<T> (&in)[N]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kPairs) {
        word[i] = Pair<T>::downcast(in[2 * i], in[2 * i + 1]);
      } else {
        word[i] = cuda::downcast<T>(in[i]);
      }
    }
  }
};

template <int N, class T>
__device__ __forceinline__ void load_upcast(const T* p, Acc<T> (&out)[N]) {
  Raw<T, N> raw;
  raw.load(p);
  raw.upcast(out);
}
template <class T, int N>
__device__ __forceinline__ void store_downcast(T* p, const Acc<T> (&in)[N]) {
  Raw<T, N> raw;
  raw.downcast(in);
  raw.store(p);
}

// The same to a type known at run time, at element `at`. Accumulators are doubles exactly where it is f64.
template <class A, int N>
__device__ __forceinline__ void store_as(DType type, void* out, int64_t at, const A (&in)[N]) {
  if constexpr (sizeof(A) == 8) {
    store<N>(static_cast<double*>(out) + at, in);
  } else {
    if (type == DType::f32) {
      store<N>(static_cast<float*>(out) + at, in);
    } else if (type == DType::f16) {
      store_downcast(static_cast<Half*>(out) + at, in);
    } else {
      store_downcast(static_cast<BFloat*>(out) + at, in);
    }
  }
}

// Numbers a thread takes from a row: as many as 16 bytes hold where every row and base allows it, else one.
template <class T>
constexpr int kVectorWidth = 16 / sizeof(T);

inline bool allows_vectors(int64_t dim, DType type, std::initializer_list<const void*> bases) {
  bool aligned = dim % static_cast<int64_t>(16 / item_size(type)) == 0;
  for (const void* base : bases) aligned &= reinterpret_cast<uintptr_t>(base) % 16 == 0;
  return aligned;
}

// Calls f.template operator()<T>() with the type's own T.
template <class F>
void with_type(DType type, const F& f) {
  switch (type) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::f64:
      return f.template operator()<double>();
    case DType::f16:
      return f.template operator()<Half>();
    case DType::bf16:
      return f.template operator()<BFloat>();
  }
}

}  // namespace resemb::cuda
