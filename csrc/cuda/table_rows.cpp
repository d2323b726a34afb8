// Rows of tables on CUDA: their order, sums of values by row, and those that a batch reads.
#include "cuda/backend.h"
#include "cuda/backward.h"
#include "cuda/plan.h"

namespace resemb::cuda {
namespace {

int64_t read_number(const Context& c, int device, const uint32_t* from) {
  int64_t numbers[4];
  read_numbers(c, device, {from, nullptr, nullptr, nullptr}, numbers);
  return numbers[0];
}

// Groups of ids, and how many there are.
struct Distinct {
  Lookup x{};
  Groups groups;
  int64_t count;

  Distinct(const Context& c, int device, const Ids& ids, int64_t num_items) {
    x.num_items = num_items;
    x.positions = ids.count;
    const Plan plan(c.memory->take<int32_t>(plan_size(ids.count)), ids.count);
    make_plan(c, x, ids, -1, plan);
    groups = make_groups(c, x, plan);
    count = read_number(c, device, groups.num_unique);
    raise_fault(device_state(device));  // the host has waited, so it need not wait for the next call
  }

  SparseOutput::Memory write(const Context& c, SparseOutput& to) const {
    const SparseOutput::Memory memory = to.take(count);
    to_int64(c, groups.ids, count, memory.indices);
    return memory;
  }
};

Ids ids_of(const TableRows& rows) { return {rows.rows, true, rows.count}; }

}  // namespace

bool Backend::ascend(const TableRows& rows) {
  if (rows.count == 0) return true;
  uint32_t* bad = context_.memory->take<uint32_t>(1);
  check_rows(context_, rows, /*to_fault=*/false, bad);
  return read_number(context_, device_, bad) == 0;
}

void Backend::coalesce(const TableRows& rows, DType type, int64_t dim, const void* values, SparseOutput& to) {
  Distinct found(context_, device_, ids_of(rows), rows.num_items);
  Lookup& x = found.x;
  x.dim = dim;
  x.table = x.out_type = type;
  const SparseOutput::Memory out = found.write(context_, to);
  if (found.count == 0 || dim == 0) return;
  const bool in_place = x.table == x.acc();
  void* sums = in_place ? out.values
                        : context_.memory->bytes(static_cast<size_t>(found.count * dim) * item_size(x.acc()));
  unique_gradient(context_, x, found.groups, values, sums);
  if (!in_place) store_gradient(context_, x, found.groups, sums, /*in_line=*/true, out.values);
}

void Backend::distinct_items(const Ids& ids, int64_t num_items, SparseOutput& to) {
  Distinct(context_, device_, ids, num_items).write(context_, to);
}

void Backend::distinct_neighbors(const TableRows& rows, const GraphView& graph, int64_t num_edges,
                                 SparseOutput& to) {
  check_rows(context_, rows, /*to_fault=*/true, nullptr);
  Distinct found(context_, device_, ids_of(rows), rows.num_items);
  Lookup& x = found.x;
  x.num_edges = num_edges;
  x.graph = graph;
  bound_edges(x, "rows");
  // The touched edges' neighbours are ids to be deduped once more.
  const TouchedEdges edges = touched_edges(context_, x, found.groups);
  const int64_t count = read_number(context_, device_, edges.count);
  raise_fault(device_state(device_));
  Distinct(context_, device_, {edges.column, false, count}, x.num_items).write(context_, to);
}

}  // namespace resemb::cuda
