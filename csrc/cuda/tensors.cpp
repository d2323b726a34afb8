#include "cuda/tensors.h"

#ifndef RESEMB_EMULATE
// Of torch's CUDA half; weak, since torch may have none.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device,
                                                                                   void** stream);
#endif

namespace resemb::cuda {

void* current_stream([[maybe_unused]] int device) {
  void* stream = nullptr;
#ifndef RESEMB_EMULATE
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("resemb_ext: this torch has no CUDA streams");
  }
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
#endif
  return stream;
}

namespace {

bool is_here(const Tensor& t, [[maybe_unused]] int device) {
#ifdef RESEMB_EMULATE
  return t.is_cpu();
#else
  return t.is_cuda() && t.get_device() == device;
#endif
}

int device_of(const Tensor& t, const char* name) {
  if (is_here(t, t.get_device())) return t.get_device();
  fail_value(std::string(name) + ": is not on a CUDA device, while other tensors are");
}

}  // namespace

Call::Call(const Tensor& like_in, const char* name)
    : like(like_in),
      device(device_of(like_in, name)),
#ifndef RESEMB_EMULATE
      guard(device),
#endif
      scope(device),
      memory(like_in),
      context{current_stream(device), &memory, device_state(device).fault, device_state(device).max_blocks} {
  raise_fault(device_state(device));
}

