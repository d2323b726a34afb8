// The attention link on the device, and forward over edges listed beforehand; the link itself is defined in
// common/attention.h.
#pragma once

#include "cuda/lookup.h"

namespace resemb::cuda {

// E of the unique ids under attention, or of a graph in host memory, to rows `targets` says of `out` (null:
// in order; first_targets: to targets[first_targets[u]]).
void gather_listed(const Context& c, const Lookup& x, const Groups& g, DType out_type, void* out,
                   const uint32_t* targets, const uint32_t* first_targets);

// Shares of the touched edges, [T, heads] acc, after dropout.
const void* attend(const Context& c, const Lookup& x, const Groups& groups, const TouchedEdges& edges);

// What backward makes of G before anything is written:
//   grad C[v] = sum over rows u of alpha_uv G[u] + column_scores[v] a_dst, and row_scores[i] a_src where v is
//   the unique id i; heads on their own columns
struct AttentionGradient {
  Columns columns;
  const uint32_t* edge_rows;  // [T] u
  const void* alpha;          // [T, heads] acc, after dropout
  const void* row_scores;     // [U, heads] acc
  const void* column_scores;  // [V, heads] acc
  const uint32_t* own;        // [V] u of the column's own item; max_unique() where it is not touched
};

// Also the gradients of a_src and a_dst, [D], and b, [heads], all acc.
AttentionGradient attention_backward(const Context& c, const Lookup& x, const Groups& groups, const void* g,
                                     void* a_src, void* a_dst, void* b);

// grad C: out[items[v]], or out[v] where `in_line`.
void attention_central_gradient(const Context& c, const Lookup& x, const AttentionGradient& gradient,
                                const void* g, bool in_line, void* out);

}  // namespace resemb::cuda
