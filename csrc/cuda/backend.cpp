// Checks and forward on CUDA.
#include "cuda/backend.h"

#include <limits>
#include <stdexcept>
#include <string>

#include "cuda/lookup.h"
#include "cuda/plan.h"

namespace resemb::cuda {

Backend::Backend(int device, void* stream, Memory& memory)
    : device_(device),
      scope_(device),
      context_{stream, &memory, device_state(device).fault, device_state(device).max_blocks} {
  raise_fault(device_state(device));
}

void Backend::inspect(Lookup& x) {
  if (x.is_bag() && x.num_bags == 0 && x.positions > 0) {
    throw std::invalid_argument("offsets: no bag for " + std::to_string(x.positions) + " ids");
  }
  bound_edges(x, "ids");
}

void Backend::bound_edges(Lookup& x, const char* name) {
  x.max_degree = max_degree_of(context_, device_, x.graph.indptr, x.num_items, x.num_edges);
  if (x.max_edges() >= std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument(std::string(name) + ": may touch " + std::to_string(x.max_edges()) +
                                " edges; at most 2^31 - 2 in one call, split them");
  }
}

void Backend::forward(const Lookup& x, const Ids& ids, int64_t padding_idx, int32_t* plan, void* out) {
  const auto dedupe = [&] {
    const StageClock clock(context_, Stage::dedupe);
    const Plan sorted(plan, x.positions);
    make_plan(context_, x, ids, padding_idx, sorted);
    return make_groups(context_, x, sorted);
  };
  const Groups groups = dedupe();
  const StageClock clock(context_, Stage::forward);
  lookup_forward(context_, x, groups, out);
}

}  // namespace resemb::cuda
