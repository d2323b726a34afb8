// The optimizers' operators on CUDA, and backward and step in one.
#include <tuple>
#include <utility>

#include "cuda/tensors.h"
#include "ops/update_args.h"

namespace resemb::cuda {
namespace {

// Row numbers as the kernels read them.
Tensor row_numbers(const Call& call, const Tensor& rows, int64_t expected) {
  check_shape(rows.dim() == 1 && (expected < 0 || rows.size(0) == expected), "rows", rows,
              "[N], one for each row of values");
  if (rows.scalar_type() != ScalarType::Long) fail_value("rows: expected dtype int64");
  return call.dense(rows, "rows");
}

const int64_t* numbers_of(const Tensor& rows) { return static_cast<const int64_t*>(rows.const_data_ptr()); }

UpdateArgs step_of(const Call& call, const Tensor& table, const OptionalTensor& first,
                   const OptionalTensor& second, const OptionalTensor& row_steps,
                   const OptionalTensor& decayed, const std::vector<double>& reals,
                   const std::vector<int64_t>& integers) {
  call.dense(table, "table");
  for (const OptionalTensor* state : {&first, &second, &row_steps, &decayed}) {
    if (state->has_value()) call.dense(**state, "state");
  }
  return update_args(table, first, second, row_steps, decayed, reals, integers, /*on_cpu=*/false);
}

bool rows_ascend(const Tensor& rows_in, int64_t num_items) {
  Call call(rows_in, "rows");
  const Tensor rows = row_numbers(call, rows_in, -1);
  if (rows.size(0) == 0) return true;
  uint32_t* bad = call.memory.take<uint32_t>(1);
  check_rows(call.context, numbers_of(rows), rows.size(0), num_items, /*to_fault=*/false, bad);
  int64_t numbers[4];
  read_numbers(call.context, call.device, {bad, nullptr, nullptr, nullptr}, numbers);
  return numbers[0] == 0;
}

// Groups of ids, and how many there are.
struct Distinct {
  Lookup x{};
  Groups groups;
  int64_t count;

  Distinct(Call& call, const Tensor& ids, int64_t num_items, const char* name) {
    if (ids.numel() >= std::numeric_limits<int32_t>::max() / 4) {
      fail_value(std::string(name) + ": " + std::to_string(ids.numel()) + "; at most 2^29 at once");
    }
    if (num_items >= std::numeric_limits<int32_t>::max()) {
      fail_value("num_items: " + std::to_string(num_items) + "; at most 2^31 - 2 are supported");
    }
    x.num_items = num_items;
    x.positions = ids.numel();
    const Plan plan(call.memory.take<int32_t>(2 * x.positions + 1), x.positions);
    make_plan(call.context, x, ids.const_data_ptr(), is_int64(ids, name), -1, plan);
    groups = make_groups(call.context, x, plan);
    int64_t numbers[4];
    read_numbers(call.context, call.device, {groups.num_unique, nullptr, nullptr, nullptr}, numbers);
    raise_fault(device_state(call.device));  // the host has waited, so it need not wait for the next call
    count = numbers[0];
  }

