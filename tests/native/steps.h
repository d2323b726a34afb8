// A problem's arrays as the kernels take them, and the steps of forward and backward in the operators'
// order. All that the driver knows of the kernels' interface stands here.
#pragma once

#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/lookup.h"
#include "cpu/segments.h"
#include "expected.h"

namespace driver {

inline void launch(int threads, void (*body)(void*), void* context) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(body, context);
  body(context);
  for (auto& t : others) t.join();
}

struct Inputs {
  Indices ids_data, neighbors;
  Array weights, samples;
  resemb::Ids ids;
  resemb::Lookup lookup{};

  explicit Inputs(const Problem& p)
      : ids_data(p.ids, p.int64_ids),
        neighbors(p.neighbors, p.int64_neighbors),
        weights(p.weights_type, p.edges(), p.aligned),
        samples(p.acc(), static_cast<int64_t>(p.samples.size()), p.aligned),
        ids{ids_data.data(), p.int64_ids, p.positions} {
    for (int64_t e = 0; e < p.edges(); ++e) weights.set(e, p.weights[e]);
    for (int64_t i = 0; i < samples.size(); ++i) samples.set(i, p.samples[i]);
    lookup.num_items = p.items;
    lookup.num_edges = p.edges();
    lookup.dim = p.dim;
    lookup.table = p.table;
    lookup.out_type = p.out_type;
    lookup.central = p.central.data();
    lookup.residual = p.residual.data();
    lookup.graph = {p.indptr.data(), neighbors.data(), weights.data(), p.int64_neighbors, p.weights_type};
    lookup.offsets = p.bags < 0 ? nullptr : p.offsets.data();
    lookup.num_bags = p.bags < 0 ? 0 : p.bags;
    lookup.sample_weights = samples.data();
    lookup.mean = p.mean;
  }
  Inputs(const Inputs&) = delete;
};

using PlanView = resemb::cpu::PlanView<const int32_t>;

class Plan {
 public:
  int64_t bad_position;  // -1: none, and there is a plan

  Plan(const Problem& p, const Inputs& in, const resemb::cpu::Parallel& parallel)
      : memory_(resemb::plan_size(p.positions), -1), positions_(p.positions) {
    bad_position = resemb::cpu::make_plan(in.ids, p.items, p.padding, {memory_.data(), positions_}, parallel);
  }
  PlanView view() const { return {memory_.data(), positions_}; }

 private:
  std::vector<int32_t> memory_;
  int64_t positions_;
};

// Gradients of whole tables, and spread from rows of what was touched.
struct Results {
  Array out, central, residual, weights, samples;
  Array central_by_rows, residual_by_rows, weights_by_rows;
};

// sum_segments_to gives the bytes that sum_segments stored, every row once.
inline void handed_out(const Problem& p, resemb::cpu::SegmentArgs args, const Array& rows, int64_t count,
                       const resemb::cpu::Parallel& parallel) {
  const int64_t row_bytes = p.dim * static_cast<int64_t>(resemb::item_size(p.table));
  std::vector<char> found(static_cast<size_t>(count * row_bytes)), times(static_cast<size_t>(count));
  args.targets = nullptr;
  resemb::cpu::sum_segments_to(args, count, parallel, [&](int64_t begin, int64_t end, const void* sums) {
    if (begin == end) return;
    std::memcpy(found.data() + begin * row_bytes, sums, static_cast<size_t>((end - begin) * row_bytes));
    for (int64_t s = begin; s < end; ++s) ++times[s];
  });
  for (const char n : times) require(n == 1, "a segment is not handed out once");
  require(found.empty() || std::memcmp(found.data(), rows.data(), found.size()) == 0,
          "sums handed out differ from sums stored");
}

// One step of a rule with all its state, on the gradient's rows: for the sanitizers.
inline void step_rule(const Problem& p, const std::vector<int64_t>& items, const Array& gradient,
                      const resemb::cpu::Parallel& parallel, resemb::Rule rule, resemb::Moment first_form,
                      resemb::Moment second_form, bool random_rounding) {
  using resemb::Moment;
  const auto bytes = [&](Moment form) {
    const size_t item = form == Moment::i8 ? 1 : form == Moment::bf16 ? 2 : resemb::item_size(p.acc());
    return item * static_cast<size_t>(form == Moment::row ? p.items : p.items * p.dim);
  };
  Array table(p.table, p.items * p.dim, p.aligned);
  std::vector<char> first(bytes(first_form)), second(bytes(second_form));
  std::vector<float> scale(static_cast<size_t>(first_form == Moment::i8 ? p.items : 0));
  std::vector<int32_t> steps(static_cast<size_t>(p.items));
  std::vector<double> decayed(static_cast<size_t>(p.items));
  resemb::UpdateArgs a{};
  a.rule = rule;
  a.table = p.table;
  a.num_rows = static_cast<int64_t>(items.size());
  a.dim = p.dim;
  a.rows = items.data();
  a.grad = gradient.data();
  a.param = table.zero().data();
  a.first = first.data();
  a.first_scale = scale.data();
  a.second = second.data();
  a.first_form = first_form;
  a.second_form = second_form;
  a.row_steps = steps.data();
  a.decayed = decayed.data();
  a.decay_now = -0.1;
  a.shrink = 0.9;
  a.weight_decay = 0.1;
  a.lr = 0.1;
  a.beta1 = a.beta2 = 0.9;
  a.eps = 1e-8;
  a.random_rounding = random_rounding;
  parallel.ranges(a.num_rows, 16, [&](int64_t b, int64_t e) { resemb::cpu::kernels().update(a, b, e); });
  for (const int64_t item : items) require(steps[item] == 1, "a row is not stepped once");
}

