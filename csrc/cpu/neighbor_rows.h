// The central rows of a node's neighbours, with heads in whole vectors, for the instruction set of the
// including file.
//
// Rows are read where they lie if D / heads is a multiple of the lanes and the table holds accumulators, and
// are otherwise copied, each head with zeros behind it.
#pragma once

#include "cpu/adjacency.h"
#include "cpu/kernels.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Fetches rows of a table, some at a time.
struct Fetching {
  const char* table = nullptr;
  const int32_t* items = nullptr;
  int64_t row_bytes = 0, left = 0;  // rows

  RESEMB_INLINE void one(int64_t item) const {
    const char *row = table + item * row_bytes, *past = row + row_bytes;
    for (; row + 256 <= past; row += 256) {
      prefetch(row);
      prefetch(row + 64);
      prefetch(row + 128);
      prefetch(row + 192);
    }
    for (; row < past; row += 64) prefetch(row);
  }
  RESEMB_INLINE void next() {
    if (left == 0) return;
    one(*items);
    ++items;
    --left;
  }
  RESEMB_INLINE void all() {
    while (left > 0) next();
  }
};

struct Node {
  int64_t i, item, first, count;  // number in the batch, item, first edge, edges
};

// Memory handed out piece by piece.
template <class A>
struct Room {
  A* free;

  RESEMB_INLINE A* take(int64_t n) {
    A* taken = free;
    free += n;
    return taken;
  }
};

template <class A>
class NeighborRows {
  using V = Vec<A>;
  static constexpr int64_t kLanesHere = kLanes<A>;

 public:
  RESEMB_INLINE NeighborRows(const GatherArgs& args, int64_t num_heads)
      : g(args),
        dim(g.dim),
        heads(num_heads),
        width(dim / heads),
        vectors((width + kLanesHere - 1) / kLanesHere),
        padded(vectors * kLanesHere),
        size(heads * padded),
        row_bytes(dim * static_cast<int64_t>(item_size(g.table))),
        in_place(width == padded && item_size(g.table) == sizeof(A)) {}

  // A row of accumulators with its heads in whole vectors: itself, or its copy.
  RESEMB_INLINE const A* laid_out(const A* row, A* copy) const {
    if (width == padded) return row;
    lay_out(row, copy);
    return copy;
  }
  template <class T>
  RESEMB_INLINE void lay_out(const T* row, A* to) const {
    if (width == padded) {
      for (int64_t c = 0; c < dim; c += kLanesHere) store(to + c, load(row + c));
      return;
    }
    for (int64_t h = 0; h < heads; ++h) {
      int64_t c = 0;
      for (; c + kLanesHere <= width; c += kLanesHere) store(to + h * padded + c, load(row + h * width + c));
      store(to + h * padded + c, load_part(row + h * width + c, width - c));
    }
  }
  // A table's row likewise.
  RESEMB_INLINE const A* table_row(const void* table, int64_t item, A* copy) const {
    if (in_place) return static_cast<const A*>(table) + item * dim;
    copy_table_row(static_cast<const char*>(table) + item * row_bytes, copy);
    return copy;
  }

  // Numbers that the copies of a row's neighbours take.
  RESEMB_INLINE int64_t copied(const Node& node) const {
    return in_place ? 0 : (node.count < kChunk ? node.count : kChunk) * size;
  }

  // f(node) until it returns false or the graph is malformed; the node it stopped at, or -1. Meanwhile f
  // fetches the central rows of `next` by `ahead`, so that they are on their way while it computes.
  template <class F>
  RESEMB_INLINE int64_t for_nodes(int64_t begin, int64_t end, const F& f) {
    const auto first_items = [&](int64_t i) RESEMB_LAMBDA_INLINE {
      const EdgeRange edges(g, g.ids[i]);
      return EdgeItems(g, edges.first, edges.past, rooms_[i % 2]);
    };
    next = EdgeItems();
    if (begin < end) next = first_items(begin);
    for (int64_t i = begin; i < end; ++i) {
      const EdgeRange edges(g, g.ids[i]);
      now = next;
      if (edges.bad || now.bad) return i;
      prefetch_edges(g, i);
      next = EdgeItems();
      if (i + 1 < end) {
        next = first_items(i + 1);
        if (g.residual != nullptr) {
          Fetching{static_cast<const char*>(g.residual), nullptr, row_bytes}.one(g.ids[i + 1]);
        }
      }
      ahead = {static_cast<const char*>(g.central), next.items, row_bytes, next.count};
      const Node node{i, g.ids[i], edges.first, edges.past - edges.first};
      held_ = -1;
      if (!f(node)) return i;
      ahead.all();
    }
    return -1;
  }

  // f(k, count) for the row's chunks of edges, from its k-th on, whose items are in `now` and whose central
  // rows in `rows`, the last one again up to a multiple of four. False where a neighbour is no item.
  template <class F>
  RESEMB_INLINE bool for_chunks(const Node& node, const F& f) {
    for (int64_t k = 0; k < node.count; k += kChunk) {
      if (k != held_) {
        // The first chunk was taken when the row was still the next one.
        if (k > 0 || held_ >= 0)
          now = EdgeItems(g, node.first + k, node.first + node.count, rooms_[node.i % 2]);
        if (now.bad) return false;
        held_ = k;
        for (int64_t j = 0; j < now.count; ++j) {
          if (!in_place) ahead.next();
          rows[j] = table_row(g.central, now.items[j], copies + j * size);
        }
        for (int64_t j = now.count; j % 4 != 0; ++j) rows[j] = rows[j - 1];
      }
      f(k, now.count);
    }
    return true;
  }

  const GatherArgs& g;
  const int64_t dim, heads;
  const int64_t width, vectors, padded;  // of a head: columns, vectors, columns in whole vectors
  const int64_t size;                    // columns of all heads in whole vectors
  const int64_t row_bytes;
  const bool in_place;    // central rows are not copied
  A* copies = nullptr;    // where they go
  const A* rows[kChunk];  // central rows of the chunk `now`
  EdgeItems now, next;    // next: checked first edges of the next node
  Fetching ahead;         // of the central rows of next

 private:
  __attribute__((noinline)) void copy_table_row(const void* row, A* to) const {
    if constexpr (sizeof(A) == 4) {
      if (g.table == DType::f16) return lay_out(static_cast<const Half*>(row), to);
      if (g.table == DType::bf16) return lay_out(static_cast<const BFloat*>(row), to);
    }
    lay_out(static_cast<const A*>(row), to);
  }

  int32_t rooms_[2][kChunk];  // of items, by turns
  int64_t held_ = -1;         // first edge of `now` whose rows are in `rows`
};

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
