// The steps of the attention link's CPU operators.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention_expected.h"
#include "cpu/attention.h"
#include "steps.h"

namespace driver {

inline AttentionResults run_attention(const AttentionProblem& a, const resemb::cpu::Parallel& parallel) {
  const Problem& p = a.p;
  Inputs in(p);
  in.lookup.attention = a.link();
  const resemb::Lookup& x = in.lookup;
  const Plan made(p, in, parallel);
  const PlanView plan = made.view();
  AttentionResults r;
  r.out = Array(p.out_type, p.out_rows() * p.dim, p.aligned);
  require(resemb::cpu::lookup_forward(x, plan, r.out.data(), parallel) == -1, "a good graph is called bad");

  Array g(p.acc(), plan.num_unique() * p.dim, p.aligned);
  resemb::cpu::unique_gradient(x, plan, p.grad.data(), g.data(), parallel);
  r.residual = Array(p.table, p.items * p.dim, p.aligned);
  resemb::cpu::store_gradient(x, g.data(), plan.num_unique(), plan.unique_ids(), r.residual.zero().data(),
                              parallel);
  const resemb::cpu::TouchedEdges edges =
      resemb::cpu::touched_edges(x.graph, plan.unique_ids(), plan.num_unique(), parallel);
  r.a_src = Array(p.acc(), p.dim, p.aligned);
  r.a_dst = Array(p.acc(), p.dim, p.aligned);
  r.b = Array(p.acc(), a.heads, p.aligned);
  const resemb::cpu::AttendedEdges attended = resemb::cpu::attention_backward(
      x, plan, edges, g.data(), r.a_src.data(), r.a_dst.data(), r.b.data(), parallel);
  r.central = Array(p.table, p.items * p.dim, p.aligned);
  const auto sum = [&](const auto& touched, resemb::cpu::AttentionSegmentArgs args) {
    Array rows(p.table, touched.size() * p.dim, p.aligned);
    args.out = rows.data();
    args.bypass_cache = true;
    resemb::cpu::sum_segments(args, touched.size(), parallel);
    r.central_by_rows =
        rows.spread({touched.data(), touched.data() + touched.size()}, p.dim, p.items * p.dim);
    args.targets = touched.data();
    args.out = r.central.zero().data();
    args.bypass_cache = false;
    resemb::cpu::sum_segments(args, touched.size(), parallel);
  };
  resemb::cpu::with_attention_columns(x, plan, edges, attended, g.data(), parallel, sum);
  if (!p.samples.empty()) {
    r.samples = Array(p.acc(), p.positions, p.aligned);
    resemb::cpu::sample_weight_gradient(x, plan, p.grad.data(), r.samples.data(), parallel);
  }
  return r;
}

// A row without its own item, and one with a log weight that is not finite, are found before anything is
// written.
inline void check_bad_attention(AttentionProblem& a, Random& random) {
  Problem& p = a.p;
  if (p.positions == 0) return;
  const int64_t row = p.ids[random.below(p.positions)];
  const int64_t first = p.indptr[row], past = p.indptr[row + 1];
  if (row == p.padding || first == past || p.items < 2) return;
  if (random.one_in(2)) {
    std::replace(p.neighbors.begin() + first, p.neighbors.begin() + past, row, (row + 1) % p.items);
  } else {
    const double bad[] = {NAN, INFINITY, -INFINITY};
    p.weights[first + random.below(past - first)] = bad[random.below(3)];
  }
  const resemb::cpu::Parallel parallel(3, launch);
  Inputs in(p);
  in.lookup.attention = a.link();
  const Plan plan(p, in, parallel);
  Array out(p.out_type, p.out_rows() * p.dim, p.aligned);
  const Array untouched(p.out_type, p.out_rows() * p.dim, p.aligned);
  const int64_t found = resemb::cpu::lookup_forward(in.lookup, plan.view(), out.data(), parallel);
  require(found >= 0 && plan.view().unique_ids()[found] == row, "a row unfit for attention goes unseen");
  require(out.same_bits(untouched), "written despite a bad row");
}

}  // namespace driver
