// Rows of the graph, read with care: a malformed graph must not read foreign memory.
#pragma once

#include "cuda/numbers.cuh"
#include "cuda/plan.h"

namespace resemb::cuda {

struct Range {
  int64_t first, past;
};

// One term of a sum: `weight` times row `source` of a matrix.
template <class A>
struct alignas(2 * sizeof(A)) Edge {
  uint32_t source;
  A weight;
};

inline Count unique_of(const Lookup& x, const Groups& g) { return {g.num_unique, x.max_unique()}; }

struct GraphReader {
  GraphView graph;
  int64_t num_items, num_edges;
  Fault* fault;

  GraphReader(const Context& c, const Lookup& x)
      : graph(x.graph), num_items(x.num_items), num_edges(x.num_edges), fault(c.fault) {}

  __device__ __forceinline__ Range range(uint32_t row) const {
    const int64_t first = graph.indptr[row], past = graph.indptr[row + 1];
    if (first >= 0 && past >= first && past <= num_edges) return {first, past};
    report(fault, Wrong::graph, row, 0, num_items);
    return {0, 0};
  }
  // The neighbour at edge e, or H.
  __device__ __forceinline__ uint32_t item(int64_t e) const {
    const int64_t neighbor = graph.neighbor(e);
    if (static_cast<uint64_t>(neighbor) < static_cast<uint64_t>(num_items)) {
      return static_cast<uint32_t>(neighbor);
    }
    report(fault, Wrong::graph, neighbor, e, num_items);
    return static_cast<uint32_t>(num_items);
  }
};

}  // namespace resemb::cuda
