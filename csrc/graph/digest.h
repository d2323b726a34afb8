// A digest of events that can be continued: the sum over events of a mix of (index, user, item, time).
#pragma once

#include <array>
#include <cstdint>

#include "graph/sequence.h"
#include "graph/workers.h"

namespace resemb::graph {

using Digest = std::array<uint64_t, 2>;

// first: index of the first event. Independent of the threads, as sums modulo 2^64 are.
Digest digest_events(Workers& workers, const Events& events, int64_t first);

}  // namespace resemb::graph
