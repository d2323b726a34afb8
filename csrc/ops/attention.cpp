// The operators of the attention link.
#include <tuple>

#include "ops/inputs.h"
#include "ops/operators.h"

namespace resemb {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& ids, const Tensor& central, const Tensor& residual,
                                   const Tensor& indptr, const Tensor& neighbors, const Tensor& log_weights,
                                   const Tensor& a_src, const Tensor& a_dst, const Tensor& b,
                                   const OptionalTensor& seed, const OptionalTensor& offsets,
                                   const OptionalTensor& sample_weights, int64_t padding_idx, bool mean,
                                   double dropout, std::optional<ScalarType> out_dtype, bool) {
  const OptionalTensor tables[] = {central, residual};
  const AttentionArguments attention{a_src, a_dst, b, dropout, seed};
  return look_up(ids,
                 {tables[0], tables[1], indptr, neighbors, log_weights, offsets, sample_weights, mean,
                  central.scalar_type(), &attention},
                 central, padding_idx, out_dtype);
}

// Which gradients a backward is asked for.
struct Needs {
  bool central, residual, attention, sample_weights;
};

// The gradients that both forms of backward give alike; those not needed are empty.
struct SmallGradients {
  Tensor a_src, a_dst, b, samples;

  SmallGradients(const BackwardInputs& in, const Needs& needs)
      : a_src(vector(in, needs.attention, in.x().dim)),
        a_dst(vector(in, needs.attention, in.x().dim)),
        b(vector(in, needs.attention, in.x().attention.heads)),
        samples(in.sample_weights_gradient(needs.sample_weights)) {}

  FixedGradients places(const Needs& needs) {
    return {place_of(samples, needs.sample_weights), place_of(a_src, needs.attention),
            place_of(a_dst, needs.attention), place_of(b, needs.attention)};
  }

 private:
  static Tensor vector(const BackwardInputs& in, bool needed, int64_t n) {
    return in.call.empty({needed ? n : 0}, in.in.acc_type());
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> whole_tables(BackwardInputs& b,
                                                                        const Needs& needs) {
  const Lookup& x = b.x();
  const ScalarType table = scalar_type(x.table);
  SmallGradients small(b, needs);
  Tensor central = b.call.zeros_if(needs.central, {x.num_items, x.dim}, table);
  Tensor residual = b.call.zeros_if(needs.residual, {x.num_items, x.dim}, table);
  DenseGradients to{small.places(needs), place_of(central, needs.central), place_of(residual, needs.residual),
                    nullptr};
  b.call.backend().backward(x, b.plan(), b.grad.const_data_ptr(), to);
  return {central, residual, small.a_src, small.a_dst, small.b, small.samples};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> touched_rows(BackwardInputs& b,
                                                                                        const Needs& needs) {
  const Lookup& x = b.x();
  SmallGradients small(b, needs);
  SparseTensor central(b.call, {x.dim}, scalar_type(x.table));
  SparseTensor residual(b.call, {x.dim}, scalar_type(x.table));
  SparseGradients to{small.places(needs), needs.central ? &central : nullptr,
                     needs.residual ? &residual : nullptr, nullptr};
  b.call.backend().backward(x, b.plan(), b.grad.const_data_ptr(), to);
  return {residual.indices(), residual.values(), central.indices(), central.values(),
          small.a_src,        small.a_dst,       small.b,           small.samples};
}

// The operators of backward, with the schema's arguments: `run` takes the checked inputs.
template <auto run>
auto backward(const Tensor& grad, const Tensor& plan, const Tensor& central, const OptionalTensor& residual,
              const Tensor& indptr, const Tensor& neighbors, const Tensor& log_weights, const Tensor& a_src,
              const Tensor& a_dst, const Tensor& b, const OptionalTensor& seed, const OptionalTensor& offsets,
              const OptionalTensor& sample_weights, bool mean, double dropout, bool need_central,
              bool need_residual, bool need_attention, bool need_sample_weights) {
  const OptionalTensor table = central;
  const AttentionArguments attention{a_src, a_dst, b, dropout, seed};
  BackwardInputs in(grad, plan,
                    {table, residual, indptr, neighbors, log_weights, offsets, sample_weights, mean,
                     central.scalar_type(), &attention});
  in.check_needs(/*link_weights=*/false, need_sample_weights);
  return run(in, {need_central, need_residual, need_attention, need_sample_weights});
}

}  // namespace

void implement_attention(Library& m) {
  m.impl("attention_embedding", TORCH_BOX(&forward));
  m.impl("attention_embedding_backward", TORCH_BOX(&backward<whole_tables>));
  m.impl("attention_embedding_backward_rows", TORCH_BOX(&backward<touched_rows>));
}

}  // namespace resemb