Tensor Call::dense(const Tensor& t, const char* name) const {
  if (!is_here(t, device)) fail_value(std::string(name) + ": is not on the device of the other tensors");
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

bool Call::holds(const Tensor& t) const { return is_here(t, device); }

Tensor Call::dense_or_pinned(const Tensor& t, const char* name) const {
  if (is_here(t, device) || !t.is_cpu()) return dense(t, name);
  if (!device_reads_host(t.const_data_ptr())) {
    fail_value(std::string(name) + ": is in host memory that is not pinned; expected it on the device, or " +
               "pinned (Tensor.pin_memory)");
  }
  if (!t.is_contiguous()) fail_value(std::string(name) + ": in pinned memory it must be contiguous");
  return t;
}

namespace {

const void* take_table(const Call& call, const Lookup& x, const OptionalTensor& in, OptionalTensor& kept,
                       const char* name) {
  if (!in.has_value()) return nullptr;
  kept = call.dense(*in, name);
  if (table_type(kept->scalar_type(), name) != x.table) {
    fail_value(std::string(name) + ": dtype differs from the other table's");
  }
  check_shape(kept->dim() == 2 && kept->size(0) == x.num_items && kept->size(1) == x.dim, name, *kept,
              "[" + std::to_string(x.num_items) + ", " + std::to_string(x.dim) + "]");
  return kept->const_data_ptr();
}

}  // namespace

Inputs::Inputs(Call& call, const OptionalTensor& central_in, const OptionalTensor& residual_in,
               const Tensor& indptr_in, const Tensor& neighbors_in, const Tensor& weights_in,
               const OptionalTensor& offsets_in, const OptionalTensor& sample_weights_in, ScalarType table,
               int64_t dim, int64_t positions, bool mean)
    : indptr(call.dense_or_pinned(indptr_in, "indptr")),
      neighbors(call.dense_or_pinned(neighbors_in, "neighbors")),
      weights(call.dense_or_pinned(weights_in, "weights")) {
  Lookup& x = lookup;
  check_shape(indptr.dim() == 1 && indptr.size(0) >= 1, "indptr", indptr, "[H + 1]");
  if (indptr.scalar_type() != ScalarType::Long) fail_value("indptr: expected dtype int64");
  x.num_items = indptr.size(0) - 1;
  if (x.num_items >= std::numeric_limits<int32_t>::max()) {
    fail_value("indptr: " + std::to_string(x.num_items) + " items; at most 2^31 - 2 are supported");
  }
  check_shape(neighbors.dim() == 1, "neighbors", neighbors, "[E]");
  x.num_edges = neighbors.size(0);
  check_shape(weights.dim() == 1 && weights.size(0) == x.num_edges, "weights", weights,
              "[" + std::to_string(x.num_edges) + "], one for each of neighbors");
  if (weights.scalar_type() != ScalarType::Float && weights.scalar_type() != ScalarType::Double) {
    fail_value("weights: expected dtype float32 or float64");
  }
  x.table = x.out_type = table_type(table, "central");
  x.dim = dim;
  x.positions = positions;
  x.graph = {static_cast<const int64_t*>(indptr.const_data_ptr()), neighbors.const_data_ptr(),
             weights.const_data_ptr(), is_int64(neighbors, "neighbors"),
             weights.scalar_type() == ScalarType::Double};
  x.central = take_table(call, x, central_in, central, "central");
  x.residual = take_table(call, x, residual_in, residual, "residual");
  x.mean = mean;
  x.graph_on_host = !call.holds(neighbors) || !call.holds(weights);
  if (offsets_in.has_value()) {
    offsets = call.dense(*offsets_in, "offsets");
    check_shape(offsets->dim() == 1 && offsets->size(0) >= 1, "offsets", *offsets, "[B + 1]");
    if (offsets->scalar_type() != ScalarType::Long) fail_value("offsets: expected dtype int64");
    x.offsets = static_cast<const int64_t*>(offsets->const_data_ptr());
    x.num_bags = offsets->size(0) - 1;
    if (x.num_bags == 0 && positions > 0) {
      fail_value("offsets: no bag for " + std::to_string(positions) + " ids");
    }
  }
  if (sample_weights_in.has_value()) {
    if (!offsets.has_value()) fail_value("sample_weights: need offsets");
    sample_weights = call.dense(*sample_weights_in, "sample_weights");
    check_shape(sample_weights->dim() == 1 && sample_weights->size(0) == positions, "sample_weights",
                *sample_weights, "[" + std::to_string(positions) + "], one for each id");
    if (sample_weights->scalar_type() != acc_type()) {
      fail_value(std::string("sample_weights: expected dtype ") + torch::headeronly::toString(acc_type()));
    }
    x.sample_weights = sample_weights->const_data_ptr();
  }
  if (mean && (!offsets.has_value() || sample_weights.has_value())) {
    fail_value("mean: needs offsets and no sample_weights");
  }
  x.max_degree = max_degree_of(call.context, call.device, x.graph.indptr, x.num_items, x.num_edges);
  if (x.max_edges() >= std::numeric_limits<int32_t>::max()) {
    fail_value("ids: the batch may touch " + std::to_string(x.max_edges()) +
               " edges; at most 2^31 - 2 in one call");
  }
}

void Inputs::attend(const Call& call, const Tensor& a_src_in, const Tensor& a_dst_in, const Tensor& b_in,
                    double dropout, const OptionalTensor& seed_in) {
  const auto dense = [&](const Tensor& t, const char* name) { return call.dense(t, name); };
  lookup.attention = link.take(dense, a_src_in, a_dst_in, b_in, dropout, seed_in, lookup.dim, acc_type());
}

Tensor flat_ids(const Call& call, const Tensor& ids_in, const Tensor& central) {
  const Tensor ids = call.dense(ids_in, "ids");
  check_shape(ids.dim() == 1, "ids", ids, "[P]");
  check_shape(central.dim() == 2, "central", central, "[H, D]");
  if (ids.size(0) >= std::numeric_limits<int32_t>::max() / 4) {
    fail_value("ids: " + std::to_string(ids.size(0)) + " positions; at most 2^29 in one call");
  }
  return ids;
}

std::tuple<Tensor, Tensor> run_forward(Call& call, const Tensor& ids, Inputs& in, int64_t padding_idx,
                                       std::optional<ScalarType> out_dtype) {
  Lookup& x = in.lookup;
  if (out_dtype.has_value()) x.out_type = table_type(*out_dtype, "out_dtype");
  if (accumulator(x.out_type) != x.acc()) fail_value("out_dtype: float64 goes with float64 tables only");
  Tensor plan_tensor = call.empty({2 * x.positions + 1}, ScalarType::Int);
  const Plan plan(static_cast<int32_t*>(plan_tensor.mutable_data_ptr()), x.positions);
  const auto dedupe = [&] {
    const StageClock clock(call.context, Stage::dedupe);
    make_plan(call.context, x, ids.const_data_ptr(), is_int64(ids, "ids"), padding_idx, plan);
    return make_groups(call.context, x, plan);
  };
  const Groups groups = dedupe();
  Tensor out = call.empty({x.is_bag() ? x.num_bags : x.positions, x.dim}, scalar_type(x.out_type));
  const StageClock clock(call.context, Stage::forward);
  lookup_forward(call.context, x, groups, out.mutable_data_ptr());
  return {out, plan_tensor};
}

Backward::Backward(const Tensor& grad_in, const Tensor& plan_in, const OptionalTensor& central,
                   const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors,
                   const Tensor& weights, const OptionalTensor& offsets, const OptionalTensor& sample_weights,
                   bool mean, ScalarType table)
    : call(plan_in, "plan"),
      grad(call.dense(grad_in, "grad")),
      plan_tensor(call.dense(plan_in, "plan")),
      positions((plan_tensor.numel() - 1) / 2),
      in(call, central, residual, indptr, neighbors, weights, offsets, sample_weights, table,
         grad.dim() == 2 ? grad.size(1) : -1, positions, mean) {
  if (plan_tensor.scalar_type() != ScalarType::Int || plan_tensor.numel() != 2 * positions + 1) {
    fail_value("plan: is not one that res_embedding returned");
  }
  const int64_t rows = x().is_bag() ? x().num_bags : positions;
  check_shape(grad.dim() == 2 && grad.size(0) == rows, "grad", grad, "[" + std::to_string(rows) + ", D]");
  in.lookup.out_type = table_type(grad.scalar_type(), "grad");
  if (accumulator(x().out_type) != x().acc()) fail_value("grad: dtype does not go with the tables'");
  // The plan's number of rows is written anew, as it stands there.
  const StageClock clock(context(), Stage::dedupe);
  groups =
      make_groups(context(), x(), Plan(static_cast<int32_t*>(plan_tensor.mutable_data_ptr()), positions));
}

void Backward::need_tables(bool both, const char* what) const {
  if (x().central == nullptr || (both && x().residual == nullptr)) {
    fail_value(std::string(what) + ": its gradient needs the tables");
  }
}

void Backward::need_link_weights() const {
  need_tables(false, "weights");
  if (x().graph_on_host) fail_value("weights: no gradient of link weights in pinned host memory");
}

TouchedEdges Backward::touched() const {
  const StageClock clock(context(), Stage::transpose);
  return touched_edges(context(), x(), groups);
}

Columns Backward::transposed(const TouchedEdges& edges) const {
  const StageClock clock(context(), Stage::transpose);
  return transpose(context(), x(), edges);
}

void Backward::sum_rows(void* g) const {
  const StageClock clock(context(), Stage::reduce);
  if (x().max_unique() > 0 && x().dim > 0) unique_gradient(context(), x(), groups, grad.const_data_ptr(), g);
}

Tensor Backward::sample_weights_gradient(bool needed) const {
  if (!needed) return call.empty({0}, in.acc_type());
  need_tables(true, "sample_weights");
  if (!in.sample_weights.has_value()) fail_value("sample_weights: no gradient without them");
  Tensor out = call.empty({positions}, in.acc_type());
  sample_weight_gradient(context(), x(), groups, grad.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

}  // namespace resemb::cuda
