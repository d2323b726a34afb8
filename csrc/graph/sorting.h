// The events of a store in order: every user's together, by time.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "graph/store.h"

namespace resemb::graph {

// The last `window` events of every user, users ascending.
struct Tails {
  std::vector<int64_t> user, item;
  std::vector<uint64_t> time;  // keys
};

// Takes entries, and reaches or null, of the sequence from a position on; called on many threads at a time.
using WriteEntries = std::function<void(int64_t at, const Word* entries, const Word* reach, int64_t size)>;

// Hands the events of buckets [first, last) to `write`, a bucket at a time, and counts those of each item.
// offsets: of store.close(). tails: null where they are not wanted.
void sort_events(EventStore& store, const std::vector<int64_t>& offsets, int64_t first, int64_t last,
                 const BuildOptions& options, Workers& workers, Word* occurrences, Tails* tails,
                 const WriteEntries& write);

}  // namespace resemb::graph
