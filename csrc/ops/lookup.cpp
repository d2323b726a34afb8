// The lookup's operators: forward, and backward to gradients of whole tables or of what was touched.
#include <tuple>

#include "ops/inputs.h"
#include "ops/operators.h"

namespace resemb {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& ids, const Tensor& central, const Tensor& residual,
                                   const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
                                   const OptionalTensor& offsets, const OptionalTensor& sample_weights,
                                   int64_t padding_idx, bool mean, std::optional<ScalarType> out_dtype,
                                   bool) {
  const OptionalTensor tables[] = {central, residual};
  return look_up(ids,
                 {tables[0], tables[1], indptr, neighbors, weights, offsets, sample_weights, mean,
                  central.scalar_type()},
                 central, padding_idx, out_dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor&, const Tensor& plan, const OptionalTensor& central,
    const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
    const OptionalTensor& offsets, const OptionalTensor& sample_weights, int64_t, bool mean, ScalarType table,
    bool need_central, bool need_residual, bool need_weights, bool need_sample_weights) {
  BackwardInputs b(grad, plan,
                   {central, residual, indptr, neighbors, weights, offsets, sample_weights, mean, table});
  b.check_needs(need_weights, need_sample_weights);
  const Lookup& x = b.x();
  Tensor grad_central = b.call.zeros_if(need_central, {x.num_items, x.dim}, table);
  Tensor grad_residual = b.call.zeros_if(need_residual, {x.num_items, x.dim}, table);
  Tensor grad_weights = b.call.zeros_if(need_weights, {x.num_edges}, b.in.weights.scalar_type());
  Tensor samples = b.sample_weights_gradient(need_sample_weights);
  DenseGradients to{};
  to.central = place_of(grad_central, need_central);
  to.residual = place_of(grad_residual, need_residual);
  to.weights = place_of(grad_weights, need_weights);
  to.sample_weights = place_of(samples, need_sample_weights);
  b.call.backend().backward(x, b.plan(), b.grad.const_data_ptr(), to);
  return {grad_central, grad_residual, grad_weights, samples};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward_rows(
    const Tensor& grad, const Tensor& plan, const OptionalTensor& central, const OptionalTensor& residual,
    const Tensor& indptr, const Tensor& neighbors, const Tensor& weights, const OptionalTensor& offsets,
    const OptionalTensor& sample_weights, bool mean, ScalarType table, bool need_central, bool need_residual,
    bool need_weights, bool need_sample_weights) {
  BackwardInputs b(grad, plan,
                   {central, residual, indptr, neighbors, weights, offsets, sample_weights, mean, table});
  b.check_needs(need_weights, need_sample_weights);
  const Lookup& x = b.x();
  SparseTensor of_central(b.call, {x.dim}, table), of_residual(b.call, {x.dim}, table);
  SparseTensor of_weights(b.call, {}, b.in.weights.scalar_type());
  Tensor samples = b.sample_weights_gradient(need_sample_weights);
  SparseGradients to{};
  if (need_central) to.central = &of_central;
  if (need_residual) to.residual = &of_residual;
  if (need_weights) to.weights = &of_weights;
  to.sample_weights = place_of(samples, need_sample_weights);
  b.call.backend().backward(x, b.plan(), b.grad.const_data_ptr(), to);
  return {of_residual.indices(),
          of_residual.values(),
          of_central.indices(),
          of_central.values(),
          of_weights.indices(),
          of_weights.values(),
          samples};
}

}  // namespace

void implement_lookups(Library& m) {
  m.impl("res_embedding", TORCH_BOX(&forward));
  m.impl("res_embedding_backward", TORCH_BOX(&backward));
  m.impl("res_embedding_backward_rows", TORCH_BOX(&backward_rows));
}

}  // namespace resemb
