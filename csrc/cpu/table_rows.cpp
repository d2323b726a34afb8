// Rows of tables on the CPU: their order, sums of values by row, and those that a batch reads.
#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "cpu/backend.h"
#include "cpu/item_set.h"
#include "cpu/lookup.h"

namespace resemb::cpu {
namespace {

constexpr int64_t kTableRowsPerTask = 256;

// The distinct items among ids, and where each stands among them.
class Distinct {
 public:
  Distinct(const Ids& ids, int64_t num_items, const char* name, const Parallel& parallel)
      : count_(ids.count), memory_(plan_size(count_)) {
    const int64_t bad = make_plan(ids, num_items, -1, {memory_.data(), count_}, parallel);
    if (bad >= 0) fail_id(name, ids[bad], bad, num_items);
  }

  PlanView<const int32_t> plan() const { return {memory_.data(), count_}; }
  SparseOutput::Memory write(SparseOutput& to) const {
    const SparseOutput::Memory memory = to.take(plan().num_unique());
    std::copy_n(plan().unique_ids(), plan().num_unique(), memory.indices);
    return memory;
  }

 private:
  int64_t count_;
  Buffer<int32_t> memory_;
};

}  // namespace

bool Backend::ascend(const TableRows& in) {
  const int64_t* rows = in.rows;
  if (in.count == 0) return true;
  if (rows[0] < 0 || rows[in.count - 1] >= in.num_items) return false;
  std::atomic<bool> all{true};
  parallel_.ranges(in.count - 1, 16384, [&](int64_t begin, int64_t end) {
    bool rising = true;
    for (int64_t i = begin; i < end; ++i) rising &= rows[i] < rows[i + 1];
    if (!rising) all = false;
  });
  return all;
}

void Backend::coalesce(const TableRows& rows, DType type, int64_t dim, const void* values, SparseOutput& to) {
  const Distinct found(Ids{rows.rows, true, rows.count}, rows.num_items, "rows", parallel_);
  Lookup x{};
  x.dim = dim;
  x.positions = rows.count;
  x.table = x.out_type = type;
  const int64_t unique = found.plan().num_unique();
  const SparseOutput::Memory out = found.write(to);
  const bool in_place = x.table == x.acc();
  Buffer<char> sums(in_place ? 0 : unique * dim * static_cast<int64_t>(item_size(x.acc())));
  void* g = in_place ? out.values : sums.data();
  if (dim > 0) unique_gradient(x, found.plan(), values, g, parallel_);
  if (!in_place) store_gradient(x, g, unique, nullptr, out.values, parallel_);
}

void Backend::distinct_items(const Ids& ids, int64_t num_items, SparseOutput& to) {
  Distinct(ids, num_items, "ids", parallel_).write(to);
}

void Backend::distinct_neighbors(const TableRows& rows, const GraphView& graph, int64_t num_edges,
                                 SparseOutput& to) {
  if (!ascend(rows)) throw std::invalid_argument("rows: do not ascend within [0, H)");
  std::atomic<bool> bad{false};
  ItemSet items(rows.num_items, parallel_);
  items.collect(rows.count, kTableRowsPerTask, [&](const auto& add, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = graph.indptr[rows.rows[i]], past = graph.indptr[rows.rows[i] + 1];
      if (first < 0 || past > num_edges) bad = true;
      for (int64_t e = first; !bad && e < past; ++e) {
        const uint64_t neighbor = static_cast<uint64_t>(graph.neighbor(e));
        if (neighbor < static_cast<uint64_t>(rows.num_items)) {
          add(neighbor);
        } else {
          bad = true;
        }
      }
    }
  });
  if (bad) throw std::out_of_range("neighbors: a row leaves the arrays or names an item outside [0, H)");
  items.list(to.take(items.count()).indices);
}

}  // namespace resemb::cpu
