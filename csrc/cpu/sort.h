// Stable parallel radix sort and run detection: what dedupe and transpose are made of.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace resemb {

// Key in the upper, payload in the lower 32 bits.
using Pair = uint64_t;
inline Pair make_pair(uint64_t key, uint64_t payload) { return key << 32 | payload; }
inline uint32_t key_of(Pair p) { return static_cast<uint32_t>(p >> 32); }
inline uint32_t payload_of(Pair p) { return static_cast<uint32_t>(p); }

// Sorts `pairs` by key, keeping the order of equal keys; keys are at most `max_key`. Returns the
// sorted array: `pairs` itself or `spare` (same length), whichever the last pass wrote.
Pair* radix_sort(Pair* pairs, Pair* spare, int64_t n, uint64_t max_key, const Parallel& parallel);

// Starts of the runs of equal keys in sorted pairs.
struct Runs {
  int64_t count = 0;
  Buffer<uint32_t> starts;  // [count + 1]; the last is n
};
Runs find_runs(const Pair* sorted, int64_t n, const Parallel& parallel);

// In-place exclusive prefix sum; returns the total.
template <class T>
T exclusive_scan(T* values, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T v = values[i];
    values[i] = sum;
    sum += v;
  }
  return sum;
}

}  // namespace resemb
