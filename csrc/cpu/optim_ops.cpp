// The optimizers' operators on the CPU: checks tensors, calls the kernels.
#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <tuple>

#include "cpu/lookup.h"
#include "cpu/tensors.h"

namespace resemb {
namespace {

constexpr int64_t kRowsPerTask = 256;

// Row numbers as the kernels read them.
Tensor row_numbers(const Tensor& rows, int64_t expected) {
  check_shape(rows.dim() == 1 && (expected < 0 || rows.size(0) == expected), "rows", rows,
              "[N], one for each row of values");
  if (rows.scalar_type() != ScalarType::Long) fail_value("rows: expected dtype int64");
  return dense_cpu(rows, "rows");
}

const int64_t* numbers_of(const Tensor& rows) { return static_cast<const int64_t*>(rows.const_data_ptr()); }

bool ascend(const int64_t* rows, int64_t n, int64_t num_items, const Parallel& parallel) {
  if (n == 0) return true;
  if (rows[0] < 0 || rows[n - 1] >= num_items) return false;
  std::atomic<bool> all{true};
  parallel.ranges(n - 1, 16384, [&](int64_t begin, int64_t end) {
    bool rising = true;
    for (int64_t i = begin; i < end; ++i) rising &= rows[i] < rows[i + 1];
    if (!rising) all = false;
  });
  return all;
}

bool rows_ascend(const Tensor& rows_in, int64_t num_items) {
  const Tensor rows = row_numbers(rows_in, -1);
  return ascend(numbers_of(rows), rows.size(0), num_items, torch_pool());
}

std::tuple<Tensor, Tensor> coalesce_rows(const Tensor& rows_in, const Tensor& values_in, int64_t num_items) {
  check_shape(values_in.dim() == 2, "values", values_in, "[N, D]");
  const int64_t n = values_in.size(0);
  const Tensor rows = row_numbers(rows_in, n);
  const Tensor values = dense_cpu(values_in, "values");
  if (n >= std::numeric_limits<int32_t>::max() / 4) {
    fail_value("rows: " + std::to_string(n) + "; at most 2^29 at once");
  }
  if (num_items >= std::numeric_limits<int32_t>::max()) {
    fail_value("num_items: " + std::to_string(num_items) + "; at most 2^31 - 2 are supported");
  }
  const Parallel parallel = torch_pool();
  Buffer<int32_t> memory(PlanView<int32_t>::size(n));
  const PlanView<int32_t> plan{memory.data(), n};
  const Ids ids{rows.const_data_ptr(), true, n};
  if (const int64_t bad = make_plan(ids, num_items, -1, plan, parallel); bad >= 0) {
    throw std::out_of_range("rows: " + std::to_string(ids[bad]) + " at " + std::to_string(bad) +
                            " is out of range; expected rows in [0, " + std::to_string(num_items) + ")");
  }
  Lookup x{};
  x.dim = values.size(1);
  x.table = x.out_type = table_type(values.scalar_type(), "values");
  const int64_t unique = plan.unique();
  Tensor out_rows = torch::stable::new_empty(rows, {unique}, ScalarType::Long);
  std::copy_n(plan.rows(), unique, static_cast<int64_t*>(out_rows.mutable_data_ptr()));
  Tensor sums = new_output(values, {unique, x.dim}, scalar_type(x.acc()));
  if (x.dim > 0) {
    row_gradient(x, {memory.data(), n}, values.const_data_ptr(), sums.mutable_data_ptr(), parallel);
  }
  if (x.table == x.acc()) return {out_rows, sums};
  Tensor out = new_output(values, {unique, x.dim}, values.scalar_type());
  write_rows(x, sums.const_data_ptr(), unique, nullptr, out.mutable_data_ptr(), parallel);
  return {out_rows, out};
}

// Memory of a state tensor, or null where the rule or option has none.
void* state_of(const OptionalTensor& state, bool wanted, const char* name, const std::vector<int64_t>& shape,
               ScalarType type) {
  if (!wanted) {
    if (state.has_value()) fail_value(std::string(name) + ": this rule has no such state");
    return nullptr;
  }
  if (!state.has_value()) fail_value(std::string(name) + ": missing");
  bool fits = state->dim() == static_cast<int64_t>(shape.size()) && state->is_cpu() && state->is_contiguous();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = state->size(i) == shape[i];
  check_shape(fits, name, *state, "the table's rows, contiguous on the CPU");
  if (state->scalar_type() != type) {
    fail_value(std::string(name) + ": dtype " + torch::headeronly::toString(state->scalar_type()) +
               "; expected " + torch::headeronly::toString(type));
  }
  return state->mutable_data_ptr();
}

void update_rows(const Tensor& table, const OptionalTensor& first, const OptionalTensor& second,
                 const OptionalTensor& row_steps, const OptionalTensor& decayed, const Tensor& rows_in,
                 const Tensor& values_in, int64_t rule, double decay_now, double shrink, double weight_decay,
                 double lr, double beta1, double beta2, double eps, bool maximize, bool nesterov,
                 bool random_rounding, int64_t seed, int64_t step) {
  check_shape(table.dim() == 2 && table.is_cpu() && table.is_contiguous(), "table", table,
              "[H, D], contiguous on the CPU");
  if (rule < 0 || rule > static_cast<int64_t>(Rule::adam)) fail_value("rule: unknown");
  const int64_t items = table.size(0), dim = table.size(1);
  check_shape(values_in.dim() == 2 && values_in.size(1) == dim, "values", values_in,
              "[N, " + std::to_string(dim) + "]");
  if (values_in.scalar_type() != table.scalar_type()) fail_value("values: dtype differs from the table's");
  const Tensor rows = row_numbers(rows_in, values_in.size(0));
  const Tensor values = dense_cpu(values_in, "values");

  UpdateArgs a{};
  a.rule = static_cast<Rule>(rule);
  a.table = table_type(table.scalar_type(), "table");
  a.num_rows = rows.size(0);
  a.dim = dim;
  a.rows = numbers_of(rows);
  a.grad = values.const_data_ptr();
  const ScalarType acc = scalar_type(accumulator(a.table));
  const bool rowwise = a.rule == Rule::rowwise_adagrad;
  a.first = state_of(first, a.rule == Rule::momentum || a.rule == Rule::adam, "first", {items, dim}, acc);
  a.second = state_of(second, rowwise || a.rule == Rule::adagrad || a.rule == Rule::adam, "second",
                      rowwise ? std::vector<int64_t>{items} : std::vector<int64_t>{items, dim}, acc);
  a.row_steps = static_cast<int32_t*>(
      state_of(row_steps, row_steps.has_value(), "row_steps", {items}, ScalarType::Int));
  a.decayed =
      static_cast<double*>(state_of(decayed, decayed.has_value(), "decayed", {items}, ScalarType::Double));
  a.decay_now = decay_now;
  a.shrink = shrink;
  a.lr = lr;
  a.beta1 = beta1;
  a.beta2 = beta2;
  a.eps = eps;
  a.weight_decay = weight_decay;
  a.maximize = maximize;
  a.nesterov = nesterov;
  a.random_rounding = random_rounding;
  a.seed = static_cast<uint64_t>(seed);
  a.step = step;
  const Parallel parallel = torch_pool();
  if (!ascend(a.rows, a.num_rows, items, parallel)) fail_value("rows: do not ascend within [0, H)");
  a.param = table.mutable_data_ptr();
  parallel.ranges(a.num_rows, kRowsPerTask,
                  [&](int64_t begin, int64_t end) { row_kernels().update(a, begin, end); });
}

}  // namespace
}  // namespace resemb

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CPU, m) {
  m.impl("rows_ascend", TORCH_BOX(&resemb::rows_ascend));
  m.impl("coalesce_rows", TORCH_BOX(&resemb::coalesce_rows));
  m.impl("update_rows_", TORCH_BOX(&resemb::update_rows));
}
