// The plan of a lookup: its unique ids and which of them each position asked for. The operator hands it
// from forward to backward as one int32 tensor, so that its shape depends on P alone.
#pragma once

#include <cstdint>

namespace resemb::cpu {

// Layout: [U, ids[P], rank[P]]
//   U        number of unique ids, padding left out
//   ids[u]   ascending; the first U are set, the rest zero
//   rank[p]  u of position p; U for padding
template <class Int>
struct PlanView {
  Int* data;
  int64_t positions_count;  // P

  static constexpr int64_t size(int64_t p) { return 2 * p + 1; }

  Int& num_unique() const { return data[0]; }
  Int* unique_ids() const { return data + 1; }
  Int* rank() const { return unique_ids() + positions_count; }
};

}  // namespace resemb::cpu
