// A problem's arrays as the CUDA kernels take them, under emulation, and the steps of forward and backward
// in the operators' order. All that the driver knows of the kernels' interface stands here.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/lookup.h"
#include "cuda_update.h"

namespace driver {

struct Inputs {
  Indices ids, neighbors;
  Array weights, samples;
  resemb::Lookup lookup{};

  explicit Inputs(const Problem& p)
      : ids(p.ids, p.int64_ids),
        neighbors(p.neighbors, p.int64_neighbors),
        weights(p.weights_type, p.edges(), p.aligned),
        samples(p.acc(), static_cast<int64_t>(p.samples.size()), p.aligned) {
    for (int64_t e = 0; e < p.edges(); ++e) weights.set(e, p.weights[e]);
    for (int64_t i = 0; i < samples.size(); ++i) samples.set(i, p.samples[i]);
    resemb::Lookup& x = lookup;
    x.num_items = p.items;
    x.num_edges = p.edges();
    x.dim = p.dim;
    x.positions = p.positions;
    for (int64_t i = 0; i < p.items; ++i) {
      x.max_degree = std::max(x.max_degree, p.indptr[i + 1] - p.indptr[i]);
    }
    x.table = p.table;
    x.out_type = p.out_type;
    x.central = p.central.data();
    x.residual = p.residual.data();
    x.graph = {p.indptr.data(), neighbors.data(), weights.data(), p.int64_neighbors, p.weights_type};
    x.offsets = p.bags < 0 ? nullptr : p.offsets.data();
    x.num_bags = p.bags < 0 ? 0 : p.bags;
    x.sample_weights = samples.data();
    x.mean = p.mean;
  }
  Inputs(const Inputs&) = delete;
};

// Gradients of whole tables, and spread from rows of what was touched.
struct Results {
  Array out, central, residual, weights, samples;
  Array central_by_rows, residual_by_rows, weights_by_rows;
};

// The table whose optimizer steps are checked as well: they take most of the time.
enum class Stepped { none, central, residual };

inline Results run_steps(const Problem& p, const Inputs& in, Call& call, Stepped stepped) {
  using namespace resemb::cuda;
  using resemb::Lookup;
  const Lookup& x = in.lookup;
  const Context& c = call.context;
  std::vector<int32_t> plan_data(2 * p.positions + 1, -1);
  const Plan plan(plan_data.data(), p.positions);
  make_plan(c, x, {in.ids.data(), p.int64_ids, p.positions}, p.padding, plan);
  const Groups groups = make_groups(c, x, plan);
  const int64_t unique = *groups.num_unique;
  for (int64_t u = 1; u < unique; ++u) {
    require(groups.ids[u] > groups.ids[u - 1], "unique ids do not ascend");
  }
  Results r;
  r.out = Array(p.out_type, p.out_rows() * p.dim, p.aligned);
  lookup_forward(c, x, groups, r.out.data());
  Lookup pinned = x;
  pinned.graph_on_host = true;
  Array again(p.out_type, p.out_rows() * p.dim, p.aligned);
  lookup_forward(c, pinned, groups, again.data());
  require(again.same_bits(r.out), "a graph in host memory gives other bits");

  Array g(p.acc(), unique * p.dim, p.aligned);
  unique_gradient(c, x, groups, p.grad.data(), g.data());
  r.residual = Array(p.table, p.items * p.dim, p.aligned);
  store_gradient(c, x, groups, g.data(), false, r.residual.zero().data());
  Array rows(p.table, unique * p.dim, p.aligned);
  store_gradient(c, x, groups, g.data(), true, rows.data());
  std::vector<int64_t> numbers(unique);
  to_int64(c, groups.ids, unique, numbers.data());
  r.residual_by_rows = rows.spread(numbers, p.dim, p.items * p.dim);
  if (stepped == Stepped::residual) {
    check_steps(p, rows, numbers, 3, [&](Call& again, const resemb::UpdateArgs& a) {
      step_residual(again.context, x, groups, g.data(), a);
    });
  }

  const TouchedEdges edges = touched_edges(c, x, groups);
  const Columns columns = transpose(c, x, edges);
  const int64_t touched = *columns.count;
  r.central = Array(p.table, p.items * p.dim, p.aligned);
  central_gradient(c, x, columns, g.data(), false, r.central.zero().data());
  Array values(p.table, touched * p.dim, p.aligned);
  central_gradient(c, x, columns, g.data(), true, values.data());
  numbers.resize(touched);
  to_int64(c, columns.items, touched, numbers.data());
  r.central_by_rows = values.spread(numbers, p.dim, p.items * p.dim);
  if (stepped == Stepped::central) {
    check_steps(p, values, numbers, 2, [&](Call& again, const resemb::UpdateArgs& a) {
      step_central(again.context, x, columns, g.data(), a);
    });
  }

  const DType link = p.weights_gradient();
  const int64_t touched_edges = *edges.count;
  r.weights = Array(link, p.edges(), p.aligned);
  link_weight_gradient(c, x, edges, g.data(), true, nullptr, r.weights.zero().data());
  Array edge_values(link, touched_edges, p.aligned);
  numbers.resize(touched_edges);
  link_weight_gradient(c, x, edges, g.data(), false, numbers.data(), edge_values.data());
  r.weights_by_rows = edge_values.spread(numbers, 1, p.edges());
  if (!p.samples.empty()) {
    r.samples = Array(p.acc(), p.positions, p.aligned);
    sample_weight_gradient(c, x, groups, p.grad.data(), r.samples.data());
  }
  return r;
}

}  // namespace driver