  Tensor rows(const Call& call) const {
    Tensor out = call.empty({count}, ScalarType::Long);
    to_int64(call.context, groups.ids, count, static_cast<int64_t*>(out.mutable_data_ptr()));
    return out;
  }
};

std::tuple<Tensor, Tensor> coalesce_rows(const Tensor& rows_in, const Tensor& values_in, int64_t num_items) {
  Call call(rows_in, "rows");
  check_shape(values_in.dim() == 2, "values", values_in, "[N, D]");
  const Tensor rows = row_numbers(call, rows_in, values_in.size(0));
  const Tensor values = call.dense(values_in, "values");
  Distinct found(call, rows, num_items, "rows");
  Lookup& x = found.x;
  x.dim = values.size(1);
  x.table = x.out_type = table_type(values.scalar_type(), "values");
  Tensor sums = call.empty({found.count, x.dim}, scalar_type(x.acc())), out = sums;
  if (found.count > 0 && x.dim > 0) {
    unique_gradient(call.context, x, found.groups, values.const_data_ptr(), sums.mutable_data_ptr());
  }
  if (x.table != x.acc()) {
    out = call.empty({found.count, x.dim}, values.scalar_type());
    store_gradient(call.context, x, found.groups, sums.const_data_ptr(), /*in_line=*/true,
                   out.mutable_data_ptr());
  }
  return {found.rows(call), out};
}

Tensor distinct_items(const Tensor& items, int64_t num_items) {
  Call call(items, "ids");
  const Tensor ids = call.dense(items, "ids");
  return Distinct(call, ids, num_items, "ids").rows(call);
}

Tensor distinct_neighbors(const Tensor& rows_in, const Tensor& indptr_in, const Tensor& neighbors_in) {
  Call call(rows_in, "rows");
  const Tensor rows = row_numbers(call, rows_in, -1);
  const Tensor indptr = call.dense_or_pinned(indptr_in, "indptr");
  const Tensor neighbors = call.dense_or_pinned(neighbors_in, "neighbors");
  check_shape(indptr.dim() == 1 && indptr.size(0) >= 1, "indptr", indptr, "[H + 1]");
  const int64_t num_items = indptr.size(0) - 1;
  check_rows(call.context, numbers_of(rows), rows.size(0), num_items, /*to_fault=*/true, nullptr);
  Distinct found(call, rows, num_items, "rows");
  Lookup& x = found.x;
  x.num_edges = neighbors.numel();
  x.graph = {numbers_of(indptr), neighbors.const_data_ptr(), nullptr, is_int64(neighbors, "neighbors"),
             false};
  x.max_degree = max_degree_of(call.context, call.device, x.graph.indptr, num_items, x.num_edges);
  // The touched edges' neighbours are ids to be deduped once more.
  const TouchedEdges edges = touched_edges(call.context, x, found.groups);
  int64_t numbers[4];
  read_numbers(call.context, call.device, {edges.count, nullptr, nullptr, nullptr}, numbers);
  raise_fault(device_state(call.device));
  Lookup y{};
  y.num_items = num_items;
  y.positions = numbers[0];
  const Plan plan(call.memory.take<int32_t>(2 * y.positions + 1), y.positions);
  make_plan(call.context, y, edges.column, /*ids_are_int64=*/false, -1, plan);
  const Groups groups = make_groups(call.context, y, plan);
  read_numbers(call.context, call.device, {groups.num_unique, nullptr, nullptr, nullptr}, numbers);
  Tensor out = call.empty({numbers[0]}, ScalarType::Long);
  to_int64(call.context, groups.ids, numbers[0], static_cast<int64_t*>(out.mutable_data_ptr()));
  return out;
}

void update_rows_op(const Tensor& table, const OptionalTensor& first, const OptionalTensor& second,
                    const OptionalTensor& row_steps, const OptionalTensor& decayed, const Tensor& rows_in,
                    const Tensor& values_in, std::vector<double> reals, std::vector<int64_t> integers) {
  Call call(table, "table");
  UpdateArgs a = step_of(call, table, first, second, row_steps, decayed, reals, integers);
  check_shape(values_in.dim() == 2 && values_in.size(1) == a.dim, "values", values_in,
              "[N, " + std::to_string(a.dim) + "]");
  if (values_in.scalar_type() != table.scalar_type()) fail_value("values: dtype differs from the table's");
  const Tensor rows = row_numbers(call, rows_in, values_in.size(0));
  const Tensor values = call.dense(values_in, "values");
  a.num_rows = rows.size(0);
  a.rows = numbers_of(rows);
  a.grad = values.const_data_ptr();
  check_rows(call.context, a.rows, a.num_rows, table.size(0), /*to_fault=*/true, nullptr);
  update_rows(call.context, a, table.size(0));
}

// p <- p exp(now - decayed[r]) for the given rows, or for all of them.
void decay_rows(const Tensor& table, const Tensor& decayed, const OptionalTensor& rows_in, double now,
                bool random_rounding, int64_t seed, int64_t step) {
  Call call(table, "table");
  call.dense(table, "table");
  call.dense(decayed, "decayed");
  check_shape(table.dim() == 2 && table.is_contiguous(), "table", table, "[H, D], contiguous");
  UpdateArgs a{};
  a.rule = Rule::decay;
  a.table = table_type(table.scalar_type(), "table");
  a.num_rows = table.size(0);
  a.dim = table.size(1);
  a.decayed = static_cast<double*>(
      state_of(decayed, true, "decayed", {a.num_rows}, ScalarType::Double, /*on_cpu=*/false));
  a.decay_now = now;
  a.shrink = 1;
  a.random_rounding = random_rounding;
  a.seed = static_cast<uint64_t>(seed);
  a.step = step;
  a.param = table.mutable_data_ptr();
  OptionalTensor rows;
  if (rows_in.has_value()) {
    rows = row_numbers(call, *rows_in, -1);
    a.rows = numbers_of(*rows);
    a.num_rows = rows->size(0);
    check_rows(call.context, a.rows, a.num_rows, table.size(0), /*to_fault=*/true, nullptr);
  }
  update_rows(call.context, a, table.size(0));
}

// Counts a table's step where it lies; what the kernels then read there.
Tensor advance(const Tensor& step, const OptionalTensor& lr, double lr_value, double lr_decay, double decay) {
  Call call(step, "step");
  check_shape(step.numel() == 1 && step.is_contiguous(), "step", step, "[] or [1]");
  if (step.scalar_type() != ScalarType::Float) fail_value("step: expected dtype float32");
  Tensor live = call.empty({3}, ScalarType::Double);
  Advance a{static_cast<float*>(step.mutable_data_ptr()), nullptr, false, lr_value, lr_decay, decay,
            static_cast<double*>(live.mutable_data_ptr())};
  OptionalTensor kept;
  if (lr.has_value()) {
    kept = call.dense(*lr, "lr");
    check_shape(kept->numel() == 1, "lr", *kept, "[] or [1]");
    a.lr_is_double = kept->scalar_type() == ScalarType::Double;
    if (!a.lr_is_double && kept->scalar_type() != ScalarType::Float) {
      fail_value("lr: expected dtype float32 or float64");
    }
    a.lr_device = kept->const_data_ptr();
  }
  advance_step(call.context, a);
  return live;
}

// One table's step as the operators take it.
struct TableStep {
  const OptionalTensor &first, &second, &row_steps, &decayed;
  const std::vector<double>& reals;
  const std::vector<int64_t>& integers;
  const OptionalTensor& live;

