// The operators of the attention link on CUDA. Only the one whose outputs have as many rows as the batch
// touches waits for the device, once.
#include <tuple>

#include "cuda/attention.h"
#include "cuda/tensors.h"

namespace resemb::cuda {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& ids_in, const Tensor& central, const Tensor& residual,
                                   const Tensor& indptr, const Tensor& neighbors, const Tensor& log_weights,
                                   const Tensor& a_src, const Tensor& a_dst, const Tensor& b,
                                   const OptionalTensor& seed, const OptionalTensor& offsets,
                                   const OptionalTensor& sample_weights, int64_t padding_idx, bool mean,
                                   double dropout, std::optional<ScalarType> out_dtype, bool) {
  Call call(ids_in, "ids");
  const Tensor ids = flat_ids(call, ids_in, central);
  Inputs in(call, central, residual, indptr, neighbors, log_weights, offsets, sample_weights,
            central.scalar_type(), central.size(1), ids.size(0), mean);
  in.attend(call, a_src, a_dst, b, dropout, seed);
  return run_forward(call, ids, in, padding_idx, out_dtype);
}

// All gradients of one backward but the tables', which the operators place.
struct AttentionBackward {
  Backward b;
  Needs needs;
  Tensor a_src, a_dst, prior, samples;
  void* g = nullptr;  // [U, D] acc
  AttentionGradient gradient{};

  AttentionBackward(const Tensor& grad, const Tensor& plan, const Tensor& central,
                    const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors,
                    const Tensor& log_weights, const Tensor& a_src_in, const Tensor& a_dst_in,
                    const Tensor& b_in, const OptionalTensor& seed, const OptionalTensor& offsets,
                    const OptionalTensor& sample_weights, bool mean, double dropout, const Needs& needed)
      : b(grad, plan, central, residual, indptr, neighbors, log_weights, offsets, sample_weights, mean,
          central.scalar_type()),
        needs(needed),
        a_src(vector(b.x().dim)),
        a_dst(vector(b.x().dim)),
        prior(vector(0)) {
    b.in.attend(b.call, a_src_in, a_dst_in, b_in, dropout, seed);
    const Lookup& x = b.x();
    prior = vector(x.attention.heads);
    if (needs.rows()) {
      g = b.call.memory.bytes(static_cast<size_t>(x.max_unique() * x.dim) * item_size(x.acc()));
      b.sum_rows(g);
    }
    if (needs.columns()) {
      const StageClock clock(b.context(), Stage::edges);
      gradient = attention_backward(b.context(), x, b.groups, g, a_src.mutable_data_ptr(),
                                    a_dst.mutable_data_ptr(), prior.mutable_data_ptr());
    }
    if (!needs.attention) a_src = a_dst = prior = vector(0);  // made along with the gradient of C
    samples = b.sample_weights_gradient(needs.sample_weights);
  }

  Tensor vector(int64_t n) const { return b.call.empty({n}, b.in.acc_type()); }
  Tensor rows_of(int64_t n) const { return b.call.empty({n, b.x().dim}, scalar_type(b.x().table)); }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> whole_tables(const AttentionBackward& own) {
  const Backward& b = own.b;
  const Lookup& x = b.x();
  const auto table_gradient = [&](bool needed) {
    const ScalarType type = scalar_type(x.table);
    return needed ? torch::stable::new_zeros(b.grad, {x.num_items, x.dim}, type) : b.call.empty({0}, type);
  };
  Tensor grad_central = table_gradient(own.needs.central), grad_residual = table_gradient(own.needs.residual);
  if (own.needs.residual) {
    store_gradient(b.context(), x, b.groups, own.g, /*in_line=*/false, grad_residual.mutable_data_ptr());
  }
  if (own.needs.central) {
    const StageClock clock(b.context(), Stage::columns);
    attention_central_gradient(b.context(), x, own.gradient, own.g, /*in_line=*/false,
                               grad_central.mutable_data_ptr());
  }
  return {grad_central, grad_residual, own.a_src, own.a_dst, own.prior, own.samples};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> touched_rows(
    const AttentionBackward& own) {
  const Backward& b = own.b;
  const Lookup& x = b.x();
  const Columns& columns = own.gradient.columns;
  int64_t sizes[4];
  read_numbers(b.context(), b.call.device,
               {own.needs.residual ? b.groups.num_unique : nullptr,
                own.needs.central ? columns.count : nullptr, nullptr, nullptr},
               sizes);
  Tensor rows = b.call.empty({sizes[0]}, ScalarType::Long), row_values = own.rows_of(sizes[0]);
  if (own.needs.residual && sizes[0] > 0) {
    to_int64(b.context(), b.groups.ids, sizes[0], static_cast<int64_t*>(rows.mutable_data_ptr()));
    store_gradient(b.context(), x, b.groups, own.g, /*in_line=*/true, row_values.mutable_data_ptr());
  }
  Tensor items = b.call.empty({sizes[1]}, ScalarType::Long), column_values = own.rows_of(sizes[1]);
  if (own.needs.central && sizes[1] > 0) {
    to_int64(b.context(), columns.items, sizes[1], static_cast<int64_t*>(items.mutable_data_ptr()));
    const StageClock clock(b.context(), Stage::columns);
    attention_central_gradient(b.context(), x, own.gradient, own.g, /*in_line=*/true,
                               column_values.mutable_data_ptr());
  }
  return {rows, row_values, items, column_values, own.a_src, own.a_dst, own.prior, own.samples};
}

}  // namespace
}  // namespace resemb::cuda

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, RESEMB_DEVICE_KEY, m) {
  m.impl("attention_embedding", TORCH_BOX(&resemb::cuda::forward));
  m.impl("attention_embedding_backward", TORCH_BOX(&resemb::attention_backward<resemb::cuda::whole_tables>));
  m.impl("attention_embedding_backward_rows",
         TORCH_BOX(&resemb::attention_backward<resemb::cuda::touched_rows>));
}
