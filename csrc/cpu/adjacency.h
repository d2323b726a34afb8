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
  fetch(a.graph.weights, static_cast<int64_t>(item_size(a.graph.weights_type)));
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

// Numbers of one type as those of another; `to` has room for a multiple of 8.
template <class F, class A>
RESEMB_INLINE void convert(const F* from, int64_t count, A* to) {
  for (int64_t k = 0; k < count; ++k) to[k] = static_cast<A>(from[k]);
}
RESEMB_INLINE void put_eight(float* to, f8 v) { store(to, v); }
RESEMB_INLINE void put_eight(double* to, f8 v) {
  for (int64_t l = 0; l < 8; ++l) to[l] = v[l];
}
template <class A>
RESEMB_INLINE void convert(const Half* from, int64_t count, A* to) {
  if (count < 8) {
    if (count > 0) put_eight(to, load_part(from, count));
    return;
  }
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) put_eight(to + k, load(from + k));
  // The last eight end with the numbers: some are converted twice.
  if (k < count) put_eight(to + count - 8, load(from + count - 8));
}

// Calls f with the graph's weights from an edge on, in their type.
template <class F>
RESEMB_INLINE auto with_weights(const GraphView& graph, int64_t first, const F& f) {
  switch (graph.weights_type) {
    case DType::f64:
      return f(static_cast<const double*>(graph.weights) + first);
    case DType::f16:
      return f(static_cast<const Half*>(graph.weights) + first);
    default:
      return f(static_cast<const float*>(graph.weights) + first);
  }
}

// Weights of `count` edges from `first` on, in `room` where the graph holds them in another type.
template <class A>
RESEMB_INLINE const A* edge_weights(const GatherArgs& a, int64_t first, int64_t count, A* room) {
  return with_weights(a.graph, first, [&](const auto* weights) RESEMB_LAMBDA_INLINE -> const A* {
    if constexpr (std::is_same_v<decltype(weights), const A*>) {
      return weights;
    } else {
      convert(weights, count, room);
      return room;
    }
  });
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
