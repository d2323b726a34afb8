// Rounding at random to float16, bfloat16 and int8. Plain C++ of a number at a time defines it; the CPU's
// vectors (cpu/rounding_vec.h) and CUDA give the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/philox.h"
#include "common/types.h"

namespace resemb {

// Which of a row's numbers are rounded.
enum class Rounded : int32_t { param, first, second };

// A key of all rows at one step of a table.
RESEMB_INLINE uint64_t rounding_key(uint64_t seed, int64_t step) {
  const Philox random(seed, 0, static_cast<uint64_t>(step));
  return uint64_t{random.word[1]} << 32 | random.word[0];
}

// 32 random bits from a key of 32 bits: a permutation with two multiplications, whose output bits flip with
// each input bit about half of the time (C. Wellons, "Prospecting for hash functions").
RESEMB_INLINE uint32_t mix_bits(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// The random bits of a row's numbers: 16 for each, by key, row, column and which number it is.
struct RowBits {
  uint32_t
      even;      // key of the words whose low halves belong to the parameter, high halves to the first moment
  uint32_t odd;  // of those whose low halves belong to the second moment

  // The row's output of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) from the key.
  RESEMB_INLINE RowBits(uint64_t key, int64_t row) {
    uint64_t x = key + (static_cast<uint64_t>(row) + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    even = static_cast<uint32_t>(x);
    odd = static_cast<uint32_t>(x >> 32);
  }

  static constexpr uint32_t kColumn = 0x9e3779b9u;  // between the keys of neighbouring columns

  RESEMB_INLINE uint32_t of(Rounded which, int64_t col) const {
    const uint32_t key = which == Rounded::second ? odd : even;
    const uint32_t word = mix_bits(key + static_cast<uint32_t>(col) * kColumn);
    return which == Rounded::first ? word >> 16 : word & 0xffffu;
  }
};

// Of a parameter alone.
RESEMB_INLINE uint32_t rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t col) {
  return RowBits(rounding_key(seed, step), row).of(Rounded::param, col);
}

// All round to one of the two neighbours, with a chance by its nearness: `random`, of 16 bits, is added below
// the last kept bit, and what lies below is cut off. Infinities and NaN stay what they are.
RESEMB_INLINE uint16_t round_to_bfloat(float f, uint32_t random) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + random) >> 16);
}

RESEMB_INLINE uint16_t round_to_half(float f, uint32_t random) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, body = bits & 0x7fffffffu;
  if (body > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (body >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (body >= 113u << 23) {  // normal numbers of float16
    const uint32_t rounded = (body + (random & 0x1fffu) - (112u << 23)) >> 13;
    return static_cast<uint16_t>(sign | (rounded < 0x7c00u ? rounded : 0x7bffu));
  }
  // The subnormal ones are multiples of 2^-24, below 2^10 of them.
  float magnitude;
  memcpy(&magnitude, &body, 4);
  return static_cast<uint16_t>(sign | (static_cast<uint32_t>(magnitude * 0x1p40f) + random) >> 16);
}

// A row of numbers as int8: each is its code times the row's scale.
struct CodeScale {
  float scale;    // largest magnitude / 127; 0 where all are 0, NaN where one is not finite
  float inverse;  // 2^15 / scale, or 0 in those two cases

  RESEMB_INLINE explicit CodeScale(float largest) : scale(0), inverse(0) {
    if (!(largest <= 3.402823466e38f)) {
      scale = largest - largest;  // NaN, which every code then stands for
    } else if (largest > 0) {
      // So that 1 / scale is finite: smaller rows are rounded to multiples of 2^-107.
      const float top = largest > 0x1p-100f ? largest : 0x1p-100f;
      scale = top / 127;
      inverse = 127 * 0x1p15f / top;
    }
  }
};

// The code of f: the nearest multiple of scale / 2^15, then rounded by the upper 15 of the random bits. It
// lies in
// [-127, 127], as f * inverse exceeds 127 * 2^15 by less than half.
RESEMB_INLINE int8_t round_to_code(float f, float inverse, uint32_t random) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const float sum = f * inverse + 0x1.8p23f;
  int32_t bits;
  memcpy(&bits, &sum, 4);
  return static_cast<int8_t>((bits - 0x4b400000 + static_cast<int32_t>(random >> 1)) >> 15);
}

}  // namespace resemb
