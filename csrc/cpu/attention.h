// The attention link's backward, on raw pointers: see common/attention.h and AttentionArgs.
//
//   grad C[v] = sum over rows u of alpha_uv G[u] + score_uv a_dst, and a_src (sum over v of score_iv) of
//               the row i of v itself; heads on their own columns
//   grad a_src = sum of score_uv C[u];  grad a_dst = sum of score_uv C[v];  grad b = sum of d_uv log z_uv
#pragma once

#include <cstdint>

#include "cpu/lookup.h"

namespace resemb::cpu {

// E of rows [begin, end) to args.out; see Kernels::attend.
int64_t attend(const GatherArgs& args, const Attention& link, int64_t begin, int64_t end);

// What the touched edges and rows hand to the gradient of C.
struct AttendedEdges {
  Buffer<char> edges;       // [T, 2, heads] acc: alpha and score
  Buffer<char> row_scores;  // [U, heads] acc
};

// From G, [U, D] acc, and C: all that backward reads of C. Gradients of a_src and a_dst, [D], and of b,
// [heads], in acc, go to a_src, a_dst, b; they are sums over tasks of a fixed size, in order.
AttendedEdges attention_backward(const Lookup& x, const PlanView<const int32_t>& plan,
                                 const TouchedEdges& edges, const void* g, void* a_src, void* a_dst, void* b,
                                 const Parallel& parallel);

// Calls f(touched neighbours, ascending, their segments' count, AttentionSegmentArgs without targets and
// output): the gradient of C, one row for each touched neighbour, as sums still to be made.
template <class F>
void with_attention_columns(const Lookup& x, const PlanView<const int32_t>& plan, const TouchedEdges& edges,
                            const AttendedEdges& attended, const void* g, const Parallel& parallel,
                            const F& f) {
  const auto sum = [&](const auto& terms) {
    const auto columns =
        transpose_terms(terms, x.graph, plan.unique_ids(), edges, plan.num_unique(), x.num_items, parallel);
    AttentionSegmentArgs args{};
    args.terms = columns.terms.payloads.data();
    args.num_terms = columns.terms.size;
    args.begin = columns.terms.starts.data();
    args.end = columns.terms.starts.data() + 1;
    args.dim = x.dim;
    args.source_type = x.acc();
    args.out_type = x.table;
    args.source = g;
    args.bypass_cache =
        columns.terms.count * x.dim * static_cast<int64_t>(item_size(x.table)) >= kBypassBytes;
    args.link = x.attention;
    args.edges = attended.edges.data();
    args.row_scores = attended.row_scores.data();
    args.unique_ids = plan.unique_ids();
    args.num_unique = plan.num_unique();
    args.items = columns.items.data();
    f(columns.items, args);
  };
  if (x.attention.heads > 1) {
    sum(PlacedTerms{});
  } else if (x.acc() == DType::f64) {
    sum(AttendedTerms<double>{reinterpret_cast<const EdgeGradient<double>*>(attended.edges.data())});
  } else {
    sum(AttendedTerms<float>{reinterpret_cast<const EdgeGradient<float>*>(attended.edges.data())});
  }
}

}  // namespace resemb::cpu
