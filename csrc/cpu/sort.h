// Grouping by key: what dedupe and transpose are made of.
//
// One parallel partition by the key's high bits scatters entries into buckets; each bucket is then
// sorted on its low bits in cache. Nothing is sized or swept by the range of keys, and the result is
// stable: a function of the entries' order alone.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace resemb {

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

template <class Payload>
struct Entry {
  uint32_t key;
  Payload payload;
};

// Payloads in order of their keys, equal keys in the order of their making.
template <class Payload>
struct Groups {
  int64_t count = 0;         // distinct keys
  int64_t size = 0;          // entries
  Buffer<uint32_t> keys;     // [count] ascending
  Buffer<uint32_t> starts;   // [count + 1] into payloads; the last is size
  Buffer<Payload> payloads;  // [size]
};

constexpr int64_t kEntriesPerPart = 16384;  // below which a second thread does not pay

namespace detail {

// Stable sort of n entries on the low `bits` of their keys, using `spare` of the same size; the
// digits fit the number of entries. Returns whichever of the two arrays holds the result.
template <class E>
E* sort_bucket(E* entries, E* spare, int64_t n, int bits) {
  constexpr int kMaxDigit = 11;
  uint32_t counts[1 << kMaxDigit];
  const int digit = std::clamp(static_cast<int>(std::bit_width(static_cast<uint64_t>(n))), 4, kMaxDigit);
  const int passes = (bits + digit - 1) / digit;
  if (passes == 0 || n < 2) return entries;
  const int width = (bits + passes - 1) / passes;
  const uint32_t mask = (1u << width) - 1;
  for (int shift = 0; shift < bits; shift += width) {
    std::memset(counts, 0, sizeof(uint32_t) << width);
    for (int64_t i = 0; i < n; ++i) ++counts[entries[i].key >> shift & mask];
    exclusive_scan(counts, int64_t{1} << width);
    for (int64_t i = 0; i < n; ++i) spare[counts[entries[i].key >> shift & mask]++] = entries[i];
    std::swap(entries, spare);
  }
  return entries;
}

}  // namespace detail

// Groups entries by key <= max_key. generate(part, parts, emit) calls emit(key, payload) for the
// entries of one part, the same ones each time it is called; at most `most` entries in all.
template <class Payload, class Generate>
Groups<Payload> group_by_key(int64_t most, uint64_t max_key, const Parallel& parallel,
                             const Generate& generate) {
  using E = Entry<Payload>;
  const int parts = parallel.threads_for(most, kEntriesPerPart);
  const int key_bits = std::bit_width(max_key);
  // Buckets of a few hundred entries or more, and few enough for the caches to hold their heads.
  const int wanted = std::bit_width(static_cast<uint64_t>(most) >> 8);
  const int high_bits = std::min(key_bits, std::min(wanted, 11));
  const int shift = key_bits - high_bits;
  const int64_t buckets = int64_t{1} << high_bits;

  Buffer<int64_t> places(parts * buckets);
  parallel.tasks(parts, [&](int64_t part) {
    int64_t* count = places.data() + part * buckets;
    std::memset(count, 0, buckets * sizeof(int64_t));
    generate(part, parts, [&](uint32_t key, const auto&) { ++count[key >> shift]; });
  });
  Buffer<int64_t> bucket_starts(buckets + 1);
  int64_t size = 0;
  for (int64_t b = 0; b < buckets; ++b) {
    bucket_starts[b] = size;
    for (int part = 0; part < parts; ++part) {
      int64_t& place = places[part * buckets + b];
      size += std::exchange(place, size);
    }
  }
  bucket_starts[buckets] = size;
  Buffer<E> entries(size), spare(size);
  parallel.tasks(parts, [&](int64_t part) {
    int64_t* place = places.data() + part * buckets;
    generate(part, parts,
             [&](uint32_t key, const Payload& payload) { entries[place[key >> shift]++] = {key, payload}; });
  });

  // Each bucket lists its own keys and starts where its entries stand; then the lists are joined.
  Groups<Payload> groups;
  groups.size = size;
  groups.payloads = Buffer<Payload>(size);
  Buffer<uint32_t> loose_keys(size), loose_starts(size);
  Buffer<int64_t> distinct(buckets);
  const int64_t buckets_per_task = std::max<int64_t>(1, buckets / (16 * parts));
  parallel.ranges(buckets, buckets_per_task, [&](int64_t first, int64_t past) {
    for (int64_t b = first; b < past; ++b) {
      const int64_t begin = bucket_starts[b], end = bucket_starts[b + 1];
      const E* sorted = detail::sort_bucket(entries.data() + begin, spare.data() + begin, end - begin, shift);
      int64_t at = begin;
      for (int64_t i = begin; i < end; ++i) {
        const E& e = sorted[i - begin];
        if (i == begin || e.key != sorted[i - begin - 1].key) {
          loose_keys[at] = e.key;
          loose_starts[at++] = static_cast<uint32_t>(i);
        }
        groups.payloads[i] = e.payload;
      }
      distinct[b] = at - begin;
    }
  });
  groups.count = exclusive_scan(distinct.data(), buckets);
  groups.keys = Buffer<uint32_t>(groups.count);
  groups.starts = Buffer<uint32_t>(groups.count + 1);
  parallel.ranges(buckets, buckets_per_task, [&](int64_t first, int64_t past) {
    for (int64_t b = first; b < past; ++b) {
      const int64_t to = distinct[b], next = b + 1 < buckets ? distinct[b + 1] : groups.count;
      std::copy_n(loose_keys.data() + bucket_starts[b], next - to, groups.keys.data() + to);
      std::copy_n(loose_starts.data() + bucket_starts[b], next - to, groups.starts.data() + to);
    }
  });
  groups.starts[groups.count] = static_cast<uint32_t>(size);
  return groups;
}

}  // namespace resemb
