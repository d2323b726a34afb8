// Rows of a served table, plain or quantized: lookups and bags, on raw pointers.
//
//   row i = overlay row before[i / 64] + the number of set bits below i in bits[i / 64], where i's bit is
//   set;
//           else base row i
//   int8: D codes, float32 scale and bias;  x = scale * code + bias
//   int4: D / 2 bytes, the low nibble first, float16 scale and bias;  likewise
//   out[p] = row of ids[p];  out[b] = sum over p in bag b of weight_p * row of ids[p], divided
// An id outside [0, rows) is the row `oov`, or bad where there is none; `padding` is zero and not counted.
#pragma once

#include <cstdint>

#include "common/lookup.h"

namespace resemb {

enum class RowFormat : int32_t { f32, f16, i8, i4 };

constexpr int64_t row_bytes(RowFormat format, int64_t dim) {
  return format == RowFormat::f32   ? 4 * dim
         : format == RowFormat::f16 ? 2 * dim
         : format == RowFormat::i8  ? dim + 8
                                    : dim / 2 + 4;
}

// One version of a table: its base, and the rows that differ from it.
struct ServedRows {
  RowFormat format;
  int64_t dim;           // D
  int64_t rows;          // H
  int64_t oov, padding;  // -1: none
  const char* base;      // [base_rows, row_bytes]
  int64_t base_rows;
  const uint64_t* bits;   // [ceil(H / 64)], or null: no overlay
  const int32_t* before;  // [ceil(H / 64)] set bits before each word
  const char* overlay;    // [overlay_rows, row_bytes]
  int64_t overlay_rows;
  Ids ids;
  float* out;         // [P or B, D]
  bool bypass_cache;  // out is too large to stay in cache
};

enum class Divisor : int64_t { none, count, weights };  // of a bag's sum

struct ServedBags : ServedRows {
  const int64_t* offsets;  // [B + 1] with `ends`, else [B]; null: bags of `width` ids each
  bool ends;               // offsets hold the end of the last bag
  int64_t width;
  int64_t num_bags;      // B
  const float* weights;  // [P], or null: 1
  Divisor divisor;

  int64_t begin(int64_t bag) const { return offsets != nullptr ? offsets[bag] : bag * width; }
  int64_t end(int64_t bag) const {
    if (offsets == nullptr) return (bag + 1) * width;
    return ends || bag + 1 < num_bags ? offsets[bag + 1] : ids.count;
  }
};

}  // namespace resemb
