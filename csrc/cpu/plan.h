// Dedupe of ids and transpose of the touched edges.
#pragma once

#include <cstdint>

#include "common/lookup.h"
#include "cpu/buffer.h"
#include "cpu/groups.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace resemb::cpu {

// The plan of a lookup: its unique ids and which of them each position asked for. The operator hands it
// from forward to backward as one int32 tensor, so that its shape depends on P alone.
//
// Layout: [U, ids[P], rank[P]]
//   U        number of unique ids, padding left out
//   ids[u]   ascending; the first U are set, the rest zero
//   rank[p]  u of position p; U for padding
template <class Int>
struct PlanView {
  Int* data;
  int64_t positions_count;  // P

  Int& num_unique() const { return data[0]; }
  Int* unique_ids() const { return data + 1; }
  Int* rank() const { return unique_ids() + positions_count; }
};

// Fills the plan and returns -1; or returns the first position whose id is outside [0, num_items), with
// nothing written. padding_idx < 0: none.
int64_t make_plan(const Ids& ids, int64_t num_items, int64_t padding_idx, const PlanView<int32_t>& plan,
                  const Parallel& parallel);

// Edges of the unique ids, in their order: edge t of unique id u stands at offsets[u] + k.
struct TouchedEdges {
  Buffer<int64_t> offsets;  // [U + 1]
  int64_t count = 0;        // T
};
TouchedEdges touched_edges(const GraphView& graph, const int32_t* ids, int64_t num_ids,
                           const Parallel& parallel);

// Touched edges by neighbour: for each touched neighbour its terms, in order.
template <class T>
struct Columns {
  Buffer<int32_t> items;  // [V] the touched neighbours, ascending
  Groups<T> terms;
};

// What an edge's term holds: the unique id u beside the link weight; u beside what the attention link
// keeps of the edge, values [T]; or u beside the edge's place.
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
