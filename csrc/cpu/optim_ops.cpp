// The optimizers' operators on the CPU: checks tensors, calls the kernels.
#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <tuple>

#include "common/profile.h"
#include "cpu/item_set.h"
#include "cpu/lookup.h"
#include "ops/update_args.h"

namespace resemb::cpu {
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

// The distinct items among ids, and where each stands among them.
class Distinct {
 public:
  Distinct(const Ids& ids, int64_t num_items, const char* name, const Parallel& parallel)
      : count_(ids.count) {
    if (count_ >= std::numeric_limits<int32_t>::max() / 4) {
      fail_value(std::string(name) + ": " + std::to_string(count_) + "; at most 2^29 at once");
    }
    if (num_items >= std::numeric_limits<int32_t>::max()) {
      fail_value("num_items: " + std::to_string(num_items) + "; at most 2^31 - 2 are supported");
    }
    memory_ = Buffer<int32_t>(PlanView<int32_t>::size(count_));
    const int64_t bad = make_plan(ids, num_items, -1, {memory_.data(), count_}, parallel);
    if (bad >= 0) fail_id(name, ids[bad], bad, num_items);
  }

  PlanView<const int32_t> plan() const { return {memory_.data(), count_}; }
  Tensor rows(const Tensor& like) const {
    Tensor out = torch::stable::new_empty(like, {plan().num_unique()}, ScalarType::Long);
    std::copy_n(plan().unique_ids(), plan().num_unique(), static_cast<int64_t*>(out.mutable_data_ptr()));
    return out;
  }