inline void step_every_rule(const Problem& p, const std::vector<int64_t>& items, const Array& gradient,
                            const resemb::cpu::Parallel& parallel) {
  using resemb::Moment;
  using resemb::Rule;
  for (int number = 0; number <= static_cast<int>(Rule::decay); ++number) {
    const Rule rule = static_cast<Rule>(number);
    const Moment second = rule == Rule::rowwise_adagrad ? Moment::row : Moment::acc;
    step_rule(p, items, gradient, parallel, rule, Moment::acc, second, number % 2 == 0);
  }
  if (p.table == resemb::DType::f64) return;  // it has no compact state
  const std::pair<Moment, Moment> compact[] = {{Moment::bf16, Moment::bf16},
                                               {Moment::acc, Moment::row},
                                               {Moment::bf16, Moment::row},
                                               {Moment::i8, Moment::row}};
  for (const auto& [first, second] : compact) {
    step_rule(p, items, gradient, parallel, Rule::adam, first, second, first == Moment::i8);
  }
}

template <class A>
void central_gradient(const Problem& p, const resemb::Lookup& x, const PlanView& plan,
                      const resemb::cpu::TouchedEdges& edges, const Array& g,
                      const resemb::cpu::Parallel& parallel, Results& r) {
  const auto columns =
      resemb::cpu::transpose<A>(x.graph, plan.unique_ids(), edges, plan.num_unique(), p.items, parallel);
  const std::vector<int64_t> items(columns.items.data(), columns.items.data() + columns.items.size());
  const std::vector<int32_t> targets(items.begin(), items.end());
  for (int64_t v = 1; v < columns.terms.count; ++v)
    require(items[v] > items[v - 1], "neighbours do not ascend");
  resemb::cpu::SegmentArgs args{};
  args.terms = columns.terms.payloads.data();
  args.num_terms = columns.terms.size;
  args.begin = columns.terms.starts.data();
  args.end = columns.terms.starts.data() + 1;
  args.dim = p.dim;
  args.source_type = x.acc();
  args.out_type = p.table;
  args.source = g.data();
  Array rows(p.table, columns.terms.count * p.dim, p.aligned);
  args.out = rows.data();
  args.bypass_cache = true;
  resemb::cpu::sum_segments(args, columns.terms.count, parallel);
  r.central_by_rows = rows.spread(items, p.dim, p.items * p.dim);
  handed_out(p, args, rows, columns.terms.count, parallel);
  step_every_rule(p, items, rows, parallel);
  args.targets = targets.data();
  args.out = r.central.zero().data();
  args.bypass_cache = false;
  resemb::cpu::sum_segments(args, columns.terms.count, parallel);
}

inline void weights_gradient(const Problem& p, const resemb::Lookup& x, const PlanView& plan,
                             const resemb::cpu::TouchedEdges& edges, const Array& g,
                             const resemb::cpu::Parallel& parallel, Results& r) {
  const DType type = p.weights_gradient();
  r.weights = Array(type, x.num_edges, p.aligned);
  resemb::cpu::link_weight_gradient(x, plan, edges, g.data(), true, r.weights.zero().data(), parallel);
  Array rows(type, edges.count, p.aligned);
  resemb::cpu::link_weight_gradient(x, plan, edges, g.data(), false, rows.data(), parallel);
  std::vector<int64_t> numbers;
  for (int64_t u = 0; u < plan.num_unique(); ++u) {
    const int64_t id = plan.unique_ids()[u];
    require(edges.offsets[u] == static_cast<int64_t>(numbers.size()), "touched edges start elsewhere");
    for (int64_t e = p.indptr[id]; e < p.indptr[id + 1]; ++e) numbers.push_back(e);
  }
  require(edges.count == static_cast<int64_t>(numbers.size()), "not the touched edges' number");
  r.weights_by_rows = rows.spread(numbers, 1, x.num_edges);
}

inline Results run_steps(const Problem& p, const Inputs& in, const PlanView& plan,
                         const resemb::cpu::Parallel& parallel) {
  const resemb::Lookup& x = in.lookup;
  Results r;
  r.out = Array(p.out_type, p.out_rows() * p.dim, p.aligned);
  require(resemb::cpu::lookup_forward(x, plan, r.out.data(), parallel) == -1, "a good graph is called bad");

  Array g(p.acc(), plan.num_unique() * p.dim, p.aligned);
  resemb::cpu::unique_gradient(x, plan, p.grad.data(), g.data(), parallel);
  r.residual = Array(p.table, p.items * p.dim, p.aligned);
  resemb::cpu::store_gradient(x, g.data(), plan.num_unique(), plan.unique_ids(), r.residual.zero().data(),
                              parallel);
  Array rows(p.table, plan.num_unique() * p.dim, p.aligned);
  resemb::cpu::store_gradient(x, g.data(), plan.num_unique(), nullptr, rows.data(), parallel);
  r.residual_by_rows =
      rows.spread({plan.unique_ids(), plan.unique_ids() + plan.num_unique()}, p.dim, p.items * p.dim);

  const resemb::cpu::TouchedEdges edges =
      resemb::cpu::touched_edges(x.graph, plan.unique_ids(), plan.num_unique(), parallel);
  r.central = Array(p.table, p.items * p.dim, p.aligned);
  if (p.acc() == DType::f64) {
    central_gradient<double>(p, x, plan, edges, g, parallel, r);
  } else {
    central_gradient<float>(p, x, plan, edges, g, parallel, r);
  }
  weights_gradient(p, x, plan, edges, g, parallel, r);
  if (!p.samples.empty()) {
    r.samples = Array(p.acc(), p.positions, p.aligned);
    resemb::cpu::sample_weight_gradient(x, plan, p.grad.data(), r.samples.data(), parallel);
  }
  return r;
}

}  // namespace driver
