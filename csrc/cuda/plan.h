// Dedupe of ids and transpose of the touched edges on the device, and what is
// done with lists of numbers.
//
// Nothing waits for the device: the numbers of unique ids, touched edges and
// touched neighbours stay there, and arrays have the size that P, H and the
// graph's largest degree allow.
#pragma once

#include <cstdint>

#include "common/backend.h"
#include "cuda/context.h"

namespace resemb::cuda {

// The plan on the device, int32 [plan_size(P)]: U; the positions' ids in
// ascending order, padding and bad ones as H at the end; and the positions in
// that order.
struct Plan {
  uint32_t* num_unique;  // [1]
  uint32_t* sorted;      // [P]
  uint32_t* order;       // [P]
  Plan(int32_t* data, int64_t positions)
      : num_unique(reinterpret_cast<uint32_t*>(data)), sorted(num_unique + 1), order(sorted + positions) {}
};

// Unique ids and, for each, its positions: order[starts[u]] to order[starts[u +
// 1]].
struct Groups {
  const uint32_t* num_unique;  // [1] U
  uint32_t* ids;               // [U], ascending
  uint32_t* starts;            // [U + 1]
  uint32_t* rank;              // [P] u of a position; max_unique() for padding
  const uint32_t* order;       // [P]
};

// Sorts ids. padding_idx < 0: none.
void make_plan(const Context& c, const Lookup& x, const Ids& ids, int64_t padding_idx, const Plan& plan);
// Finds the groups of a plan, and sets its U.
Groups make_groups(const Context& c, const Lookup& x, const Plan& plan);

// Edges of the unique ids, in their order: edge t of unique id u stands at
// starts[u] + k.
struct TouchedEdges {
  int64_t* first;    // [U] the graph's number of the item's first edge
  uint32_t* starts;  // [U + 1]
  uint32_t* count;   // [1] T
  uint32_t* row;     // [T] u
  uint32_t* column;  // [T] the neighbour; H for one that the graph should not have
};
TouchedEdges touched_edges(const Context& c, const Lookup& x, const Groups& groups);

// Touched edges by neighbour, for each its edges in order: order[starts[v]] to
// order[starts[v + 1]].
struct Columns {
  uint32_t* count;    // [1] V
  uint32_t* items;    // [V], ascending
  uint32_t* starts;   // [V + 1]
  uint32_t* order;    // [T] t
  const void* edges;  // [T] u and link weight of edge t
};
// Without weights, Columns::edges is null.
Columns transpose(const Context& c, const Lookup& x, const TouchedEdges& edges, bool with_weights = true);
// The link weights of touched edges, [T] acc.
const void* touched_weights(const Context& c, const Lookup& x, const TouchedEdges& edges);

// out[i] = numbers[i] for i < n, where n is known.
void to_int64(const Context& c, const uint32_t* numbers, int64_t n, int64_t* out);

// The largest degree of a graph, to *out on the device.
void max_degree(const Context& c, const int64_t* indptr, int64_t num_items, uint32_t* out);

// Reports rows that do not ascend strictly within [0, H), and sets *bad to 1
// where not null.
void check_rows(const Context& c, const TableRows& rows, bool to_fault, uint32_t* bad);

}  // namespace resemb::cuda
