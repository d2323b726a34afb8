// What every backward on the CPU is made of.
#pragma once

#include "common/backend.h"
#include "common/profile.h"
#include "cpu/lookup.h"
#include "cpu/segments.h"

namespace resemb::cpu {

struct BackwardPass {
  const Lookup& x;
  PlanView<const int32_t> plan;
  const void* grad;
  const Parallel& parallel;

  int64_t unique() const { return plan.num_unique(); }
  int64_t gradient_bytes() const { return unique() * x.dim * static_cast<int64_t>(item_size(x.acc())); }
  // G, [U, D] acc.
  void sum(void* g) const {
    if (x.dim > 0) unique_gradient(x, plan, grad, g, parallel);
  }
  void sample_weights(void* to) const {
    if (to != nullptr) sample_weight_gradient(x, plan, grad, to, parallel);
  }

  TouchedEdges edges() const { return touched_edges(x.graph, plan.unique_ids(), unique(), parallel); }
  // Throws std::invalid_argument where there are more than a transpose counts.
  static void check_count(const TouchedEdges& edges);

  // Calls f(transpose of the touched edges).
  template <class F>
  void with_transpose(const TouchedEdges& edges, const F& f) const {
    check_count(edges);
    if (x.acc() == DType::f64) {
      f(transpose<double>(x.graph, plan.unique_ids(), edges, unique(), x.num_items, parallel));
    } else {
      f(transpose<float>(x.graph, plan.unique_ids(), edges, unique(), x.num_items, parallel));
    }
  }

  // Grad C, one row for each touched neighbour, as sums still to be made.
  template <class A>
  SegmentArgs columns(const Groups<Term<A>>& t, const void* g) const {
    SegmentArgs args{};
    args.terms = t.payloads.data();
    args.num_terms = t.size;
    args.begin = t.starts.data();
    args.end = t.starts.data() + 1;
    args.dim = x.dim;
    args.source_type = x.acc();
    args.out_type = x.table;
    args.source = g;
    args.bypass_cache = t.count * x.dim * static_cast<int64_t>(item_size(x.table)) >= kBypassBytes;
    return args;
  }
};

}  // namespace resemb::cpu
