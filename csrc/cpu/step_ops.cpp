// Backward and optimizer step in one operator: gradients of the tables never reach memory as a whole.
#include "cpu/lookup_inputs.h"
#include "ops/update_args.h"

namespace resemb::cpu {
namespace {

Buffer<int64_t> wide(const int32_t* numbers, int64_t n) {
  Buffer<int64_t> out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = numbers[i];
  return out;
}

// The step of the rows of R, whose gradient is G.
void step_rows(const Backward& b, UpdateArgs a, const void* g) {
  const Lookup& x = b.x();
  const int64_t unique = b.unique();
  Buffer<char> rounded;  // what the separate optimizer would be given
  if (x.table != x.acc()) {
    rounded = Buffer<char>(unique * x.dim * static_cast<int64_t>(item_size(x.table)));
    store_gradient(x, g, unique, nullptr, rounded.data(), b.parallel);
  }
  const StageTimer timer(Stage::update);
  const Buffer<int64_t> rows = wide(b.plan.unique_ids(), unique);
  a.rows = rows.data();
  a.num_rows = unique;
  a.grad = x.table != x.acc() ? rounded.data() : g;
  b.parallel.ranges(unique, 256, [&](int64_t begin, int64_t end) { kernels().update(a, begin, end); });
}

// The step of the rows of C: a few rows of its gradient at a time.
void step_columns(const Backward& b, const UpdateArgs& a, const void* g) {
  const Lookup& x = b.x();
  const TouchedEdges edges = touched_edges(x.graph, b.plan.unique_ids(), b.unique(), b.parallel);
  b.with_transpose(edges, [&](const auto& columns) {
    const Buffer<int64_t> rows = wide(columns.items.data(), columns.items.size());
    const StageTimer timer(Stage::update);  // sums included: they are made as they are used
    sum_segments_to(b.columns(columns.terms, g), columns.terms.count, b.parallel,
                    [&](int64_t begin, int64_t end, const void* sums) {
                      UpdateArgs part = a;
                      part.rows = rows.data();
                      part.num_rows = rows.size();
                      part.grad = sums;
                      part.grad_first = begin;
                      kernels().update(part, begin, end);
                    });
  });
}

Tensor backward_step(const Tensor& grad, const Tensor& plan, const Tensor& central, const Tensor& residual,
                     const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
                     const OptionalTensor& offsets, const OptionalTensor& sample_weights, bool mean,
                     bool need_sample_weights, const OptionalTensor& central_first,
                     const OptionalTensor& central_second, const OptionalTensor& central_row_steps,
                     const OptionalTensor& central_decayed, std::vector<double> central_reals,
                     std::vector<int64_t> central_integers, const OptionalTensor& residual_first,
                     const OptionalTensor& residual_second, const OptionalTensor& residual_row_steps,
                     const OptionalTensor& residual_decayed, std::vector<double> residual_reals,
                     std::vector<int64_t> residual_integers) {
  const Backward b(grad, plan, central, residual, indptr, neighbors, weights, offsets, sample_weights, mean,
                   central.scalar_type());
  const Lookup& x = b.x();
  const UpdateArgs central_step = update_args(central, central_first, central_second, central_row_steps,
                                              central_decayed, central_reals, central_integers);
  const UpdateArgs residual_step = update_args(residual, residual_first, residual_second, residual_row_steps,
                                               residual_decayed, residual_reals, residual_integers);
  // Before anything is written: it reads the tables.
  Tensor samples = b.sample_weights_gradient(need_sample_weights);
  if (b.unique() == 0) return samples;
  Buffer<char> g(b.unique() * x.dim * static_cast<int64_t>(item_size(x.acc())));
  if (x.dim > 0) unique_gradient(x, b.plan, b.grad.const_data_ptr(), g.data(), b.parallel);
  step_rows(b, residual_step, g.data());
  step_columns(b, central_step, g.data());
  return samples;
}

}  // namespace
}  // namespace resemb::cpu

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CPU, m) {
  m.impl("res_embedding_backward_step_", TORCH_BOX(&resemb::cpu::backward_step));
}
