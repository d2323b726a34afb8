// Dedupe of ids and transpose of the touched edges.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "cpu/buffer.h"
#include "cpu/groups.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/plan_view.h"

namespace resemb::cpu {

struct Ids {
  const void* data;
  bool are_int64;
  int64_t count;  // P

  int64_t operator[](int64_t p) const {
    return are_int64 ? static_cast<const int64_t*>(data)[p] : static_cast<const int32_t*>(data)[p];
  }
};

// Fills the plan and returns -1; or returns the first position whose id is outside [0, num_items), with
// nothing written. padding_idx < 0: none.
int64_t make_plan(const Ids& ids, int64_t num_items, int64_t padding_idx, const PlanView<int32_t>& plan,
                  const Parallel& parallel);

// Edges of the touched rows, in row order: edge t of unique row u stands at offsets[u] + k.
struct TouchedEdges {
  Buffer<int64_t> offsets;  // [U + 1]
  int64_t count = 0;        // T
};
TouchedEdges touched_edges(const GraphView& graph, const int32_t* ids, int64_t num_ids,
                           const Parallel& parallel);

// Touched edges by neighbour: for each touched neighbour its terms, in row order.
template <class T>
struct Columns {
  Buffer<int32_t> items;  // [V] the touched neighbours, ascending
  Groups<T> terms;
};

// What an edge's term holds: the unique row beside the link weight; the row beside what the attention link
// keeps of the edge, values [T]; or the row beside the edge's place.
template <class A>
struct WeightTerms {
  using Payload = Term<A>;
};
template <class A>
struct AttendedTerms {
  using Payload = AttendedTerm<A>;
  const EdgeGradient<A>* values;
};
struct PlacedTerms {
  using Payload = PlacedTerm;
};

template <class Terms>
Columns<typename Terms::Payload> transpose_terms(const Terms& terms, const GraphView& graph,
                                                 const int32_t* ids, const TouchedEdges& edges,
                                                 int64_t num_ids, int64_t num_items,
                                                 const Parallel& parallel);
template <class A>
Columns<Term<A>> transpose(const GraphView& graph, const int32_t* ids, const TouchedEdges& edges,
                           int64_t num_ids, int64_t num_items, const Parallel& parallel) {
  return transpose_terms(WeightTerms<A>{}, graph, ids, edges, num_ids, num_items, parallel);
}

}  // namespace resemb::cpu
