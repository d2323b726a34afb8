// Lookup and bag on the device: the parts of forward and backward, see
// common/lookup.h.
#pragma once

#include <cstdint>

#include "cuda/plan.h"

namespace resemb::cuda {

// out [P or B, D].
void lookup_forward(const Context& c, const Lookup& x, const Groups& groups, void* out);

// G, [U, D] acc, from grad [P or B, D].
void unique_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* grad, void* out);

// G in the tables' type: out[ids[u]] = G[u], or out[u] where `in_line`.
void store_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* g, bool in_line,
                    void* out);

// grad C: out[items[v]], or out[v] where `in_line`.
void central_gradient(const Context& c, const Lookup& x, const Columns& columns, const void* g, bool in_line,
                      void* out);

// Grad w in the touched edges' order, [T] of the weights' type; at edge numbers
// of the graph where `dense`, else those go to `numbers` [T].
void link_weight_gradient(const Context& c, const Lookup& x, const TouchedEdges& edges, const void* g,
                          bool dense, int64_t* numbers, void* out);

// Grad c, [P] acc; 0 at padding. Not defined for mean.
void sample_weight_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* grad,
                            void* out);

}  // namespace resemb::cuda
