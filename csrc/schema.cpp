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
  // The same under the attention link of common/attention.h: log_weights are log z, a_src and a_dst [D]
  // and b [heads] of the tables' accumulator type. dropout: share of the edges dropped, by seed, int64 [1].
  m.def(
      "attention_embedding(Tensor ids, Tensor central, Tensor residual, Tensor indptr, Tensor neighbors, "
      "Tensor log_weights, Tensor a_src, Tensor a_dst, Tensor b, Tensor? seed, Tensor? offsets, "
      "Tensor? sample_weights, int padding_idx, bool mean, float dropout, ScalarType? out_dtype, "
      "bool sparse) -> (Tensor, Tensor)");
  // Dense gradients of (central, residual, a_src, a_dst, b, sample_weights); those not needed are empty.
  m.def(
      "attention_embedding_backward(Tensor grad, Tensor plan, Tensor central, Tensor? residual, "
      "Tensor indptr, Tensor neighbors, Tensor log_weights, Tensor a_src, Tensor a_dst, Tensor b, "
      "Tensor? seed, Tensor? offsets, Tensor? sample_weights, bool mean, float dropout, bool need_central, "
      "bool need_residual, bool need_attention, bool need_sample_weights) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // The same with the tables' as touched rows: (rows, grad residual rows, columns, grad central rows, grad
  // a_src, grad a_dst, grad b, grad sample_weights).
  m.def(
      "attention_embedding_backward_rows(Tensor grad, Tensor plan, Tensor central, Tensor? residual, "
      "Tensor indptr, Tensor neighbors, Tensor log_weights, Tensor a_src, Tensor a_dst, Tensor b, "
      "Tensor? seed, Tensor? offsets, Tensor? sample_weights, bool mean, float dropout, bool need_central, "
      "bool need_residual, bool need_attention, bool need_sample_weights) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // Throws what kernels on the device of `like` have found wrong, as far as they have come.
  m.def("raise_faults(Tensor like) -> ()");
  // Whether rows ascend strictly and lie in [0, num_items).
  m.def("rows_ascend(Tensor rows, int num_items) -> bool");
  // Values summed per row, in order of their appearance: ascending rows [U] and their values [U, D].
  m.def("coalesce_rows(Tensor rows, Tensor values, int num_items) -> (Tensor, Tensor)");
  // [rows, dim] on the device of `like`, not set; on the CPU from memory that is kept between calls.
  m.def("empty_rows(Tensor like, int rows, int dim, ScalarType dtype) -> Tensor");
  // Ascending, int64: the items among ids; the neighbours of ascending rows.
  m.def("distinct_items(Tensor ids, int num_items) -> Tensor");
  m.def("distinct_neighbors(Tensor rows, Tensor indptr, Tensor neighbors) -> Tensor");
  // The pending decay of rows, or of all: row r is multiplied by exp(now - decayed[r]).
  m.def(
      "decay_rows_(Tensor(a!) table, Tensor(b!) decayed, Tensor? rows, float now, bool random_rounding, "
      "int seed, int step) -> ()");
  // One step of common/update.h on the rows of a table and of its state; the order of reals and integers
  // stands there.
  m.def(
      "update_rows_(Tensor(a!) table, Tensor(b!)? first, Tensor(c!)? second, Tensor(d!)? row_steps, "
      "Tensor(e!)? decayed, Tensor(f!)? first_scale, Tensor rows, Tensor values, float[] reals, "
      "int[] integers) -> ()");
  // Counts a table's step, float32 [], where it lies, so that a CUDA graph can repeat it, and gives float64
  // [3]: lr / (1 + (step - 1) lr_decay), 1 - lr decay, step. A tensor lr goes before lr_value.
  m.def("advance_step_(Tensor(a!) step, Tensor? lr, float lr_value, float lr_decay, float decay) -> Tensor");
  // The backward of a lookup that steps its tables instead of returning their gradients; the gradient of
  // sample_weights, empty unless needed. live: what advance_step_ gave, in place of lr, shrink and step.
  m.def(
      "res_embedding_backward_step_(Tensor grad, Tensor plan, Tensor(a!) central, Tensor(b!) residual, "
      "Tensor indptr, Tensor neighbors, Tensor weights, Tensor? offsets, Tensor? sample_weights, "
      "bool mean, bool need_sample_weights, "
      "Tensor(c!)? central_first, Tensor(d!)? central_second, Tensor(e!)? central_row_steps, "
      "Tensor(f!)? central_decayed, Tensor(g!)? central_first_scale, float[] central_reals, "
      "int[] central_integers, Tensor? central_live, "
      "Tensor(h!)? residual_first, Tensor(i!)? residual_second, Tensor(j!)? residual_row_steps, "
      "Tensor(k!)? residual_decayed, Tensor(l!)? residual_first_scale, float[] residual_reals, "
      "int[] residual_integers, Tensor? residual_live) -> Tensor");
  // DIN's attention unit with one hidden layer: (scores [Q], pooled [B, D]), see common/activation.h. Sample
  // b's pairs are [offsets[b], offsets[b + 1]), their keys those from starts[b] on; without starts the pairs'
  // own. pooled is [0, D] unless `pool`. On the CPU alone.
  m.def(
      "local_activation(Tensor keys, Tensor query, Tensor? starts, Tensor offsets, Tensor by_query, Tensor "
      "w_key, "
      "Tensor w_product, Tensor slope, Tensor out_weight, Tensor out_bias, bool pool) -> (Tensor, Tensor)");
  // Without starts: gradients of (keys, query, by_query, w_key, w_product, slope, out_weight, out_bias).
  m.def(
      "local_activation_backward(Tensor? grad_scores, Tensor? grad_pooled, Tensor scores, Tensor keys, "
      "Tensor query, Tensor offsets, Tensor by_query, Tensor w_key, Tensor w_product, Tensor slope, "
      "Tensor out_weight, Tensor out_bias) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // Rows of a served table, float32 [*ids, D], see common/quantized.h: base and overlay uint8 [*, row bytes],
  // bits int64 and before int32 [ceil(rows / 64)], all three empty without an overlay; bits_each: of a
  // number, 4, 8, 16 or 32; oov and padding -1: none. On the CPU alone.
  m.def(
      "read_rows(Tensor ids, Tensor base, Tensor bits, Tensor before, Tensor overlay, int bits_each, int "
      "rows, "
      "int oov, int padding) -> Tensor");
  // The same summed by bag, [B, D]: offsets of ids [P], with the last bag's end where `ends`, or without them
  // ids [B, N]. divisor: 0 none, 1 the number of ids, 2 their weights' sum.
  m.def(
      "pool_rows(Tensor ids, Tensor? offsets, Tensor? weights, bool ends, int divisor, Tensor base, Tensor "
      "bits, "
      "Tensor before, Tensor overlay, int bits_each, int rows, int oov, int padding) -> Tensor");
}
