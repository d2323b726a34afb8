// Edges of the graph's nodes, checked, for the instruction set of the including file.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Edges [first, past) of a row, empty where they leave the graph's arrays.
struct EdgeRange {
  int64_t first, past;
  bool bad;

  RESEMB_INLINE EdgeRange(const GatherArgs& a, int64_t row)
      : first(a.graph.indptr[row]), past(a.graph.indptr[row + 1]) {
    bad = first < 0 || past < first || past > a.num_edges;
    if (bad) first = past = 0;
  }
};

// Into the cache: what rows to come know of their edges.
RESEMB_INLINE void prefetch_edges(const GatherArgs& a, int64_t i) {
  if (i + 16 < a.num_ids) prefetch(&a.graph.indptr[a.ids[i + 16]]);
  if (i + 8 >= a.num_ids) return;
  const EdgeRange far(a, a.ids[i + 8]);
  const auto fetch = [&](const void* array, int64_t bytes) RESEMB_LAMBDA_INLINE {
    prefetch_bytes(static_cast<const char*>(array) + far.first * bytes, (far.past - far.first) * bytes);
  };
  fetch(a.graph.neighbors, a.graph.neighbors_are_int64 ? 8 : 4);
  fetch(a.graph.weights, a.graph.weights_are_double ? 8 : 4);
}

// Neighbours of edges [first, past) of the graph, at most kChunk of them, checked.
struct EdgeItems {
  const int32_t* items = nullptr;
  int64_t count = 0;
  bool bad = false;

  EdgeItems() = default;
  // `room`, of kChunk, is for numbers that the graph holds in another type.
  RESEMB_INLINE EdgeItems(const GatherArgs& a, int64_t first, int64_t past, int32_t* room)
      : count(past - first < kChunk ? past - first : kChunk) {
    // A negative number counts as huge.
    uint64_t largest = 0;
    if (a.graph.neighbors_are_int64) {
      const int64_t* from = static_cast<const int64_t*>(a.graph.neighbors) + first;
      for (int64_t k = 0; k < count; ++k) {
        largest = static_cast<uint64_t>(from[k]) > largest ? static_cast<uint64_t>(from[k]) : largest;
        room[k] = static_cast<int32_t>(from[k]);
      }
      items = room;
    } else {
      items = static_cast<const int32_t*>(a.graph.neighbors) + first;
      uint32_t narrow = 0;
      for (int64_t k = 0; k < count; ++k) {
        narrow = static_cast<uint32_t>(items[k]) > narrow ? static_cast<uint32_t>(items[k]) : narrow;
      }
      largest = narrow;
    }
    bad = count > 0 && largest >= static_cast<uint64_t>(a.num_items);
    if (bad) count = 0;
  }
};

// Weights of `count` edges from `first` on, in `room` where the graph holds them in another type.
template <class A>
RESEMB_INLINE const A* edge_weights(const GatherArgs& a, int64_t first, int64_t count, A* room) {
  const auto take = [&](const auto* weights) RESEMB_LAMBDA_INLINE -> const A* {
    if constexpr (std::is_same_v<decltype(weights), const A*>) return weights;
    for (int64_t k = 0; k < count; ++k) room[k] = static_cast<A>(weights[k]);
    return room;
  };
  return a.graph.weights_are_double ? take(static_cast<const double*>(a.graph.weights) + first)
                                    : take(static_cast<const float*>(a.graph.weights) + first);
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
