// Lookup and bag on the CPU: the parts of forward and backward, see common/lookup.h.
#pragma once

#include <cstdint>

#include "common/lookup.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"

namespace resemb::cpu {

// Outputs from this size on do not stay in cache, so they are written past it.
constexpr int64_t kBypassBytes = int64_t{16} << 20;

// E of ids, to out, of out_type.
inline GatherArgs gather_of(const Lookup& x, const int32_t* ids, int64_t num_ids, void* out, DType out_type) {
  return {x.graph, x.num_items, x.num_edges, ids, num_ids, x.dim,
          x.table, x.central,   x.residual,  out, out_type};
}

constexpr int64_t kIdsPerTask = 128;

// out [P or B, D] from a filled plan. Returns the first unique id whose edges leave the graph's arrays
// or name an item outside [0, H), with nothing written to out; else -1. Under the attention link an id
// without its own entry and one with a log z that is not finite count likewise.
int64_t lookup_forward(const Lookup& x, const PlanView<const int32_t>& plan, void* out,
                       const Parallel& parallel);

// G, [U, D] acc, from grad [P or B, D].
void unique_gradient(const Lookup& x, const PlanView<const int32_t>& plan, const void* grad, void* out,
                     const Parallel& parallel);

// out[targets[u]] = G[u] in the tables' type; targets null: out[u].
void store_gradient(const Lookup& x, const void* g, int64_t num_rows, const int32_t* targets, void* out,
                    const Parallel& parallel);

// Grad w in the touched edges' order, [T] of the weights' type; at edge numbers of the graph where `dense`.
void link_weight_gradient(const Lookup& x, const PlanView<const int32_t>& plan, const TouchedEdges& edges,
                          const void* g, bool dense, void* out, const Parallel& parallel);

// Grad c, [P] acc; 0 at padding. Not defined for mean. The graph is one that lookup_forward took.
void sample_weight_gradient(const Lookup& x, const PlanView<const int32_t>& plan, const void* grad, void* out,
                            const Parallel& parallel);

}  // namespace resemb::cpu
