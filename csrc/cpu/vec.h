// 32-byte vectors and conversions to and from the table types, for the instruction set of the including
// file (see avx2_begin.h and baseline_begin.h).
#pragma once

namespace resemb::cpu {
namespace RESEMB_ISA {

typedef float f8 __attribute__((vector_size(32)));
typedef float f4 __attribute__((vector_size(16)));
typedef double d4 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef uint32_t u8 __attribute__((vector_size(32)));
typedef uint16_t h8 __attribute__((vector_size(16)));
typedef uint16_t h16 __attribute__((vector_size(32)));

template <class A>
struct VecOf;
template <>
struct VecOf<float> {
  using type = f8;
};
template <>
struct VecOf<double> {
  using type = d4;
};
template <class A>
using Vec = typename VecOf<A>::type;
template <class A>
constexpr int64_t kLanes = 32 / sizeof(A);

template <class V, class P>
RESEMB_INLINE V read(const P* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class P>
RESEMB_INLINE void write(P* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

RESEMB_INLINE f8 half_to_float(h8 h) {
#if defined(RESEMB_F16C)
  return (f8)_mm256_cvtph_ps((__m128i)h);
#else
  const u8 x = __builtin_convertvector(h, u8);
  const u8 sign = (x & 0x8000u) << 16;
  const u8 body = (x & 0x7fffu) << 13;
  // As half_value of common/types.h: never by subnormal floats, which a thread may be told to read as 0.
  const u8 special = (u8)((x & 0x7c00u) == 0x7c00u), small = (u8)((x & 0x7c00u) == 0u);
  const u8 smallest = small & (113u << 23);  // 2^-14, or 0
  const u8 bits = body + (112u << 23) + (small & (1u << 23)) + (special & (112u << 23));
  const f8 value = (f8)bits - (f8)smallest;
  return (f8)((u8)value | sign);
#endif
}

RESEMB_INLINE h8 float_to_half(f8 f) {
#if defined(RESEMB_F16C)
  return (h8)_mm256_cvtps_ph((__m256)f, 0);
#else
  const u8 bits = (u8)f;
  const u8 sign = bits >> 16 & 0x8000u;
  const u8 body = bits & 0x7fffffffu;
  // Normals: round to nearest even on the 13 dropped bits, with the exponent's bias moved.
  const u8 normal = (body + 0xfffu + (body >> 13 & 1u) - (112u << 23)) >> 13;
  // Subnormals: adding 0.5 lets the float adder round at half's last place.
  const u8 subnormal = (u8)((f8)body + 0.5f) - 0x3f000000u;
  const u8 small = (u8)(body < (113u << 23));
  const u8 overflow = (u8)(body >= 0x477ff000u);
  const u8 nan = (u8)(body > 0x7f800000u);
  u8 result = (subnormal & small) | (normal & ~small);
  result = (result & ~overflow) | (0x7c00u & overflow);
  result = (result & ~nan) | (0x7e00u & nan);
  return __builtin_convertvector(result | sign, h8);
#endif
}

// Rounded to bfloat16, to nearest even, in the upper half of each lane; the lower one is not cleared.
RESEMB_INLINE u8 round_to_upper(f8 v) {
  const u8 bits = (u8)v;
  const u8 nan = (u8)((bits & 0x7fffffffu) > 0x7f800000u);
  const u8 rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return (rounded & ~nan) | (0x7fc00000u & nan);
}

RESEMB_INLINE f8 load(const float* p) { return read<f8>(p); }
RESEMB_INLINE d4 load(const double* p) { return read<d4>(p); }
// Of one instruction, where compilers make four of a conversion.
RESEMB_INLINE u8 widened(h8 x) {
#if defined(RESEMB_STREAM)
  return (u8)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, u8);
#endif
}
RESEMB_INLINE f8 load(const BFloat* p) { return (f8)(widened(read<h8>(p)) << 16); }
RESEMB_INLINE f8 load(const Half* p) { return half_to_float(read<h8>(p)); }

RESEMB_INLINE void store(float* p, f8 v) { write(p, v); }
RESEMB_INLINE void store(double* p, d4 v) { write(p, v); }
RESEMB_INLINE void store(BFloat* p, f8 v) { write(p, __builtin_convertvector(round_to_upper(v) >> 16, h8)); }
RESEMB_INLINE void store(Half* p, f8 v) { write(p, float_to_half(v)); }

// Sixteen bfloat16 numbers in two vectors: those at even places, and those at odd ones. Bits stay in their
// lanes, so that a row becomes floats and bfloat16 again by shifts and masks alone.
struct Split {
  f8 even, odd;
};
RESEMB_INLINE Split load_split(const BFloat* p) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first of two numbers is the lower half");
  const u8 bits = read<u8>(p);
  return {(f8)(bits << 16), (f8)(bits & 0xffff0000u)};
}
RESEMB_INLINE u8 to_bits(Split s) {
  return round_to_upper(s.even) >> 16 | (round_to_upper(s.odd) & 0xffff0000u);
}
RESEMB_INLINE f8 first_half(Split s) {
  return __builtin_shufflevector(s.even, s.odd, 0, 8, 1, 9, 2, 10, 3, 11);
}
RESEMB_INLINE f8 second_half(Split s) {
  return __builtin_shufflevector(s.even, s.odd, 4, 12, 5, 13, 6, 14, 7, 15);
}

// Writes that do not keep the line in cache, where the instruction set has them; p is aligned to them.
template <class P>
RESEMB_INLINE void write_past_cache(P* p, u8 v) {
#if defined(RESEMB_STREAM)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#else
  write(p, v);
#endif
}
template <class O, class V>
RESEMB_INLINE void store_past_cache(O* p, V v) {
  if constexpr (sizeof(O) == sizeof(Acc<O>)) return write_past_cache(p, (u8)v);
#if defined(RESEMB_STREAM)
  O part[kLanes<Acc<O>>];
  store(part, v);
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), read<__m128i>(part));
#else
  store(p, v);
#endif
}
RESEMB_INLINE void finish_stream() {
#if defined(RESEMB_STREAM)
  _mm_sfence();
#endif
}

// The first n < lanes elements at p, the others zero.
template <class T>
RESEMB_INLINE Vec<Acc<T>> load_part(const T* p, int64_t n) {
  T part[kLanes<Acc<T>>] = {};
  __builtin_memcpy(part, p, n * sizeof(T));
  return load(part);
}
template <class T>
RESEMB_INLINE void store_part(T* p, Vec<Acc<T>> v, int64_t n) {
  T part[kLanes<Acc<T>>];
  store(part, v);
  __builtin_memcpy(p, part, n * sizeof(T));
}

// Columns [col, col + n) of a row; n below the lanes at its end only.
template <class T>
RESEMB_INLINE Vec<Acc<T>> load_columns(const T* p, int64_t n) {
  return n == kLanes<Acc<T>> ? load(p) : load_part(p, n);
}
template <class T>
RESEMB_INLINE void store_columns(T* p, Vec<Acc<T>> v, int64_t n) {
  if (n == kLanes<Acc<T>>) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

RESEMB_INLINE float sum_lanes(f8 v) {
  const f4 half = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  return (half[0] + half[2]) + (half[1] + half[3]);
}
RESEMB_INLINE double sum_lanes(d4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }

// Into the second-level cache: the first has too few outstanding misses for rows of several lines.
RESEMB_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
RESEMB_INLINE void prefetch_bytes(const void* first, int64_t bytes) {
  const char* p = static_cast<const char*>(first);
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0, 3);
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
