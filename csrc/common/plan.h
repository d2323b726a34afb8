// The plan of a lookup: its unique rows and, for each, the positions that asked for it. The operator
// hands it from forward to backward as one int32 tensor, so that its shape depends on P alone.
#pragma once

#include <cstdint>

namespace resemb {

// Layout: [U, valid, rows[P], starts[P + 1], positions[P], rank[P]]
//   U               number of unique rows, padding left out
//   valid           number of positions that are not padding
//   rows[u]         item id, ascending; the first U are set, the rest zero
//   starts[u]       where u's positions start in `positions`; the first U + 1 are set, the rest zero
//   positions[i]    positions grouped by row, ascending within a row; the first `valid` are set, the rest
//   zero rank[p]         u of position p; U for padding
template <class Int>
struct PlanView {
  Int* data;
  int64_t positions_count;  // P

  static constexpr int64_t size(int64_t p) { return 4 * p + 3; }

  Int& unique() const { return data[0]; }
  Int& valid() const { return data[1]; }
  Int* rows() const { return data + 2; }
  Int* starts() const { return rows() + positions_count; }
  Int* positions() const { return starts() + positions_count + 1; }
  Int* rank() const { return positions() + positions_count; }
};

}  // namespace resemb
