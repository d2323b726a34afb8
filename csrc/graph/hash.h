// Integer hashes.
#pragma once

#include <cstdint>
#include <cstring>

namespace resemb::graph {

inline uint64_t mix64(uint64_t x) {  // the finalizer of SplitMix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// A sum over 32-bit words and their places, which can be continued: it tells pages that a crash lost or mixed
// up, not an attack. first: index of the first word.
inline uint64_t checksum(const void* data, int64_t bytes, int64_t first = 0) {
  constexpr uint64_t step = 0x9e3779b97f4a7c15u;
  uint64_t sum = 0, factor = step * (2 * static_cast<uint64_t>(first) + 1);
  const char* from = static_cast<const char*>(data);
  for (int64_t at = 0; at < bytes; at += 4, factor += 2 * step) {
    uint32_t word;
    std::memcpy(&word, from + at, sizeof(word));
    sum += (word + uint64_t{1}) * factor;
  }
  return sum;
}

}  // namespace resemb::graph
