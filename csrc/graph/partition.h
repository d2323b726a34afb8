// Stable parallel counting partition: the positions 0..n-1 grouped by bucket, ascending in each.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "graph/workers.h"

namespace resemb::graph {

// Writes positions to `out` and returns the buckets' offsets (buckets + 1). `bucket_of(i)` is called
// twice for each i; a position of bucket `buckets` is left out. The result does not depend on the
// number of threads.
template <class Index, class BucketOf>
std::vector<int64_t> partition(Workers& workers, int64_t n, int64_t buckets, const BucketOf& bucket_of,
                               Index* out) {
  const int64_t chunks = std::clamp<int64_t>(n / (buckets + 1), 1, int64_t{4} * workers.threads());
  const auto begin_of = [&](int64_t chunk) { return n / chunks * chunk + std::min(chunk, n % chunks); };
  std::vector<std::vector<int64_t>> cursors(chunks);
  workers.run(chunks, [&](int64_t chunk, int) {
    std::vector<int64_t> counts(buckets + 1, 0);
    for (int64_t i = begin_of(chunk); i < begin_of(chunk + 1); ++i) ++counts[bucket_of(i)];
    cursors[chunk] = std::move(counts);
  });
  std::vector<int64_t> offsets(buckets + 1);
  int64_t sum = 0;
  for (int64_t bucket = 0; bucket < buckets; ++bucket) {
    offsets[bucket] = sum;
    for (auto& cursor : cursors) sum += std::exchange(cursor[bucket], sum);
  }
  offsets[buckets] = sum;
  workers.run(chunks, [&](int64_t chunk, int) {
    int64_t* cursor = cursors[chunk].data();
    for (int64_t i = begin_of(chunk); i < begin_of(chunk + 1); ++i) {
      const int64_t bucket = static_cast<int64_t>(bucket_of(i));
      if (bucket < buckets) out[cursor[bucket]++] = static_cast<Index>(i);
    }
  });
  return offsets;
}

}  // namespace resemb::graph
