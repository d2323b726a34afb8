#include "cpu/plan.h"

#include <algorithm>
#include <atomic>

namespace resemb {
namespace {

constexpr int64_t kGrain = 8192;

// The smallest i in [0, n) for which is_bad(i), or -1.
template <class F>
int64_t first_where(int64_t n, int64_t grain, const Parallel& parallel, const F& is_bad) {
  std::atomic<int64_t> first{n};
  parallel.ranges(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!is_bad(i)) continue;
      int64_t seen = first.load();
      while (i < seen && !first.compare_exchange_weak(seen, i)) {
      }
      return;
    }
  });
  return first.load() < n ? first.load() : -1;
}

// Rows of the graph lie far apart: fetches the bounds and the edges of rows ahead of row u.
class GraphPrefetch {
 public:
  GraphPrefetch(const GraphView& graph, const int32_t* rows, int64_t num_rows, bool weights)
      : graph_(graph), rows_(rows), num_rows_(num_rows), weights_(weights) {}

  void ahead_of(int64_t u) const {
    if (u + 32 < num_rows_) __builtin_prefetch(&graph_.indptr[rows_[u + 32]]);
    if (u + 16 >= num_rows_) return;
    const int64_t* bounds = &graph_.indptr[rows_[u + 16]];
    edges(graph_.neighbors, graph_.neighbors_are_int64 ? 8 : 4, bounds[0], bounds[1]);
    if (weights_) edges(graph_.weights, graph_.weights_are_double ? 8 : 4, bounds[0], bounds[1]);
  }

 private:
  // The bounds may not have been checked yet, so the span is capped.
  static void edges(const void* data, int64_t size, int64_t first, int64_t past) {
    const int64_t bytes = std::min<int64_t>((past - first) * size, 512);
    const uintptr_t start = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(first * size);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(reinterpret_cast<const void*>(start + at));
  }

  const GraphView& graph_;
  const int32_t* rows_;
  int64_t num_rows_;
  bool weights_;
};

}  // namespace

int64_t first_bad_id(const Ids& ids, int64_t num_items, const Parallel& parallel) {
  return first_where(ids.count, 4 * kGrain, parallel, [&](int64_t p) {
    return static_cast<uint64_t>(ids[p]) >= static_cast<uint64_t>(num_items);
  });
}

int64_t first_bad_row(const GraphView& graph, const int32_t* rows, int64_t num_rows, int64_t num_items,
                      int64_t num_edges, const Parallel& parallel) {
  const GraphPrefetch prefetch(graph, rows, num_rows, /*weights=*/false);
  return first_where(num_rows, 1024, parallel, [&](int64_t u) {
    prefetch.ahead_of(u);
    const int64_t first = graph.indptr[rows[u]], past = graph.indptr[rows[u] + 1];
    if (first < 0 || past < first || past > num_edges) return true;
    bool bad = false;
    for (int64_t e = first; e < past; ++e) {
      bad |= static_cast<uint64_t>(graph.neighbor(e)) >= static_cast<uint64_t>(num_items);
    }
    return bad;
  });
}

void make_plan(const Ids& ids, int64_t num_items, int64_t padding_idx, const PlanView<int32_t>& plan,
               const Parallel& parallel) {
  const int64_t n = ids.count;
  Buffer<Pair> pairs(n), spare(n);
  // Padding takes the key num_items: it sorts behind every row.
  const uint64_t padding_key = static_cast<uint64_t>(num_items);
  parallel.ranges(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t id = ids[p];
      pairs[p] = make_pair(id == padding_idx ? padding_key : static_cast<uint64_t>(id), p);
    }
  });
  const Pair* sorted = radix_sort(pairs.data(), spare.data(), n, padding_key, parallel);
  const int64_t valid = std::lower_bound(sorted, sorted + n, make_pair(padding_key, 0)) - sorted;
  const Runs runs = find_runs(sorted, valid, parallel);
  plan.unique() = static_cast<int32_t>(runs.count);
  plan.valid() = static_cast<int32_t>(valid);

  int32_t *rows = plan.rows(), *starts = plan.starts(), *positions = plan.positions(), *rank = plan.rank();
  parallel.ranges(runs.count, kGrain / 4, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const uint32_t first = runs.starts[u], past = runs.starts[u + 1];
      rows[u] = static_cast<int32_t>(key_of(sorted[first]));
      starts[u] = static_cast<int32_t>(first);
      for (uint32_t i = first; i < past; ++i) {
        const uint32_t p = payload_of(sorted[i]);
        positions[i] = static_cast<int32_t>(p);
        rank[p] = static_cast<int32_t>(u);
      }
    }
  });
  starts[runs.count] = static_cast<int32_t>(valid);
  for (int64_t i = valid; i < n; ++i) rank[payload_of(sorted[i])] = static_cast<int32_t>(runs.count);
  // The plan is an operator's output: the parts not used are zero, not whatever memory held.
  std::fill(rows + runs.count, rows + n, 0);
  std::fill(starts + runs.count + 1, starts + n + 1, 0);
  std::fill(positions + valid, positions + n, 0);
}

TouchedEdges touched_edges(const GraphView& graph, const int32_t* rows, int64_t num_rows) {
  TouchedEdges edges;
  edges.offsets = Buffer<int64_t>(num_rows + 1);
  for (int64_t u = 0; u < num_rows; ++u) {
    edges.offsets[u] = edges.count;
    edges.count += graph.indptr[rows[u] + 1] - graph.indptr[rows[u]];
  }
  edges.offsets[num_rows] = edges.count;
  return edges;
}

template <class A>
Transpose<A> transpose(const GraphView& graph, const int32_t* rows, const TouchedEdges& edges,
                       int64_t num_rows, int64_t num_items, const Parallel& parallel) {
  Buffer<Pair> pairs(edges.count), spare(edges.count);
  Buffer<Term<A>> by_row(edges.count);
  const GraphPrefetch prefetch(graph, rows, num_rows, /*weights=*/true);
  parallel.ranges(num_rows, 512, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      prefetch.ahead_of(u);
      const int64_t first = graph.indptr[rows[u]];
      for (int64_t t = edges.offsets[u]; t < edges.offsets[u + 1]; ++t) {
        const int64_t e = first + (t - edges.offsets[u]);
        pairs[t] = make_pair(graph.neighbor(e), t);
        by_row[t] = {static_cast<uint32_t>(u), graph.weight<A>(e)};
      }
    }
  });
  const Pair* sorted = radix_sort(pairs.data(), spare.data(), edges.count, num_items - 1, parallel);

  Transpose<A> result;
  result.columns = find_runs(sorted, edges.count, parallel);
  result.neighbors = Buffer<int32_t>(result.columns.count);
  result.terms = Buffer<Term<A>>(edges.count);
  parallel.ranges(edges.count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) result.terms[i] = by_row[payload_of(sorted[i])];
  });
  parallel.ranges(result.columns.count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      result.neighbors[v] = static_cast<int32_t>(key_of(sorted[result.columns.starts[v]]));
    }
  });
  return result;
}

template Transpose<float> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t, int64_t,
                                    const Parallel&);
template Transpose<double> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t, int64_t,
                                     const Parallel&);

}  // namespace resemb