 private:
  int64_t count_;
  Buffer<int32_t> memory_;
};

std::tuple<Tensor, Tensor> coalesce_rows(const Tensor& rows_in, const Tensor& values_in, int64_t num_items) {
  check_shape(values_in.dim() == 2, "values", values_in, "[N, D]");
  const int64_t n = values_in.size(0);
  const Tensor rows = row_numbers(rows_in, n);
  const Tensor values = dense_cpu(values_in, "values");
  const Parallel parallel = torch_pool();
  const Distinct found(Ids{rows.const_data_ptr(), true, n}, num_items, "rows", parallel);
  Lookup x{};
  x.dim = values.size(1);
  x.table = x.out_type = table_type(values.scalar_type(), "values");
  const PlanView<const int32_t> plan = found.plan();
  const int64_t unique = plan.num_unique();
  Tensor out_rows = found.rows(rows);
  Tensor sums = new_output(values, {unique, x.dim}, scalar_type(x.acc()));
  if (x.dim > 0) {
    unique_gradient(x, plan, values.const_data_ptr(), sums.mutable_data_ptr(), parallel);
  }
  if (x.table == x.acc()) return {out_rows, sums};
  Tensor out = new_output(values, {unique, x.dim}, values.scalar_type());
  store_gradient(x, sums.const_data_ptr(), unique, nullptr, out.mutable_data_ptr(), parallel);
  return {out_rows, out};
}

void update_rows(const Tensor& table, const OptionalTensor& first, const OptionalTensor& second,
                 const OptionalTensor& row_steps, const OptionalTensor& decayed, const Tensor& rows_in,
                 const Tensor& values_in, std::vector<double> reals, std::vector<int64_t> integers) {
  UpdateArgs a = update_args(table, first, second, row_steps, decayed, reals, integers);
  check_shape(values_in.dim() == 2 && values_in.size(1) == a.dim, "values", values_in,
              "[N, " + std::to_string(a.dim) + "]");
  if (values_in.scalar_type() != table.scalar_type()) fail_value("values: dtype differs from the table's");
  const Tensor rows = row_numbers(rows_in, values_in.size(0));
  const Tensor values = dense_cpu(values_in, "values");
  a.num_rows = rows.size(0);
  a.rows = numbers_of(rows);
  a.grad = values.const_data_ptr();
  const Parallel parallel = torch_pool();
  const StageTimer timer(Stage::update);
  if (!ascend(a.rows, a.num_rows, table.size(0), parallel)) fail_value("rows: do not ascend within [0, H)");
  parallel.ranges(a.num_rows, kRowsPerTask,
                  [&](int64_t begin, int64_t end) { kernels().update(a, begin, end); });
}

// p <- p exp(now - decayed[r]) for the given rows, or for all of them.
void decay_rows(const Tensor& table, const Tensor& decayed, const OptionalTensor& rows_in, double now,
                bool random_rounding, int64_t seed, int64_t step) {
  check_shape(table.dim() == 2 && table.is_cpu() && table.is_contiguous(), "table", table,
              "[H, D], contiguous on the CPU");
  UpdateArgs a{};
  a.rule = Rule::decay;
  a.table = table_type(table.scalar_type(), "table");
  a.num_rows = table.size(0);
  a.dim = table.size(1);
  a.decayed = static_cast<double*>(state_of(decayed, true, "decayed", {a.num_rows}, ScalarType::Double));
  a.decay_now = now;
  a.shrink = 1;
  a.random_rounding = random_rounding;
  a.seed = static_cast<uint64_t>(seed);
  a.step = step;
  const Parallel parallel = torch_pool();
  OptionalTensor rows;
  if (rows_in.has_value()) {
    rows = row_numbers(*rows_in, -1);
    a.rows = numbers_of(*rows);
    a.num_rows = rows->size(0);
    if (!ascend(a.rows, a.num_rows, table.size(0), parallel)) fail_value("rows: do not ascend within [0, H)");
  }
  a.param = table.mutable_data_ptr();
  parallel.ranges(a.num_rows, kRowsPerTask,
                  [&](int64_t begin, int64_t end) { kernels().update(a, begin, end); });
}

Tensor distinct_items(const Tensor& items_in, int64_t num_items) {
  const Tensor ids = dense_cpu(items_in, "ids");
  const Distinct found(Ids{ids.const_data_ptr(), is_int64(ids, "ids"), ids.numel()}, num_items, "ids",
                       torch_pool());
  return found.rows(ids);
}

Tensor distinct_neighbors(const Tensor& rows_in, const Tensor& indptr_in, const Tensor& neighbors_in) {
  const Tensor rows = row_numbers(rows_in, -1);
  const Tensor indptr = dense_cpu(indptr_in, "indptr"), neighbors = dense_cpu(neighbors_in, "neighbors");
  const GraphView graph{static_cast<const int64_t*>(indptr.const_data_ptr()), neighbors.const_data_ptr(),
                        nullptr, is_int64(neighbors, "neighbors"), false};
  const int64_t num_items = indptr.size(0) - 1, num_edges = neighbors.numel();
  const int64_t* row = numbers_of(rows);
  const Parallel parallel = torch_pool();
  if (!ascend(row, rows.size(0), num_items, parallel)) fail_value("rows: do not ascend within [0, H)");
  std::atomic<bool> bad{false};
  ItemSet items(num_items, parallel);
  items.collect(rows.size(0), kRowsPerTask, [&](const auto& add, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = graph.indptr[row[i]], past = graph.indptr[row[i] + 1];
      if (first < 0 || past > num_edges) bad = true;
      for (int64_t e = first; !bad && e < past; ++e) {
        const uint64_t neighbor = static_cast<uint64_t>(graph.neighbor(e));
        if (neighbor < static_cast<uint64_t>(num_items)) {
          add(neighbor);
        } else {
          bad = true;
        }
      }
    }
  });
  if (bad) throw std::out_of_range("neighbors: a row leaves the arrays or names an item outside [0, H)");
  Tensor out = torch::stable::new_empty(rows, {items.count()}, ScalarType::Long);
  items.list(static_cast<int64_t*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace
}  // namespace resemb::cpu

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CPU, m) {
  m.impl("rows_ascend", TORCH_BOX(&resemb::cpu::rows_ascend));
  m.impl("coalesce_rows", TORCH_BOX(&resemb::cpu::coalesce_rows));
  m.impl("decay_rows_", TORCH_BOX(&resemb::cpu::decay_rows));
  m.impl("distinct_items", TORCH_BOX(&resemb::cpu::distinct_items));
  m.impl("distinct_neighbors", TORCH_BOX(&resemb::cpu::distinct_neighbors));
  m.impl("update_rows_", TORCH_BOX(&resemb::cpu::update_rows));
}
