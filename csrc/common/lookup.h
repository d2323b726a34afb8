// Lookup and bag over the interest graph: what every device takes, on raw pointers.
//
//   E[u]   = sum_e w_e C[n_e] + R[ids[u]]             unique ids of the batch
//   out[p] = E[rank[p]]                               lookup
//   out[b] = sum over p in bag b of c_p E[rank[p]]    bag; c_p = sample weight, or 1 / count for mean
//   G[u]   = sum over positions p of u of c_p * grad of p's output row
//   grad R[ids[u]] = G[u];  grad C[v] = sum_u w_uv G[u];  grad w_uv = G[u] . C[v];
//   grad c_p = grad of p's output row . E[rank[p]]
//
// Under the attention link w are made from C: see common/attention.h.
#pragma once

#include <cstdint>

#include "common/attention.h"
#include "common/types.h"

namespace resemb {

// Ids, or rows of a table, as a tensor holds them.
struct Ids {
  const void* data;
  bool are_int64;
  int64_t count;  // P

  int64_t operator[](int64_t p) const {
    return are_int64 ? static_cast<const int64_t*>(data)[p] : static_cast<const int32_t*>(data)[p];
  }
};

struct Lookup {
  int64_t num_items;     // H
  int64_t num_edges;     // E
  int64_t dim;           // D
  int64_t positions;     // P
  DType table;           // of central and residual
  DType out_type;        // of the output and its gradient
  const void* central;   // [H, D]; may be null where only G and grad C are wanted
  const void* residual;  // [H, D]; may be null likewise
  GraphView graph;
  const int64_t* offsets;      // [B + 1] starts of bags and P, or null for a lookup
  int64_t num_bags;            // B
  const void* sample_weights;  // [P] acc, or null
  bool mean;                   // divide a bag's sum by its count of positions other than padding
  Attention attention;         // heads 0: w are the graph's; else those are log z
  // For CUDA, where arrays are made as long as a batch can need them.
  bool graph_on_host;  // in pinned memory: every touched edge is read once a pass
  int64_t max_degree;  // edges of an item, at most

  DType acc() const { return accumulator(table); }
  bool is_bag() const { return offsets != nullptr; }
  int64_t out_rows() const { return is_bag() ? num_bags : positions; }
  // Unique ids, touched edges and touched neighbours of a batch, at most.
  int64_t max_unique() const { return positions < num_items ? positions : num_items; }
  int64_t max_edges() const {
    const bool all = max_unique() == 0 || max_degree > num_edges / max_unique();
    return all && max_unique() > 0 ? num_edges : max_unique() * max_degree;
  }
  int64_t max_columns() const { return max_edges() < num_items ? max_edges() : num_items; }
};

// Numbers, int32, of the plan that forward hands to backward; what they are is the device's own matter.
constexpr int64_t plan_size(int64_t positions) { return 2 * positions + 1; }

}  // namespace resemb
