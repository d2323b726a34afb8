// Lookup and bag over the interest graph, forward and backward, on raw pointers.
//
//   E[u]   = sum_e w_e C[n_e] + R[ids[u]]             unique ids of the batch
//   out[p] = E[rank[p]]                               lookup
//   out[b] = sum over p in bag b of c_p E[rank[p]]    bag; c_p = sample weight, or 1 / count for mean
//   G[u]   = sum over positions p of u of c_p * grad of p's output row
//   grad R[ids[u]] = G[u];  grad C[v] = sum_u w_uv G[u];  grad w_uv = G[u] . C[v];
//   grad c_p = grad of p's output row . E[rank[p]]
//
// Under the attention link w are made from C: see common/attention.h and cpu/attention.h.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"

namespace resemb::cpu {

// Outputs from this size on do not stay in cache, so they are written past it.
constexpr int64_t kBypassBytes = int64_t{16} << 20;

struct Lookup {
  int64_t num_items;     // H
  int64_t num_edges;     // E
  int64_t dim;           // D
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

  DType acc() const { return accumulator(table); }
  bool is_bag() const { return offsets != nullptr; }
  GatherArgs gather(const int32_t* ids, int64_t num_ids, void* out) const {
    return {graph, num_items, num_edges, ids, num_ids, dim, table, central, residual, out};
  }
};

constexpr int64_t kRowsPerTask = 128;

// out [P or B, D] from a filled plan. Returns the first unique row whose edges leave the graph's arrays
// or name an item outside [0, H), with nothing written to out; else -1. Under the attention link a row
// without its own entry and one with a log z that is not finite count likewise.
int64_t lookup_forward(const Lookup& x, const PlanView<const int32_t>& plan, void* out,
                       const Parallel& parallel);

// G, [U, D] acc, from grad [P or B, D].
void unique_gradient(const Lookup& x, const PlanView<const int32_t>& plan, const void* grad, void* out,
                     const Parallel& parallel);

// out[targets[u]] = G[u] in the tables' type; targets null: out[u].
void store_gradient(const Lookup& x, const void* g, int64_t num_rows, const int32_t* targets, void* out,
                    const Parallel& parallel);

// Grad w in row order, [T] of `out_double ? double : float`; at edge numbers of the graph where `dense`.
void link_weight_gradient(const Lookup& x, const PlanView<const int32_t>& plan, const TouchedEdges& edges,
                          const void* g, bool dense, bool out_double, void* out, const Parallel& parallel);

// Grad c, [P] acc; 0 at padding. Not defined for mean. The graph is one that lookup_forward took.
void sample_weight_gradient(const Lookup& x, const PlanView<const int32_t>& plan, const void* grad, void* out,
                            const Parallel& parallel);

}  // namespace resemb::cpu
