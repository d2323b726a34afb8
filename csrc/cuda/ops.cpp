// The operators on CUDA: checks tensors, allocates outputs, calls the kernels. Only those whose outputs have
// as many rows as the batch touches wait for the device, once.
#include <optional>
#include <tuple>

#include "cuda/tensors.h"

namespace resemb::cuda {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& ids_in, const Tensor& central, const Tensor& residual,
                                   const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
                                   const OptionalTensor& offsets, const OptionalTensor& sample_weights,
                                   int64_t padding_idx, bool mean, std::optional<ScalarType> out_dtype,
                                   bool) {
  Call call(ids_in, "ids");
  const Tensor ids = flat_ids(call, ids_in, central);
  Inputs in(call, central, residual, indptr, neighbors, weights, offsets, sample_weights,
            central.scalar_type(), central.size(1), ids.size(0), mean);
  return run_forward(call, ids, in, padding_idx, out_dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor&, const Tensor& plan, const OptionalTensor& central,
    const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
    const OptionalTensor& offsets, const OptionalTensor& sample_weights, int64_t, bool mean, ScalarType table,
    bool need_central, bool need_residual, bool need_weights, bool need_sample_weights) {
  Backward b(grad, plan, central, residual, indptr, neighbors, weights, offsets, sample_weights, mean, table);
  const Lookup& x = b.x();
  const Context& c = b.context();
  const auto table_gradient = [&](bool needed) {
    return needed ? torch::stable::new_zeros(b.grad, {x.num_items, x.dim}, table) : b.call.empty({0}, table);
  };
  const ScalarType link = b.in.weights.scalar_type();
  Tensor grad_central = table_gradient(need_central), grad_residual = table_gradient(need_residual);
  Tensor grad_weights =
      need_weights ? torch::stable::new_zeros(b.grad, {x.num_edges}, link) : b.call.empty({0}, link);
  if ((need_central || need_residual || need_weights) && x.max_unique() > 0 && x.dim > 0) {
    void* g = b.call.memory.bytes(static_cast<size_t>(x.max_unique() * x.dim) * item_size(x.acc()));
    b.sum_rows(g);
    if (need_residual) store_gradient(c, x, b.groups, g, /*in_line=*/false, grad_residual.mutable_data_ptr());
    if (need_central || need_weights) {
      const TouchedEdges edges = b.touched();
      if (need_central) {
        const Columns columns = b.transposed(edges);
        const StageClock clock(c, Stage::columns);
        central_gradient(c, x, columns, g, /*in_line=*/false, grad_central.mutable_data_ptr());
      }
      if (need_weights) {
        b.need_link_weights();
        link_weight_gradient(c, x, edges, g, /*dense=*/true, nullptr, grad_weights.mutable_data_ptr());
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
  Backward b(grad, plan, central, residual, indptr, neighbors, weights, offsets, sample_weights, mean, table);
  const Lookup& x = b.x();
  const Context& c = b.context();
  if (need_weights) b.need_link_weights();
  TouchedEdges edges{};
  Columns columns{};
  if (need_central || need_weights) edges = b.touched();
  if (need_central) columns = b.transposed(edges);
  int64_t sizes[4];
  read_numbers(c, b.call.device,
               {b.groups.num_unique, need_central ? columns.count : nullptr,
                need_weights ? edges.count : nullptr, nullptr},
               sizes);
  const int64_t unique = sizes[0];
  const auto numbers = [&](int64_t n) { return b.call.empty({n}, ScalarType::Long); };
  const auto numbers_in = [](Tensor& t) { return static_cast<int64_t*>(t.mutable_data_ptr()); };

  // G is the residual's gradient where the tables' type is the accumulator's.
  Tensor g = b.call.empty({unique, x.dim}, b.in.acc_type());
  if (need_central || need_residual || need_weights) b.sum_rows(g.mutable_data_ptr());
  Tensor rows = numbers(need_residual ? unique : 0), row_values = g;
  if (!need_residual) {
    row_values = b.call.empty({0, x.dim}, table);
  } else {
    to_int64(c, b.groups.ids, unique, numbers_in(rows));
    if (x.table != x.acc()) {
      row_values = b.call.empty({unique, x.dim}, table);
      store_gradient(c, x, b.groups, g.const_data_ptr(), /*in_line=*/true, row_values.mutable_data_ptr());
    }
  }
  Tensor column_numbers = numbers(sizes[1]), column_values = b.call.empty({sizes[1], x.dim}, table);
  if (need_central && sizes[1] > 0) {
    to_int64(c, columns.items, sizes[1], numbers_in(column_numbers));
    const StageClock clock(c, Stage::columns);
    central_gradient(c, x, columns, g.const_data_ptr(), /*in_line=*/true, column_values.mutable_data_ptr());
  }
  Tensor edge_numbers = numbers(sizes[2]);
  Tensor edge_values = b.call.empty({sizes[2]}, b.in.weights.scalar_type());
  if (need_weights && sizes[2] > 0) {
    link_weight_gradient(c, x, edges, g.const_data_ptr(), /*dense=*/false, numbers_in(edge_numbers),
                         edge_values.mutable_data_ptr());
  }
  return {rows,
          row_values,
          column_numbers,
          column_values,
          edge_numbers,
          edge_values,
          b.sample_weights_gradient(need_sample_weights)};
}

// Throws what the device has reported.
void raise_faults(const Tensor& like) { Call call(like, "like"); }

}  // namespace
}  // namespace resemb::cuda

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, RESEMB_DEVICE_KEY, m) {
  m.impl("res_embedding", TORCH_BOX(&resemb::cuda::forward));
  m.impl("res_embedding_backward", TORCH_BOX(&resemb::cuda::backward));
  m.impl("res_embedding_backward_rows", TORCH_BOX(&resemb::cuda::backward_rows));
  m.impl("raise_faults", TORCH_BOX(&resemb::cuda::raise_faults));
}
