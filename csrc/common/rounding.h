// Rounding at random to float16 and bfloat16.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/philox.h"
#include "common/types.h"

namespace resemb {

// The random bits of a table's number, by Philox(seed; row, column, step).
RESEMB_INLINE uint32_t rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t col) {
  const uint64_t place = static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(col) / 4;
  const Philox random(seed, place, static_cast<uint64_t>(step));
  const int word = static_cast<int>(col % 4);
  // No index that is known at run time alone: the words stay in registers.
  return word == 0   ? random.word[0]
         : word == 1 ? random.word[1]
         : word == 2 ? random.word[2]
                     : random.word[3];
}

// Both round to one of the two neighbours, with a chance by its nearness: `random` is added below the last
// kept bit, and what lies below is cut off.
RESEMB_INLINE uint16_t round_to_bfloat(float f, uint32_t random) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7f800000u) == 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | ((bits & 0xffffu) != 0));
  return static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16);
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
  // The subnormal ones are multiples of 2^-24.
  float magnitude;
  memcpy(&magnitude, &body, 4);
  const float units = magnitude * 0x1p24f + static_cast<float>(random >> 8) * 0x1p-24f;
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(units));
}

}  // namespace resemb
