// The operator layer on the CPU: checks tensors, allocates outputs, calls the kernels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/lookup_inputs.h"

namespace resemb::cpu {
namespace {

// Says why lookup_forward calls the row of an item bad.
[[noreturn]] void fail_row(const Lookup& x, int64_t item) {
  const std::string row = "the row of item " + std::to_string(item);
  const auto leaves = [&] {
    throw std::out_of_range("neighbors: " + row + " leaves the arrays or names an item outside [0, " +
                            std::to_string(x.num_items) + ")");
  };
  const int64_t first = x.graph.indptr[item], past = x.graph.indptr[item + 1];
  if (first < 0 || past < first || past > x.num_edges) leaves();
  for (int64_t e = first; e < past; ++e) {
    if (x.graph.neighbor(e) < 0 || x.graph.neighbor(e) >= x.num_items) leaves();
  }
  for (int64_t e = first; e < past; ++e) {
    const double value = x.graph.weight<double>(e);
    if (std::isfinite(value)) continue;
    fail_value("log_weights: " + row + " holds " + std::to_string(value) + " for item " +
               std::to_string(x.graph.neighbor(e)) + "; expected finite logarithms of weights above 0");
  }
  fail_value("neighbors: " + row + " lacks the item itself; expected it in every row that is not empty");
}

}  // namespace

std::tuple<Tensor, Tensor> run_forward(const Tensor& ids, Inputs& in, int64_t padding_idx,
                                       std::optional<ScalarType> out_dtype) {
  Lookup& x = in.lookup;
  const int64_t positions = ids.size(0);
  if (out_dtype.has_value()) x.out_type = table_type(*out_dtype, "out_dtype");
  if (accumulator(x.out_type) != x.acc()) fail_value("out_dtype: float64 goes with float64 tables only");

  const Parallel parallel = torch_pool();
  const Ids view{ids.const_data_ptr(), is_int64(ids, "ids"), positions};
  Tensor plan = torch::stable::new_empty(ids, {PlanView<int32_t>::size(positions)}, ScalarType::Int);
  const PlanView<int32_t> writable{static_cast<int32_t*>(plan.mutable_data_ptr()), positions};
  if (const int64_t bad = make_plan(view, x.num_items, padding_idx, writable, parallel); bad >= 0) {
    fail_id("ids", view[bad], bad, x.num_items);
  }
  const PlanView<const int32_t> ready{writable.data, positions};
  const int64_t out_rows = x.is_bag() ? x.num_bags : positions;
  Tensor out = new_output(*in.central, {out_rows, x.dim}, scalar_type(x.out_type));
  const int64_t bad_row = lookup_forward(x, ready, out.mutable_data_ptr(), parallel);
  if (bad_row >= 0) fail_row(x, ready.unique_ids()[bad_row]);
  return {out, plan};
}

Tensor flat_ids(const Tensor& ids_in, const Tensor& central) {
  const Tensor ids = dense_cpu(ids_in, "ids");
  check_shape(ids.dim() == 1, "ids", ids, "[P]");
  check_shape(central.dim() == 2, "central", central, "[H, D]");
  if (ids.size(0) >= std::numeric_limits<int32_t>::max() / 4) {
    fail_value("ids: " + std::to_string(ids.size(0)) + " positions; at most 2^29 in one call");
  }
  return ids;
}

namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& ids_in, const Tensor& central, const Tensor& residual,
                                   const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
                                   const OptionalTensor& offsets, const OptionalTensor& sample_weights,
                                   int64_t padding_idx, bool mean, std::optional<ScalarType> out_dtype,
                                   bool) {
  const Tensor ids = flat_ids(ids_in, central);
  Inputs in(central, residual, indptr, neighbors, weights, offsets, sample_weights, central.scalar_type(),
            central.size(1), ids.size(0), mean);
  return run_forward(ids, in, padding_idx, out_dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor&, const Tensor& plan, const OptionalTensor& central,
    const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
    const OptionalTensor& offsets, const OptionalTensor& sample_weights, int64_t, bool mean, ScalarType table,
    bool need_central, bool need_residual, bool need_weights, bool need_sample_weights) {
  const Backward b(grad, plan, central, residual, indptr, neighbors, weights, offsets, sample_weights, mean,
                   table);
  const Lookup& x = b.x();
  const auto table_gradient = [&](bool needed) {
    return needed ? torch::stable::new_zeros(b.grad, {x.num_items, x.dim}, table)
                  : torch::stable::new_empty(b.grad, {0}, table);
  };
  Tensor grad_central = table_gradient(need_central), grad_residual = table_gradient(need_residual);
  Tensor grad_weights = need_weights
                            ? torch::stable::new_zeros(b.grad, {x.num_edges}, b.in.weights.scalar_type())
                            : torch::stable::new_empty(b.grad, {0}, b.in.weights.scalar_type());
  if ((need_central || need_residual || need_weights) && b.unique() > 0 && x.dim > 0) {
    Buffer<char> g(b.unique() * x.dim * static_cast<int64_t>(item_size(x.acc())));
    unique_gradient(x, b.plan, b.grad.const_data_ptr(), g.data(), b.parallel);
    if (need_residual) {
      store_gradient(x, g.data(), b.unique(), b.plan.unique_ids(), grad_residual.mutable_data_ptr(),
                     b.parallel);
    }
    if (need_central || need_weights) {
      const TouchedEdges edges = touched_edges(x.graph, b.plan.unique_ids(), b.unique(), b.parallel);
      if (need_central) {
        b.with_transpose(edges, [&](const auto& columns) {
          b.sum_columns(columns.terms, g.data(), columns.items.data(), grad_central);
        });
      }
      if (need_weights) {
        b.need_tables(false, "weights");
        b.write_link_weights(edges, g.data(), /*dense=*/true, grad_weights);
      }
    }
  }
  return {grad_central, grad_residual, grad_weights, b.sample_weights_gradient(need_sample_weights)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward_rows(
    const Tensor& grad, const Tensor& plan, const OptionalTensor& central, const OptionalTensor& residual,
    const Tensor& indptr, const Tensor& neighbors, const Tensor& weights, const OptionalTensor& offsets,
    const OptionalTensor& sample_weights, bool mean, ScalarType table, bool need_central, bool need_residual,
    bool need_weights, bool need_sample_weights) {
  const Backward b(grad, plan, central, residual, indptr, neighbors, weights, offsets, sample_weights, mean,
                   table);
  const Lookup& x = b.x();
  const int64_t unique = b.unique();
  const auto numbers = [&](int64_t n) { return torch::stable::new_empty(b.grad, {n}, ScalarType::Long); };

  // G is the residual's gradient where the tables' type is the accumulator's.
  const bool g_is_gradient = x.table == x.acc();
  Tensor g = new_output(b.grad, {unique, x.dim}, b.in.acc_type());
  Tensor rows = b.numbers(b.plan.unique_ids(), need_residual ? unique : 0);
  const bool any = need_central || need_residual || need_weights;
  if (any && x.dim > 0) unique_gradient(x, b.plan, b.grad.const_data_ptr(), g.mutable_data_ptr(), b.parallel);
  Tensor row_values = g;
  if (!need_residual) {
    row_values = torch::stable::new_empty(b.grad, {0, x.dim}, table);
  } else if (!g_is_gradient) {
    row_values = new_output(b.grad, {unique, x.dim}, table);
    store_gradient(x, g.const_data_ptr(), unique, nullptr, row_values.mutable_data_ptr(), b.parallel);
  }

  Tensor columns = numbers(0), column_values = torch::stable::new_empty(b.grad, {0, x.dim}, table);
  Tensor edge_numbers = numbers(0),
         edge_values = torch::stable::new_empty(b.grad, {0}, b.in.weights.scalar_type());
  if (need_central || need_weights) {
    const TouchedEdges edges = touched_edges(x.graph, b.plan.unique_ids(), unique, b.parallel);
    if (need_central) {
      b.with_transpose(edges, [&](const auto& touched) {
        const int64_t count = touched.items.size();
        columns = b.numbers(touched.items.data(), count);
        column_values = new_output(b.grad, {count, x.dim}, table);
        if (x.dim > 0) b.sum_columns(touched.terms, g.const_data_ptr(), nullptr, column_values);
      });
    }
    if (need_weights) {
      b.need_tables(false, "weights");
      edge_numbers = numbers(edges.count);
      edge_values = torch::stable::new_empty(b.grad, {edges.count}, b.in.weights.scalar_type());
      int64_t* out = static_cast<int64_t*>(edge_numbers.mutable_data_ptr());
      for (int64_t u = 0; u < unique; ++u) {
        const int64_t shift = x.graph.indptr[b.plan.unique_ids()[u]] - edges.offsets[u];
        for (int64_t t = edges.offsets[u]; t < edges.offsets[u + 1]; ++t) out[t] = t + shift;
      }
      b.write_link_weights(edges, g.const_data_ptr(), /*dense=*/false, edge_values);
    }
  }
  return {rows,
          row_values,
          columns,
          column_values,
          edge_numbers,
          edge_values,
          b.sample_weights_gradient(need_sample_weights)};
}

}  // namespace
}  // namespace resemb::cpu

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CPU, m) {
  m.impl("res_embedding", TORCH_BOX(&resemb::cpu::forward));
  m.impl("res_embedding_backward", TORCH_BOX(&resemb::cpu::backward));
  m.impl("res_embedding_backward_rows", TORCH_BOX(&resemb::cpu::backward_rows));
}
