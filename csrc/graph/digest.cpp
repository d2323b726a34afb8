#include "graph/digest.h"

#include <atomic>

#include "graph/hash.h"

namespace resemb::graph {

Digest digest_events(Workers& workers, const Events& events, int64_t first) {
  std::array<std::atomic<uint64_t>, 2> total{};
  const uint64_t kind = events.int_time ? 1 : events.float_time ? 2 : 0;
  workers.ranges(events.count, detail::kEventGrain, [&](int64_t begin, int64_t end) {
    Digest sum{};
    for (int64_t i = begin; i < end; ++i)
      for (uint64_t lane = 0; lane < 2; ++lane) {
        uint64_t x = mix64(static_cast<uint64_t>(first + i) * 4 + kind + 0x9e3779b97f4a7c15u * (lane + 1));
        x = mix64(x + static_cast<uint64_t>(events.user[i]));
        x = mix64(x + static_cast<uint64_t>(events.item[i]));
        sum[lane] += mix64(x + events.time_key(i));
      }
    for (int lane = 0; lane < 2; ++lane) total[lane] += sum[lane];
  });
  return {total[0], total[1]};
}

}  // namespace resemb::graph
