// Dedupe of ids and transpose of the touched edges.
#pragma once

#include <cstdint>

#include "common/plan.h"
#include "common/types.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"
#include "cpu/sort.h"

namespace resemb {

struct Ids {
  const void* data;
  bool are_int64;
  int64_t count;  // P

  int64_t operator[](int64_t p) const {
    return are_int64 ? static_cast<const int64_t*>(data)[p] : static_cast<const int32_t*>(data)[p];
  }
};

// The first position whose id is outside [0, num_items), or -1.
int64_t first_bad_id(const Ids& ids, int64_t num_items, const Parallel& parallel);

// Fills the plan of valid ids. padding_idx < 0: none.
void make_plan(const Ids& ids, int64_t num_items, int64_t padding_idx, const PlanView<int32_t>& plan,
               const Parallel& parallel);

// Edges of the touched rows, in row order: edge t of unique row u stands at offsets[u] + k.
struct TouchedEdges {
  Buffer<int64_t> offsets;  // [U + 1]
  int64_t count = 0;        // T
};
TouchedEdges touched_edges(const GraphView& graph, const int32_t* rows, int64_t num_rows);

// Touched edges grouped by neighbour: for each touched neighbour its terms (unique row, link weight),
// in row order.
template <class A>
Groups<Term<A>> transpose(const GraphView& graph, const int32_t* rows, const TouchedEdges& edges,
                          int64_t num_rows, int64_t num_items, const Parallel& parallel);

extern template Groups<Term<float>> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t,
                                              int64_t, const Parallel&);
extern template Groups<Term<double>> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t,
                                               int64_t, const Parallel&);

}  // namespace resemb
