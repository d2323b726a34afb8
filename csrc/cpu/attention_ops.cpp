// The operators of the attention link on the CPU.
#include <algorithm>
#include <tuple>

#include "cpu/attention.h"
#include "cpu/lookup_inputs.h"

namespace resemb::cpu {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& ids_in, const Tensor& central, const Tensor& residual,
                                   const Tensor& indptr, const Tensor& neighbors, const Tensor& log_weights,
                                   const Tensor& a_src, const Tensor& a_dst, const Tensor& b,
                                   const OptionalTensor& seed, const OptionalTensor& offsets,
                                   const OptionalTensor& sample_weights, int64_t padding_idx, bool mean,
                                   double dropout, std::optional<ScalarType> out_dtype, bool) {
  const Tensor ids = flat_ids(ids_in, central);
  Inputs in(central, residual, indptr, neighbors, log_weights, offsets, sample_weights, central.scalar_type(),
            central.size(1), ids.size(0), mean);
  in.attend(a_src, a_dst, b, dropout, seed);
  return run_forward(ids, in, padding_idx, out_dtype);
}

// All gradients of one backward but the tables', which the operators place.
struct AttentionBackward {
  Backward b;
  Needs needs;
  Tensor g;  // [U, D] acc: G, the residual's gradient
  Tensor a_src, a_dst, prior, samples;
  TouchedEdges edges;
  AttendedEdges attended;

  AttentionBackward(const Tensor& grad, const Tensor& plan, const Tensor& central,
                    const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors,
                    const Tensor& log_weights, const Tensor& a_src_in, const Tensor& a_dst_in,
                    const Tensor& b_in, const OptionalTensor& seed, const OptionalTensor& offsets,
                    const OptionalTensor& sample_weights, bool mean, double dropout, const Needs& needed)
      : b(grad, plan, central, residual, indptr, neighbors, log_weights, offsets, sample_weights, mean,
          central.scalar_type()),
        needs(needed),
        g(new_output(b.grad, {b.unique(), b.x().dim}, b.in.acc_type())),
        a_src(vector(needed.attention ? b.x().dim : 0)),
        a_dst(vector(needed.attention ? b.x().dim : 0)),
        prior(vector(0)) {
    b.in.attend(a_src_in, a_dst_in, b_in, dropout, seed);
    const Lookup& x = b.x();
    if (needs.attention) prior = vector(x.attention.heads);
    if (needs.columns() || needs.residual) {
      unique_gradient(x, b.plan, b.grad.const_data_ptr(), g.mutable_data_ptr(), b.parallel);
    }
    if (needs.columns()) {
      edges = touched_edges(x.graph, b.plan.unique_ids(), b.unique(), b.parallel);
      b.check_count(edges);
      // Where only C's gradient is asked for, the sums of the others still cost next to nothing.
      Tensor unused = vector(2 * x.dim + x.attention.heads);
      char* place = static_cast<char*>(unused.mutable_data_ptr());
      const int64_t bytes = x.dim * static_cast<int64_t>(item_size(x.acc()));
      const bool kept = needs.attention;
      attended =
          attention_backward(x, b.plan, edges, g.const_data_ptr(), kept ? a_src.mutable_data_ptr() : place,
                             kept ? a_dst.mutable_data_ptr() : place + bytes,
                             kept ? prior.mutable_data_ptr() : place + 2 * bytes, b.parallel);
    }
    samples = b.sample_weights_gradient(needs.sample_weights);
  }

  Tensor vector(int64_t n) const { return torch::stable::new_empty(b.grad, {n}, b.in.acc_type()); }
  Tensor rows_of(int64_t n) const { return new_output(b.grad, {n, b.x().dim}, scalar_type(b.x().table)); }

  // f(touched neighbours, AttentionSegmentArgs) for the gradient of C.
  template <class F>
  void with_columns(const F& f) const {
    with_attention_columns(b.x(), b.plan, edges, attended, g.const_data_ptr(), b.parallel, f);
  }
  void sum(const AttentionSegmentArgs& args, int64_t segments) const {
    const StageTimer timer(Stage::columns);
    sum_segments(args, segments, b.parallel);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> whole_tables(const AttentionBackward& own) {
  const Backward& b = own.b;
  const Lookup& x = b.x();
  const auto table_gradient = [&](bool needed) {
    return needed ? torch::stable::new_zeros(b.grad, {x.num_items, x.dim}, scalar_type(x.table))
                  : torch::stable::new_empty(b.grad, {0}, scalar_type(x.table));
  };
  Tensor grad_central = table_gradient(own.needs.central), grad_residual = table_gradient(own.needs.residual);
  if (own.needs.residual) {
    store_gradient(x, own.g.const_data_ptr(), b.unique(), b.plan.unique_ids(),
                   grad_residual.mutable_data_ptr(), b.parallel);
  }
  if (own.needs.central) {
    own.with_columns([&](const Buffer<int32_t>& items, AttentionSegmentArgs args) {
      args.targets = items.data();
      args.out = grad_central.mutable_data_ptr();
      args.bypass_cache = false;
      own.sum(args, items.size());
    });
  }
  return {grad_central, grad_residual, own.a_src, own.a_dst, own.prior, own.samples};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> touched_rows(
    const AttentionBackward& own) {
  const Backward& b = own.b;
  const Lookup& x = b.x();
  Tensor rows = b.numbers(b.plan.unique_ids(), own.needs.residual ? b.unique() : 0), row_values = own.g;
  // G is the residual's gradient where the tables' type is the accumulator's.
  if (!own.needs.residual) {
    row_values = own.rows_of(0);
  } else if (x.table != x.acc()) {
    row_values = own.rows_of(b.unique());
    store_gradient(x, own.g.const_data_ptr(), b.unique(), nullptr, row_values.mutable_data_ptr(), b.parallel);
  }
  Tensor columns = b.numbers<int32_t>(nullptr, 0), column_values = own.rows_of(0);
  if (own.needs.central) {
    own.with_columns([&](const Buffer<int32_t>& items, AttentionSegmentArgs args) {
      columns = b.numbers(items.data(), items.size());
      column_values = own.rows_of(items.size());
      args.out = column_values.mutable_data_ptr();
      own.sum(args, items.size());
    });
  }
  return {rows, row_values, columns, column_values, own.a_src, own.a_dst, own.prior, own.samples};
}

}  // namespace
}  // namespace resemb::cpu

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CPU, m) {
  m.impl("attention_embedding", TORCH_BOX(&resemb::cpu::forward));
  m.impl("attention_embedding_backward", TORCH_BOX(&resemb::attention_backward<resemb::cpu::whole_tables>));
  m.impl("attention_embedding_backward_rows",
         TORCH_BOX(&resemb::attention_backward<resemb::cpu::touched_rows>));
}
