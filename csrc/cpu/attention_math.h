// Arithmetic of the attention link's row kernels, for the instruction set of the including file.
#pragma once

#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

template <class A>
struct FourOf {
  using type = d4;
};
template <>
struct FourOf<float> {
  using type = f4;
};
template <class A>
using Four = typename FourOf<A>::type;

// Sums of the lanes of four vectors.
RESEMB_INLINE f4 sum_four(const f8* v) {
  const auto pairs = [](f8 a, f8 b) RESEMB_LAMBDA_INLINE {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  };
  const f8 sums = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
  return __builtin_shufflevector(sums, sums, 0, 1, 2, 3) + __builtin_shufflevector(sums, sums, 4, 5, 6, 7);
}
RESEMB_INLINE d4 sum_four(const d4* v) {
  return d4{sum_lanes(v[0]), sum_lanes(v[1]), sum_lanes(v[2]), sum_lanes(v[3])};
}

// Four numbers each of four heads or of two, head by head: written number by number, `apart` apart.
template <class A>
RESEMB_INLINE void write_by_four(const Four<A>* of, A* to, int64_t apart) {
  const auto low = __builtin_shufflevector(of[0], of[1], 0, 4, 1, 5);
  const auto high = __builtin_shufflevector(of[0], of[1], 2, 6, 3, 7);
  const auto low2 = __builtin_shufflevector(of[2], of[3], 0, 4, 1, 5);
  const auto high2 = __builtin_shufflevector(of[2], of[3], 2, 6, 3, 7);
  write(to, __builtin_shufflevector(low, low2, 0, 1, 4, 5));
  write(to + apart, __builtin_shufflevector(low, low2, 2, 3, 6, 7));
  write(to + 2 * apart, __builtin_shufflevector(high, high2, 0, 1, 4, 5));
  write(to + 3 * apart, __builtin_shufflevector(high, high2, 2, 3, 6, 7));
}
template <class A>
RESEMB_INLINE void write_by_two(const Four<A>* of, A* to) {
  write(to, __builtin_shufflevector(of[0], of[1], 0, 4, 1, 5));
  write(to + 4, __builtin_shufflevector(of[0], of[1], 2, 6, 3, 7));
}

// exp(x) for x <= 0, to two units of the last place; 0 below e^-87.
RESEMB_INLINE f8 exponential(f8 x) {
  const f8 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
  const f8 n = shifted - 12582912.0f;
  const f8 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f8 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const f8 y = p * (r * r) + r + 1.0f;
  const f8 power = (f8)(((u8)shifted + 127u) << 23);
  const u8 tiny = (u8)(x < -87.0f);
  return (f8)((u8)(y * power) & ~tiny);
}
RESEMB_INLINE d4 exponential(d4 x) {
  for (int i = 0; i < 4; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

template <class V>
RESEMB_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

// combine() over the lanes l, l + P, l + 2 P ... of a vector, in each of them.
template <int P, class F>
RESEMB_INLINE f8 fold(f8 v, const F& combine) {
  if constexpr (P < 8) v = combine(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  if constexpr (P < 4) v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  if constexpr (P < 2) v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
  return v;
}
template <int P, class F>
RESEMB_INLINE d4 fold(d4 v, const F& combine) {
  if constexpr (P < 4) v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  if constexpr (P < 2) v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
  return v;
}
template <int P, class V>
RESEMB_INLINE V fold_sum(V v) {
  return fold<P>(v, [](V a, V b) RESEMB_LAMBDA_INLINE { return a + b; });
}
template <int P, class V>
RESEMB_INLINE V fold_largest(V v) {
  return fold<P>(v, [](V a, V b) RESEMB_LAMBDA_INLINE { return larger(a, b); });
}

// A vector of numbers from p on, each P times in a row; reads a vector.
template <int P>
RESEMB_INLINE f8 repeat_each(const float* p) {
  if constexpr (P == 1) return load(p);
  const f4 v = read<f4>(p);
  if constexpr (P == 2) return __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3);
  if constexpr (P == 4) return __builtin_shufflevector(v, v, 0, 0, 0, 0, 1, 1, 1, 1);
  return f8{} + *p;
}
template <int P>
RESEMB_INLINE d4 repeat_each(const double* p) {
  if constexpr (P == 1) return load(p);
  const d4 v = load(p);
  if constexpr (P == 2) return __builtin_shufflevector(v, v, 0, 0, 1, 1);
  return d4{} + *p;
}

// A vector of the P first of these numbers, again and again; P at most 4.
template <int P>
RESEMB_INLINE f8 repeat_all(f4 v) {
  if constexpr (P == 1) return __builtin_shufflevector(v, v, 0, 0, 0, 0, 0, 0, 0, 0);
  if constexpr (P == 2) return __builtin_shufflevector(v, v, 0, 1, 0, 1, 0, 1, 0, 1);
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3);
}
template <int P>
RESEMB_INLINE d4 repeat_all(d4 v) {
  if constexpr (P == 1) return __builtin_shufflevector(v, v, 0, 0, 0, 0);
  if constexpr (P == 2) return __builtin_shufflevector(v, v, 0, 1, 0, 1);
  return v;
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
