// Rounding at random by vectors (common/rounding.h), for the instruction set of the including file.
#pragma once

#include "common/rounding.h"
#include "cpu/split_math.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

typedef int8_t c8 __attribute__((vector_size(8)));

// Bits of the columns of a Split.
struct SplitBits {
  u8 even, odd;
};

// The words of random bits of one vector of columns after another, or of one Split, by a key of RowBits.
template <bool Wide>
class Words {
 public:
  RESEMB_INLINE explicit Words(uint32_t key) {
    constexpr u8 lanes = {0, 1, 2, 3, 4, 5, 6, 7};
    keys = lanes * (Wide ? 2 * RowBits::kColumn : RowBits::kColumn) + key;
  }
  RESEMB_INLINE auto next() {
    const u8 now = keys;
    keys += (Wide ? 16 : 8) * RowBits::kColumn;
    if constexpr (Wide) {
      return SplitBits{mixed(now), mixed(now + RowBits::kColumn)};
    } else {
      return mixed(now);
    }
  }

 private:
  static RESEMB_INLINE u8 mixed(u8 x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
  }

  u8 keys;
};

// The lower half of each lane, the upper one zero.
RESEMB_INLINE u8 lower(u8 x) {
#if defined(RESEMB_STREAM)
  return (u8)_mm256_blend_epi16((__m256i)x, _mm256_setzero_si256(), 0xaa);  // no constant to load
#else
  return x & 0xffffu;
#endif
}
RESEMB_INLINE SplitBits lower(SplitBits x) { return {lower(x.even), lower(x.odd)}; }
RESEMB_INLINE u8 upper(u8 x) { return x >> 16; }
RESEMB_INLINE SplitBits upper(SplitBits x) { return {x.even >> 16, x.odd >> 16}; }

// The upper or the lower halves of lanes.
template <bool Upper>
RESEMB_INLINE h8 halves(u8 x) {
#if defined(RESEMB_STREAM)
  constexpr int8_t o = Upper ? 2 : 0;
  const __m256i pick =
      _mm256_setr_epi8(o, o + 1, o + 4, o + 5, o + 8, o + 9, o + 12, o + 13, -1, -1, -1, -1, -1, -1, -1, -1,
                       o, o + 1, o + 4, o + 5, o + 8, o + 9, o + 12, o + 13, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i picked = _mm256_shuffle_epi8((__m256i)x, pick);
  return (h8)_mm256_castsi256_si128(_mm256_permute4x64_epi64(picked, 0x08));
#else
  return __builtin_convertvector(Upper ? x >> 16 : x & 0xffffu, h8);
#endif
}

// The lowest bytes of lanes.
RESEMB_INLINE c8 bytes(u8 x) {
#if defined(RESEMB_STREAM)
  const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                        -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i picked = _mm256_shuffle_epi8((__m256i)x, pick);
  const __m128i both = _mm_or_si128(_mm256_castsi256_si128(picked), _mm256_extracti128_si256(picked, 1));
  return (c8)_mm_cvtsi128_si64(both);
#else
  return __builtin_convertvector(x, c8);
#endif
}

// The first n lanes, to memory.
template <class V>
RESEMB_INLINE void write_part(void* to, V v, int64_t n) {
  if (n == 8) return write(to, v);
  __builtin_memcpy(to, &v, n * sizeof v[0]);
}

// The bits of f, raised below the last that bfloat16 keeps; of NaN as they are, quiet as arithmetic leaves
// it.
RESEMB_INLINE u8 raised(f8 f, u8 random) { return (u8)f + (random & (u8)(f == f)); }

// Each takes n columns, all of a Split, and 16 random bits a lane.
RESEMB_INLINE void store_rounded(BFloat* to, f8 f, int64_t n, u8 random) {
  write_part(to, halves<true>(raised(f, random)), n);
}
RESEMB_INLINE void store_rounded(BFloat* to, Split f, int64_t, SplitBits random) {
  write(to, raised(f.even, random.even) >> 16 | (raised(f.odd, random.odd) & 0xffff0000u));
}

RESEMB_INLINE void store_rounded(Half* to, f8 f, int64_t n, u8 random) {
  const u8 bits = (u8)f, sign = bits >> 16 & 0x8000u;
  const i8 body = (i8)(bits & 0x7fffffffu);
  const u8 small = (u8)(body < 113 << 23), overflow = (u8)(body >= 0x477ff000), nan = (u8)(body > 0x7f800000);
  const i8 normal = ((i8)((u8)body + (random & 0x1fffu)) - (112 << 23)) >> 13;
  const i8 kept = normal < 0x7bff ? normal : i8{} + 0x7bff;
  const f8 units = (f8)((u8)body & small) * 0x1p40f;
  const u8 subnormal = ((u8) __builtin_convertvector(units, i8) + random) >> 16;
  u8 result = (subnormal & small) | ((u8)kept & ~small);
  result = (result & ~overflow) | (overflow & 0x7c00u) | (nan & 0x200u);
  write_part(to, halves<false>(result | sign), n);
}

// Rows as int8: numbers are codes times CodeScale.
RESEMB_INLINE f8 load_codes(const int8_t* p, int64_t n) {
  c8 codes = {};
  __builtin_memcpy(&codes, p, n);
#if defined(RESEMB_STREAM)
  return (f8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_set_epi64x(0, (long long)codes)));
#else
  return __builtin_convertvector(codes, f8);
#endif
}

RESEMB_INLINE Split load_split(const int8_t* p) {
  const i8 pairs = (i8)widened(read<h8>(p));
  return {__builtin_convertvector(pairs << 24 >> 24, f8), __builtin_convertvector(pairs << 16 >> 24, f8)};
}

// 128 more than the codes in their lowest bytes, see round_to_code for the sum; other bytes are anything.
RESEMB_INLINE u8 shifted_codes(f8 f, float inverse, u8 random) {
  return ((u8)(f * inverse + 0x1.8p23f) + (random >> 1)) >> 15;
}
RESEMB_INLINE void store_codes(int8_t* to, f8 f, float inverse, int64_t n, u8 random) {
  write_part(to, bytes(shifted_codes(f, inverse, random)) ^ static_cast<int8_t>(-128), n);
}
RESEMB_INLINE void store_codes(int8_t* to, Split f, float inverse, int64_t, SplitBits random) {
  const u8 even = shifted_codes(f.even, inverse, random.even),
           odd = shifted_codes(f.odd, inverse, random.odd);
  write(to, halves<false>((even & 0xffu) | odd << 8) ^ static_cast<uint16_t>(0x8080));
}

// The largest magnitude of all lanes so far: by their bits, so that NaN is above infinity.
RESEMB_INLINE i8 larger(i8 largest, f8 f) {
  const i8 magnitude = (i8)((u8)f & 0x7fffffffu);
  return magnitude > largest ? magnitude : largest;
}
RESEMB_INLINE i8 larger(i8 largest, Split f) { return larger(larger(largest, f.even), f.odd); }
// Without branches, which random numbers would make the processor guess wrong.
RESEMB_INLINE float largest_lane(i8 v) {
  i8 other = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v = v > other ? v : other;
  other = __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  v = v > other ? v : other;
  other = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  v = v > other ? v : other;
  return ((f8)v)[0];
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