  UpdateArgs args(const Call& call, const Tensor& table) const {
    UpdateArgs a = step_of(call, table, first, second, row_steps, decayed, reals, integers);
    if (live.has_value()) {
      call.dense(*live, "live");
      check_shape(live->numel() == 3 && live->is_contiguous(), "live", *live, "[3]");
      if (live->scalar_type() != ScalarType::Double) fail_value("live: expected dtype float64");
      a.live = static_cast<const double*>(live->const_data_ptr());
    }
    return a;
  }
};

Tensor step_in_backward(Backward& b, const Tensor& central, const Tensor& residual, bool need_sample_weights,
                        const TableStep& central_step, const TableStep& residual_step) {
  const Lookup& x = b.x();
  const Context& c = b.context();
  const UpdateArgs of_central = central_step.args(b.call, central);
  const UpdateArgs of_residual = residual_step.args(b.call, residual);
  // Before anything is written: it reads the tables.
  Tensor samples = b.sample_weights_gradient(need_sample_weights);
  if (x.max_unique() == 0) return samples;
  void* g = b.call.memory.bytes(static_cast<size_t>(x.max_unique() * x.dim) * item_size(x.acc()));
  b.sum_rows(g);
  const Columns columns = b.transposed(b.touched());
  const StageClock clock(c, Stage::update);
  step_residual(c, x, b.groups, g, of_residual);
  step_central(c, x, columns, g, of_central);
  return samples;
}

Tensor backward_step_live(const Tensor& grad, const Tensor& plan, const Tensor& central,
                          const Tensor& residual, const Tensor& indptr, const Tensor& neighbors,
                          const Tensor& weights, const OptionalTensor& offsets,
                          const OptionalTensor& sample_weights, bool mean, bool need_sample_weights,
                          const OptionalTensor& central_first, const OptionalTensor& central_second,
                          const OptionalTensor& central_row_steps, const OptionalTensor& central_decayed,
                          std::vector<double> central_reals, std::vector<int64_t> central_integers,
                          const OptionalTensor& residual_first, const OptionalTensor& residual_second,
                          const OptionalTensor& residual_row_steps, const OptionalTensor& residual_decayed,
                          std::vector<double> residual_reals, std::vector<int64_t> residual_integers,
                          const OptionalTensor& central_live, const OptionalTensor& residual_live) {
  Backward b(grad, plan, central, residual, indptr, neighbors, weights, offsets, sample_weights, mean,
             central.scalar_type());
  return step_in_backward(b, central, residual, need_sample_weights,
                          {central_first, central_second, central_row_steps, central_decayed, central_reals,
                           central_integers, central_live},
                          {residual_first, residual_second, residual_row_steps, residual_decayed,
                           residual_reals, residual_integers, residual_live});
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
  return backward_step_live(grad, plan, central, residual, indptr, neighbors, weights, offsets,
                            sample_weights, mean, need_sample_weights, central_first, central_second,
                            central_row_steps, central_decayed, std::move(central_reals),
                            std::move(central_integers), residual_first, residual_second, residual_row_steps,
                            residual_decayed, std::move(residual_reals), std::move(residual_integers),
                            std::nullopt, std::nullopt);
}

}  // namespace
}  // namespace resemb::cuda

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, RESEMB_DEVICE_KEY, m) {
  m.impl("rows_ascend", TORCH_BOX(&resemb::cuda::rows_ascend));
  m.impl("coalesce_rows", TORCH_BOX(&resemb::cuda::coalesce_rows));
  m.impl("decay_rows_", TORCH_BOX(&resemb::cuda::decay_rows));
  m.impl("distinct_items", TORCH_BOX(&resemb::cuda::distinct_items));
  m.impl("distinct_neighbors", TORCH_BOX(&resemb::cuda::distinct_neighbors));
  m.impl("update_rows_", TORCH_BOX(&resemb::cuda::update_rows_op));
  m.impl("res_embedding_backward_step_", TORCH_BOX(&resemb::cuda::backward_step));
  m.impl("advance_step_", TORCH_BOX(&resemb::cuda::advance));
  m.impl("res_embedding_backward_step_live_", TORCH_BOX(&resemb::cuda::backward_step_live));
}
