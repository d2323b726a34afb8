#include "cpu/plan.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/profile.h"
#include "cpu/item_set.h"
#include "cpu/kernels.h"

namespace resemb::cpu {
namespace {

constexpr int64_t kGrain = 8192;

void prefetch_bytes(const void* data, int64_t first, int64_t past) {
  const char* bytes = static_cast<const char*>(data);
  for (int64_t at = first; at < past; at += 64) __builtin_prefetch(bytes + at);
}

// f(u, e, t) for the touched edges t in [begin, end): edge e of the graph, of unique id u. `values`, of
// item_size bytes an edge, is what f reads: the edges of ids lie far apart, so it is fetched ahead.
template <class F>
void for_edges(const GraphView& graph, const int32_t* ids, const TouchedEdges& edges, int64_t num_ids,
               int64_t begin, int64_t end, const void* values, int64_t item_size, const F& f) {
  const int64_t* offsets = edges.offsets.data();
  int64_t t = begin;
  for (int64_t u = std::upper_bound(offsets, offsets + num_ids, begin) - offsets - 1; t < end; ++u) {
    if (u + 32 < num_ids) __builtin_prefetch(&graph.indptr[ids[u + 32]]);
    if (u + 16 < num_ids) {
      const int64_t ahead = graph.indptr[ids[u + 16]];
      prefetch_bytes(values, ahead * item_size, (ahead + offsets[u + 17] - offsets[u + 16]) * item_size);
    }
    const int64_t shift = graph.indptr[ids[u]] - offsets[u];
    for (const int64_t past = std::min(offsets[u + 1], end); t < past; ++t) f(u, t + shift, t);
  }
}

}  // namespace

int64_t make_plan(const Ids& ids, int64_t num_items, int64_t padding_idx, const PlanView<int32_t>& plan,
                  const Parallel& parallel) {
  const StageTimer timer(Stage::dedupe);
  const int64_t n = ids.count;
  ItemSet items(num_items, parallel);
  std::atomic<int64_t> first_bad{n};
  items.collect(n, kGrain, [&](const auto& add, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t id = ids[p];
      if (static_cast<uint64_t>(id) < static_cast<uint64_t>(num_items)) {
        if (id != padding_idx) add(static_cast<uint64_t>(id));
        continue;
      }
      int64_t seen = first_bad.load();
      while (p < seen && !first_bad.compare_exchange_weak(seen, p)) {
      }
      return;
    }
  });
  if (first_bad.load() < n) return first_bad.load();

  const int64_t unique = items.count();
  plan.num_unique() = static_cast<int32_t>(unique);
  items.list(plan.unique_ids());
  // The plan is an operator's output: the part not used is zero, not whatever memory held.
  std::fill(plan.unique_ids() + unique, plan.unique_ids() + n, 0);
  const RankArgs args{items.bits(),  items.before(), ids.data,
                      ids.are_int64, padding_idx,    static_cast<int32_t>(unique),
                      plan.rank()};
  parallel.ranges(n, kGrain, [&](int64_t begin, int64_t end) { kernels().rank(args, begin, end); });
  return -1;
}

TouchedEdges touched_edges(const GraphView& graph, const int32_t* ids, int64_t num_ids,
                           const Parallel& parallel) {
  TouchedEdges edges;
  edges.offsets = Buffer<int64_t>(num_ids + 1);
  parallel.ranges(num_ids, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      if (u + 32 < num_ids) __builtin_prefetch(&graph.indptr[ids[u + 32]]);
      edges.offsets[u] = graph.indptr[ids[u] + 1] - graph.indptr[ids[u]];
    }
  });
  for (int64_t u = 0; u < num_ids; ++u) edges.count += std::exchange(edges.offsets[u], edges.count);
  edges.offsets[num_ids] = edges.count;
  return edges;
}

