// Stable radix sort of 32-bit keys with 32-bit values.
#pragma once

#include "cuda/context.h"

namespace resemb::cuda {

struct Count;

struct SortBuffers {
  uint32_t *keys, *values;              // [n] the result
  uint32_t *other_keys, *other_values;  // [n] lost

  // Where the unsorted keys are expected, by the number of bits sorted.
  uint32_t* unsorted(int bits) const;
};

// Sorts the lowest `bits` of the keys at buffers.unsorted(bits); values[i] is the place among them that
// keys[i] came from.
void sort_keys(const Context& c, const SortBuffers& buffers, const Count& count, int bits);

}  // namespace resemb::cuda
