// Checks and forward on the CPU.
#include "cpu/backend.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "cpu/lookup.h"

namespace resemb::cpu {
namespace {

// Says why lookup_forward calls the graph's row of an item bad.
[[noreturn]] void fail_row(const Lookup& x, int64_t item) {
  const std::string row = "the row of item " + std::to_string(item);
  const auto leaves = [&] {
    throw std::out_of_range("neighbors: " + row + " leaves the arrays or names an item outside [0, " +
                            std::to_string(x.num_items) + ")");
  };
  const int64_t first = x.graph.indptr[item], past = x.graph.indptr[item + 1];
  if (first < 0 || past < first || past > x.num_edges) leaves();
  for (int64_t e = first; e < past; ++e) {
    if (x.graph.neighbor(e) < 0 || x.graph.neighbor(e) >= x.num_items) leaves();
  }
  for (int64_t e = first; e < past; ++e) {
    const double value = x.graph.weight<double>(e);
    if (std::isfinite(value)) continue;
    throw std::invalid_argument("log_weights: " + row + " holds " + std::to_string(value) + " for item " +
                                std::to_string(x.graph.neighbor(e)) +
                                "; expected finite logarithms of weights above 0");
  }
  throw std::invalid_argument("neighbors: " + row +
                              " lacks the item itself; expected it in every row that is not empty");
}

}  // namespace

void fail_id(const char* name, int64_t id, int64_t position, int64_t num_items) {
  throw std::out_of_range(std::string(name) + ": id " + std::to_string(id) + " at position " +
                          std::to_string(position) + " is out of range; expected ids in [0, " +
                          std::to_string(num_items) + ")");
}

void Backend::inspect(Lookup& x) {
  if (!x.is_bag()) return;
  const int64_t* at = x.offsets;
  if (at[0] != 0 || at[x.num_bags] != x.positions) {
    throw std::invalid_argument("offsets: run from " + std::to_string(at[0]) + " to " +
                                std::to_string(at[x.num_bags]) + "; expected 0 to " +
                                std::to_string(x.positions) + ", the number of ids");
  }
  for (int64_t b = 0; b < x.num_bags; ++b) {
    if (at[b] > at[b + 1]) {
      throw std::invalid_argument("offsets: fall from " + std::to_string(at[b]) + " to " +
                                  std::to_string(at[b + 1]) + " at " + std::to_string(b + 1) +
                                  "; expected ascending values");
    }
  }
}

void Backend::forward(const Lookup& x, const Ids& ids, int64_t padding_idx, int32_t* plan, void* out) {
  const int64_t bad = make_plan(ids, x.num_items, padding_idx, {plan, x.positions}, parallel_);
  if (bad >= 0) fail_id("ids", ids[bad], bad, x.num_items);
  const PlanView<const int32_t> ready{plan, x.positions};
  const int64_t bad_row = lookup_forward(x, ready, out, parallel_);
  if (bad_row >= 0) fail_row(x, ready.unique_ids()[bad_row]);
}

}  // namespace resemb::cpu
