// The plan of a lookup: its unique rows and which of them each position asked for. The operator hands it
// from forward to backward as one int32 tensor, so that its shape depends on P alone.
#pragma once

#include <cstdint>

namespace resemb {

// Layout: [U, rows[P], rank[P]]
//   U        number of unique rows, padding left out
//   rows[u]  item id, ascending; the first U are set, the rest zero
//   rank[p]  u of position p; U for padding
template <class Int>
struct PlanView {
  Int* data;
  int64_t positions_count;  // P

  static constexpr int64_t size(int64_t p) { return 2 * p + 1; }

  Int& unique() const { return data[0]; }
  Int* rows() const { return data + 1; }
  Int* rank() const { return rows() + positions_count; }
};

}  // namespace resemb
