// Grouping by rank: a stable counting sort in parallel, without atomics.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace resemb::cpu {

// Payloads in order of their groups, those of one group in the order of their making.
template <class Payload>
struct Groups {
  int64_t count = 0;         // groups
  int64_t size = 0;          // payloads
  Buffer<uint32_t> starts;   // [count + 1] into payloads
  Buffer<Payload> payloads;  // [size]
};

// Groups the payloads of entries 0 .. n-1, leaving out those whose rank is not below `groups`.
// make(begin, end, emit) calls emit(i, payload of entry i) for i from begin to end - 1. Each part counts
// its own entries, so parts are bounded to bound parts x groups counters.
template <class Payload, class Make>
Groups<Payload> group_by_rank(const int32_t* ranks, int64_t n, int64_t groups, const Parallel& parallel,
                              const Make& make) {
  constexpr int64_t kEntriesPerPart = 16384;  // below which a second thread does not pay
  constexpr int kMostParts = 16;
  constexpr int64_t kGroupsPerTask = 16384;
  constexpr int64_t kAhead = 32;  // entries whose place is prefetched
  const int64_t parts = std::min(parallel.threads_for(n, kEntriesPerPart), kMostParts);
  const auto part_begin = [&](int64_t part) { return n * part / parts; };
  const auto grouped = [&](int64_t i) {
    return static_cast<uint32_t>(ranks[i]) < static_cast<uint32_t>(groups);
  };

  Buffer<uint32_t> places(parts * groups);
  parallel.tasks(parts, [&](int64_t part) {
    uint32_t* count = places.data() + part * groups;
    std::fill_n(count, groups, 0u);
    for (int64_t i = part_begin(part); i < part_begin(part + 1); ++i) {
      if (grouped(i)) ++count[ranks[i]];
    }
  });

  Groups<Payload> result;
  result.count = groups;
  result.starts = Buffer<uint32_t>(groups + 1);
  const int64_t tasks = (groups + kGroupsPerTask - 1) / kGroupsPerTask;
  Buffer<int64_t> task_sizes(tasks);
  parallel.ranges(groups, kGroupsPerTask, [&](int64_t begin, int64_t end) {
    int64_t sum = 0;
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t g = begin; g < end; ++g) sum += places[part * groups + g];
    }
    task_sizes[begin / kGroupsPerTask] = sum;
  });
  for (int64_t task = 0; task < tasks; ++task) {
    result.size += std::exchange(task_sizes[task], result.size);
  }
  parallel.ranges(groups, kGroupsPerTask, [&](int64_t begin, int64_t end) {
    uint32_t at = static_cast<uint32_t>(task_sizes[begin / kGroupsPerTask]);
    for (int64_t g = begin; g < end; ++g) {
      result.starts[g] = at;
      for (int64_t part = 0; part < parts; ++part) {
        uint32_t& place = places[part * groups + g];
        at += std::exchange(place, at);
      }
    }
  });
  result.starts[groups] = static_cast<uint32_t>(result.size);

  result.payloads = Buffer<Payload>(result.size);
  parallel.tasks(parts, [&](int64_t part) {
    uint32_t* place = places.data() + part * groups;
    make(part_begin(part), part_begin(part + 1), [&](int64_t i, const Payload& payload) {
      // A group's next place is known, nearly, long before it is written.
      if (i + kAhead < n && grouped(i + kAhead)) {
        __builtin_prefetch(result.payloads.data() + place[ranks[i + kAhead]], /*write=*/1);
      }
      if (grouped(i)) result.payloads[place[ranks[i]]++] = payload;
    });
  });
  return result;
}

}  // namespace resemb::cpu
