#include "ops/inputs.h"

#include <limits>
#include <string>
#include <utility>

namespace resemb {
namespace {

DType link_type(const Tensor& weights) {
  switch (weights.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Half:
      return DType::f16;
    default:
      fail_type(weights, "float32, float64 or float16", "weights");
  }
}

}  // namespace

LookupInputs::LookupInputs(const Call& call, const LookupArguments& in, int64_t dim, int64_t positions)
    : indptr(call.dense_or_pinned(in.indptr, "indptr")),
      neighbors(call.dense_or_pinned(in.neighbors, "neighbors")),
      weights(call.dense_or_pinned(in.weights, "weights")) {
  Lookup& x = lookup;
  check_shape(indptr.dim() == 1 && indptr.size(0) >= 1, "indptr", indptr, "[H + 1]");
  check_type(indptr, ScalarType::Long, "indptr");
  x.num_items = indptr.size(0) - 1;
  if (x.num_items >= std::numeric_limits<int32_t>::max()) {
    fail_value("indptr: " + std::to_string(x.num_items) + " items; at most 2^31 - 2 are supported");
  }
  check_shape(neighbors.dim() == 1, "neighbors", neighbors, "[E]");
  x.num_edges = neighbors.size(0);
  check_shape(weights.dim() == 1 && weights.size(0) == x.num_edges, "weights", weights,
              "[" + std::to_string(x.num_edges) + "], one for each of neighbors");
  x.table = x.out_type = table_type(in.table, "central");
  x.dim = dim;
  x.positions = positions;
  x.graph = {static_cast<const int64_t*>(indptr.const_data_ptr()), neighbors.const_data_ptr(),
             weights.const_data_ptr(), is_int64(neighbors, "neighbors"), link_type(weights)};
  x.graph_on_host = !call.holds(neighbors) || !call.holds(weights);
  x.central = take_table(call, in.central, central, "central");
  x.residual = take_table(call, in.residual, residual, "residual");
  x.mean = in.mean;
  if (in.offsets.has_value()) {
    offsets = call.dense(*in.offsets, "offsets");
    check_shape(offsets->dim() == 1 && offsets->size(0) >= 1, "offsets", *offsets, "[B + 1]");
    check_type(*offsets, ScalarType::Long, "offsets");
    x.offsets = static_cast<const int64_t*>(offsets->const_data_ptr());
    x.num_bags = offsets->size(0) - 1;
  }
  if (in.sample_weights.has_value()) take_sample_weights(call, *in.sample_weights);
  if (in.mean && (!offsets.has_value() || sample_weights.has_value())) {
    fail_value("mean: needs offsets and no sample_weights");
  }
  if (in.attention != nullptr) attend(call, *in.attention);
  call.backend().inspect(x);
}

const void* LookupInputs::take_table(const Call& call, const OptionalTensor& in, OptionalTensor& kept,
                                     const char* name) {
  if (!in.has_value()) return nullptr;
  kept = call.dense(*in, name);
  if (table_type(kept->scalar_type(), name) != lookup.table) {
    fail_value(std::string(name) + ": dtype differs from the other table's");
  }
  check_shape(kept->dim() == 2 && kept->size(0) == lookup.num_items && kept->size(1) == lookup.dim, name,
              *kept, "[" + std::to_string(lookup.num_items) + ", " + std::to_string(lookup.dim) + "]");
  return kept->const_data_ptr();
}

void LookupInputs::take_sample_weights(const Call& call, const Tensor& in) {
  if (!offsets.has_value()) fail_value("sample_weights: need offsets");
  sample_weights = call.dense(in, "sample_weights");
  check_shape(sample_weights->dim() == 1 && sample_weights->size(0) == lookup.positions, "sample_weights",
              *sample_weights, "[" + std::to_string(lookup.positions) + "], one for each id");
  check_type(*sample_weights, acc_type(), "sample_weights");
  lookup.sample_weights = sample_weights->const_data_ptr();
}

void LookupInputs::attend(const Call& call, const AttentionArguments& in) {
  a_src = call.dense(in.a_src, "a_src");
  a_dst = call.dense(in.a_dst, "a_dst");
  b = call.dense(in.b, "b");
  const int64_t dim = lookup.dim;
  const std::string columns = "[" + std::to_string(dim) + "]";
  check_shape(a_src->dim() == 1 && a_src->size(0) == dim, "a_src", *a_src, columns);
  check_shape(a_dst->dim() == 1 && a_dst->size(0) == dim, "a_dst", *a_dst, columns);
  check_shape(b->dim() == 1 && b->size(0) >= 1 && dim >= 1 && dim % b->size(0) == 0, "b", *b,
              "[heads], heads a divisor of D = " + std::to_string(dim));
  for (const auto& [tensor, name] : {std::pair{&a_src, "a_src"}, {&a_dst, "a_dst"}, {&b, "b"}}) {
    check_type(**tensor, acc_type(), name);
  }
  if (!(in.dropout >= 0 && in.dropout < 1)) {
    fail_value("dropout: found " + std::to_string(in.dropout) + "; expected one in [0, 1)");
  }
  if (in.dropout > 0) {
    if (!in.seed.has_value()) fail_value("seed: missing; dropout needs one");
    seed = call.dense(*in.seed, "seed");
    check_shape(seed->numel() == 1, "seed", *seed, "[1]");
    check_type(*seed, ScalarType::Long, "seed");
  }
  lookup.attention = {b->size(0),
                      a_src->const_data_ptr(),
                      a_dst->const_data_ptr(),
                      b->const_data_ptr(),
                      in.dropout,
                      seed.has_value() ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr};
}

std::tuple<Tensor, Tensor> look_up(const Tensor& ids_in, const LookupArguments& arguments,
                                   const Tensor& central, int64_t padding_idx,
                                   std::optional<ScalarType> out_dtype) {
  const Call call(ids_in, "ids");
  const Tensor ids = call.dense(ids_in, "ids");
  check_shape(ids.dim() == 1, "ids", ids, "[P]");
  check_shape(central.dim() == 2, "central", central, "[H, D]");
  const int64_t positions = ids.size(0);
  if (positions >= std::numeric_limits<int32_t>::max() / 4) {
    fail_value("ids: " + std::to_string(positions) + " positions; at most 2^29 in one call");
  }
  LookupInputs in(call, arguments, central.size(1), positions);
  Lookup& x = in.lookup;
  if (out_dtype.has_value()) x.out_type = table_type(*out_dtype, "out_dtype");
  if (accumulator(x.out_type) != x.acc()) fail_value("out_dtype: float64 goes with float64 tables only");
  const Ids view{ids.const_data_ptr(), is_int64(ids, "ids"), positions};
  Tensor plan = call.empty({plan_size(positions)}, ScalarType::Int);
  Tensor out = call.output({x.out_rows(), x.dim}, scalar_type(x.out_type));
  call.backend().forward(x, view, padding_idx, static_cast<int32_t*>(plan.mutable_data_ptr()),
                         out.mutable_data_ptr());
  return {out, plan};
}

BackwardInputs::BackwardInputs(const Tensor& grad_in, const Tensor& plan_in, const LookupArguments& arguments)
    : call(plan_in, "plan"),
      grad(call.dense(grad_in, "grad")),
      plan_tensor(call.dense(plan_in, "plan")),
      in(call, arguments, grad.dim() == 2 ? grad.size(1) : -1, (plan_tensor.numel() - 1) / 2) {
  if (plan_tensor.scalar_type() != ScalarType::Int || plan_tensor.numel() != plan_size(x().positions)) {
    fail_value("plan: is not one that res_embedding returned");
  }
  check_shape(grad.dim() == 2 && grad.size(0) == x().out_rows(), "grad", grad,
              "[" + std::to_string(x().out_rows()) + ", D]");
  in.lookup.out_type = table_type(grad.scalar_type(), "grad");
  if (accumulator(x().out_type) != x().acc()) fail_value("grad: dtype does not go with the tables'");
}

void BackwardInputs::check_needs(bool link_weights, bool sample_weights) const {
  const auto fail = [](const char* what) {
    fail_value(std::string(what) + ": its gradient needs the tables");
  };
  if (link_weights) {
    if (!in.central.has_value()) fail("weights");
    if (x().graph.weights_type == DType::f16) {
      fail_value("weights: no gradient of link weights in float16; expected float32 or float64");
    }
    if (x().graph_on_host) fail_value("weights: no gradient of link weights in pinned host memory");
  }
  if (sample_weights) {
    if (!in.central.has_value() || !in.residual.has_value()) fail("sample_weights");
    if (!in.sample_weights.has_value()) {
      fail_value("sample_weights: no gradient without them");
    }
  }
}

}  // namespace resemb
