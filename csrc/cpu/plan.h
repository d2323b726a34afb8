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

// The first unique row of the plan whose edges leave the graph's arrays (num_edges) or name a
// neighbour outside [0, num_items), or -1. Keeps a malformed graph from reading foreign memory.
int64_t first_bad_row(const GraphView& graph, const int32_t* rows, int64_t num_rows, int64_t num_items,
                      int64_t num_edges, const Parallel& parallel);

// Edges of the touched rows, in row order: edge t of unique row u stands at offsets[u] + k.
struct TouchedEdges {
  Buffer<int64_t> offsets;  // [U + 1]
  int64_t count = 0;        // T
};
TouchedEdges touched_edges(const GraphView& graph, const int32_t* rows, int64_t num_rows);

// Touched edges grouped by neighbour: column v of the touched rows, its terms in row order.
template <class A>
struct Transpose {
  Runs columns;               // V runs over `terms`
  Buffer<int32_t> neighbors;  // [V] ascending
  Buffer<Term<A>> terms;      // [T] (unique row, link weight)
};
template <class A>
Transpose<A> transpose(const GraphView& graph, const int32_t* rows, const TouchedEdges& edges,
                       int64_t num_rows, int64_t num_items, const Parallel& parallel);

extern template Transpose<float> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t,
                                           int64_t, const Parallel&);
extern template Transpose<double> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t,
                                            int64_t, const Parallel&);

}  // namespace resemb
