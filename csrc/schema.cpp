// Every operator, in one table. Autograd and fake kernels are registered in resemb_ext/_registration.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(resemb_ext, m) {
  // (out [P or B, D], plan int32). `sparse` chooses the form of the tables' gradients.
  m.def(
      "res_embedding(Tensor ids, Tensor central, Tensor residual, Tensor indptr, Tensor neighbors, "
      "Tensor weights, Tensor? offsets, Tensor? sample_weights, int padding_idx, bool mean, "
      "ScalarType? out_dtype, bool sparse) -> (Tensor, Tensor)");
  // Dense gradients of (central, residual, weights, sample_weights); those not needed are empty.
  m.def(
      "res_embedding_backward(Tensor grad, Tensor ids, Tensor plan, Tensor? central, Tensor? residual, "
      "Tensor indptr, Tensor neighbors, Tensor weights, Tensor? offsets, Tensor? sample_weights, "
      "int padding_idx, bool mean, ScalarType table_dtype, bool need_central, bool need_residual, "
      "bool need_weights, bool need_sample_weights) -> (Tensor, Tensor, Tensor, Tensor)");
  // The same as touched rows: (rows, grad residual rows, columns, grad central rows, edges, grad weights
  // at edges, grad sample_weights).
  m.def(
      "res_embedding_backward_rows(Tensor grad, Tensor plan, Tensor? central, Tensor? residual, "
      "Tensor indptr, Tensor neighbors, Tensor weights, Tensor? offsets, Tensor? sample_weights, "
      "bool mean, ScalarType table_dtype, bool need_central, bool need_residual, bool need_weights, "
      "bool need_sample_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
