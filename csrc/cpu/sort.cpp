#include "cpu/sort.h"

#include <algorithm>
#include <cstring>

namespace resemb {
namespace {

constexpr int kMaxDigitBits = 11;
constexpr int64_t kGrain = 16384;  // elements below which a second thread does not pay

struct Slice {
  int64_t begin, end;
};
Slice slice(int64_t n, int parts, int64_t part) { return {n * part / parts, n * (part + 1) / parts}; }

void insertion_sort(Pair* pairs, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const Pair p = pairs[i];
    int64_t j = i;
    for (; j > 0 && key_of(pairs[j - 1]) > key_of(p); --j) pairs[j] = pairs[j - 1];
    pairs[j] = p;
  }
}

}  // namespace

Pair* radix_sort(Pair* pairs, Pair* spare, int64_t n, uint64_t max_key, const Parallel& parallel) {
  if (n <= 32) {
    insertion_sort(pairs, n);
    return pairs;
  }
  const int key_bits = std::max(1, static_cast<int>(std::bit_width(max_key)));
  const int passes = (key_bits + kMaxDigitBits - 1) / kMaxDigitBits;
  const int bits = (key_bits + passes - 1) / passes;
  const int64_t buckets = int64_t{1} << bits;
  const int parts = parallel.threads_for(n, kGrain);
  Buffer<int64_t> counts(parts * buckets);

  for (int pass = 0; pass < passes; ++pass) {
    const int shift = 32 + pass * bits;
    const uint64_t mask = static_cast<uint64_t>(buckets - 1);
    parallel.tasks(parts, [&](int64_t part) {
      int64_t* count = counts.data() + part * buckets;
      std::memset(count, 0, buckets * sizeof(int64_t));
      const auto [begin, end] = slice(n, parts, part);
      for (int64_t i = begin; i < end; ++i) ++count[pairs[i] >> shift & mask];
    });
    int64_t offset = 0;
    for (int64_t b = 0; b < buckets; ++b) {
      for (int part = 0; part < parts; ++part) {
        int64_t& count = counts[part * buckets + b];
        offset += std::exchange(count, offset);
      }
    }
    parallel.tasks(parts, [&](int64_t part) {
      int64_t* place = counts.data() + part * buckets;
      const auto [begin, end] = slice(n, parts, part);
      for (int64_t i = begin; i < end; ++i) spare[place[pairs[i] >> shift & mask]++] = pairs[i];
    });
    std::swap(pairs, spare);
  }
  return pairs;
}

Runs find_runs(const Pair* sorted, int64_t n, const Parallel& parallel) {
  const int parts = parallel.threads_for(n, kGrain);
  Buffer<int64_t> counts(parts);
  const auto starts_run = [&](int64_t i) { return i == 0 || key_of(sorted[i]) != key_of(sorted[i - 1]); };
  parallel.tasks(parts, [&](int64_t part) {
    const auto [begin, end] = slice(n, parts, part);
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) count += starts_run(i);
    counts[part] = count;
  });
  Runs runs;
  runs.count = exclusive_scan(counts.data(), parts);
  runs.starts = Buffer<uint32_t>(runs.count + 1);
  parallel.tasks(parts, [&](int64_t part) {
    const auto [begin, end] = slice(n, parts, part);
    int64_t at = counts[part];
    for (int64_t i = begin; i < end; ++i) {
      if (starts_run(i)) runs.starts[at++] = static_cast<uint32_t>(i);
    }
  });
  runs.starts[runs.count] = static_cast<uint32_t>(n);
  return runs;
}

}  // namespace resemb