namespace {

constexpr int64_t kFewItems = 1 << 17;

// From groups of all items to those of the touched ones.
template <class T>
void drop_empty(Columns<T>& columns) {
  uint32_t* starts = columns.terms.starts.data();
  const int64_t items = columns.terms.count;
  int64_t touched = 0;
  for (int64_t i = 0; i < items; ++i) touched += starts[i] < starts[i + 1];
  columns.items = Buffer<int32_t>(touched);
  int64_t v = 0;
  for (int64_t i = 0; i < items; ++i) {
    const uint32_t start = starts[i];
    if (start == starts[i + 1]) continue;
    columns.items[v] = static_cast<int32_t>(i);
    starts[v++] = start;
  }
  starts[touched] = static_cast<uint32_t>(columns.terms.size);
  columns.terms.count = touched;
}

// Calls emit(t, term) for the touched edges t in [begin, end).
template <class A, class Emit>
void make_terms(const WeightTerms<A>&, const GraphView& graph, const int32_t* ids, const TouchedEdges& edges,
                int64_t num_ids, int64_t begin, int64_t end, const Emit& emit) {
  for_edges(graph, ids, edges, num_ids, begin, end, graph.weights,
            static_cast<int64_t>(item_size(graph.weights_type)), [&](int64_t u, int64_t e, int64_t t) {
              emit(t, Term<A>{static_cast<uint32_t>(u), graph.weight<A>(e)});
            });
}

// The same for terms that read nothing of the graph: f(u, t) makes them.
template <class F, class Emit>
void make_terms_of(const TouchedEdges& edges, int64_t num_ids, int64_t begin, int64_t end, const F& f,
                   const Emit& emit) {
  const int64_t* offsets = edges.offsets.data();
  int64_t t = begin;
  for (int64_t u = std::upper_bound(offsets, offsets + num_ids, begin) - offsets - 1; t < end; ++u) {
    for (const int64_t past = std::min(offsets[u + 1], end); t < past; ++t) {
      emit(t, f(static_cast<uint32_t>(u), t));
    }
  }
}
template <class A, class Emit>
void make_terms(const AttendedTerms<A>& terms, const GraphView&, const int32_t*, const TouchedEdges& edges,
                int64_t num_ids, int64_t begin, int64_t end, const Emit& emit) {
  const auto term = [&](uint32_t u, int64_t t) { return AttendedTerm<A>{u, terms.values[t]}; };
  make_terms_of(edges, num_ids, begin, end, term, emit);
}
template <class Emit>
void make_terms(const PlacedTerms&, const GraphView&, const int32_t*, const TouchedEdges& edges,
                int64_t num_ids, int64_t begin, int64_t end, const Emit& emit) {
  const auto term = [](uint32_t u, int64_t t) { return PlacedTerm{u, static_cast<uint32_t>(t)}; };
  make_terms_of(edges, num_ids, begin, end, term, emit);
}

}  // namespace

template <class Terms>
Columns<typename Terms::Payload> transpose_terms(const Terms& terms, const GraphView& graph,
                                                 const int32_t* ids, const TouchedEdges& edges,
                                                 int64_t num_ids, int64_t num_items,
                                                 const Parallel& parallel) {
  const StageTimer timer(Stage::transpose);
  const auto for_neighbors = [&](int64_t begin, int64_t end, const auto& f) {
    for_edges(graph, ids, edges, num_ids, begin, end, graph.neighbors, graph.neighbors_are_int64 ? 8 : 4,
              [&](int64_t, int64_t e, int64_t t) { f(graph.neighbor(e), t); });
  };
  const auto group = [&](const Buffer<int32_t>& ranks, int64_t groups) {
    return group_by_rank<typename Terms::Payload>(
        ranks.data(), edges.count, groups, parallel, [&](int64_t begin, int64_t end, const auto& emit) {
          make_terms(terms, graph, ids, edges, num_ids, begin, end, emit);
        });
  };
  Columns<typename Terms::Payload> columns;
  Buffer<int32_t> ranks(edges.count);  // first the neighbours, then their ranks
  if (num_items <= kFewItems && num_items <= edges.count) {
    // A counter for every item stays in cache: no need to number the touched ones first.
    parallel.ranges(edges.count, kGrain, [&](int64_t begin, int64_t end) {
      for_neighbors(begin, end,
                    [&](int64_t neighbor, int64_t t) { ranks[t] = static_cast<int32_t>(neighbor); });
    });
    columns.terms = group(ranks, num_items);
    drop_empty(columns);
    return columns;
  }
  ItemSet items(num_items, parallel);
  items.collect(edges.count, kGrain, [&](const auto& add, int64_t begin, int64_t end) {
    for_neighbors(begin, end, [&](int64_t neighbor, int64_t t) {
      ranks[t] = static_cast<int32_t>(neighbor);
      add(static_cast<uint64_t>(neighbor));
    });
  });
  columns.items = Buffer<int32_t>(items.count());
  items.list(columns.items.data());
  const RankArgs args{items.bits(), items.before(), ranks.data(), false, -1, -1, ranks.data()};
  parallel.ranges(edges.count, kGrain, [&](int64_t begin, int64_t end) { kernels().rank(args, begin, end); });
  columns.terms = group(ranks, columns.items.size());
  return columns;
}

template Columns<Term<float>> transpose_terms(const WeightTerms<float>&, const GraphView&, const int32_t*,
                                              const TouchedEdges&, int64_t, int64_t, const Parallel&);
template Columns<Term<double>> transpose_terms(const WeightTerms<double>&, const GraphView&, const int32_t*,
                                               const TouchedEdges&, int64_t, int64_t, const Parallel&);
template Columns<AttendedTerm<float>> transpose_terms(const AttendedTerms<float>&, const GraphView&,
                                                      const int32_t*, const TouchedEdges&, int64_t, int64_t,
                                                      const Parallel&);
template Columns<AttendedTerm<double>> transpose_terms(const AttendedTerms<double>&, const GraphView&,
                                                       const int32_t*, const TouchedEdges&, int64_t, int64_t,
                                                       const Parallel&);
template Columns<PlacedTerm> transpose_terms(const PlacedTerms&, const GraphView&, const int32_t*,
                                             const TouchedEdges&, int64_t, int64_t, const Parallel&);

}  // namespace resemb::cpu
