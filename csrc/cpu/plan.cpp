#include "cpu/plan.h"

#include <algorithm>
#include <atomic>

namespace resemb {
namespace {

constexpr int64_t kGrain = 8192;

void prefetch_bytes(const void* data, int64_t first, int64_t past) {
  const char* bytes = static_cast<const char*>(data);
  for (int64_t at = first; at < past; at += 64) __builtin_prefetch(bytes + at);
}

}  // namespace

int64_t first_bad_id(const Ids& ids, int64_t num_items, const Parallel& parallel) {
  std::atomic<int64_t> first{ids.count};
  parallel.ranges(ids.count, 4 * kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      if (static_cast<uint64_t>(ids[p]) < static_cast<uint64_t>(num_items)) continue;
      int64_t seen = first.load();
      while (p < seen && !first.compare_exchange_weak(seen, p)) {
      }
      return;
    }
  });
  return first.load() < ids.count ? first.load() : -1;
}

void make_plan(const Ids& ids, int64_t num_items, int64_t padding_idx, const PlanView<int32_t>& plan,
               const Parallel& parallel) {
  const int64_t n = ids.count;
  const auto generate = [&](int64_t part, int64_t parts, const auto& emit) {
    for (int64_t p = n * part / parts; p < n * (part + 1) / parts; ++p) {
      const int64_t id = ids[p];
      if (id != padding_idx) emit(static_cast<uint32_t>(id), static_cast<int32_t>(p));
    }
  };
  const Groups<int32_t> groups = group_by_key<int32_t>(
      n, static_cast<uint64_t>(std::max<int64_t>(num_items - 1, 0)), parallel, generate);
  plan.unique() = static_cast<int32_t>(groups.count);
  plan.valid() = static_cast<int32_t>(groups.size);

  int32_t *rows = plan.rows(), *starts = plan.starts(), *positions = plan.positions(), *rank = plan.rank();
  if (padding_idx >= 0) {
    parallel.ranges(n, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        if (ids[p] == padding_idx) rank[p] = static_cast<int32_t>(groups.count);
      }
    });
  }
  parallel.ranges(groups.count, kGrain / 4, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      rows[u] = static_cast<int32_t>(groups.keys[u]);
      starts[u] = static_cast<int32_t>(groups.starts[u]);
      for (uint32_t i = groups.starts[u]; i < groups.starts[u + 1]; ++i) {
        positions[i] = groups.payloads[i];
        rank[groups.payloads[i]] = static_cast<int32_t>(u);
      }
    }
  });
  starts[groups.count] = static_cast<int32_t>(groups.size);
  // The plan is an operator's output: the parts not used are zero, not whatever memory held.
  std::fill(rows + groups.count, rows + n, 0);
  std::fill(starts + groups.count + 1, starts + n + 1, 0);
  std::fill(positions + groups.size, positions + n, 0);
}

TouchedEdges touched_edges(const GraphView& graph, const int32_t* rows, int64_t num_rows) {
  TouchedEdges edges;
  edges.offsets = Buffer<int64_t>(num_rows + 1);
  for (int64_t u = 0; u < num_rows; ++u) {
    if (u + 32 < num_rows) __builtin_prefetch(&graph.indptr[rows[u + 32]]);
    edges.offsets[u] = edges.count;
    edges.count += graph.indptr[rows[u] + 1] - graph.indptr[rows[u]];
  }
  edges.offsets[num_rows] = edges.count;
  return edges;
}

template <class A>
Groups<Term<A>> transpose(const GraphView& graph, const int32_t* rows, const TouchedEdges& edges,
                          int64_t num_rows, int64_t num_items, const Parallel& parallel) {
  const int64_t* offsets = edges.offsets.data();
  const int64_t index_size = graph.neighbors_are_int64 ? 8 : 4,
                weight_size = graph.weights_are_double ? 8 : 4;
  const auto generate = [&](int64_t part, int64_t parts, const auto& emit) {
    // Parts hold the same number of edges, to a row.
    const auto first_row = [&](int64_t p) {
      return p == parts ? num_rows
                        : std::lower_bound(offsets, offsets + num_rows, edges.count * p / parts) - offsets;
    };
    for (int64_t u = first_row(part); u < first_row(part + 1); ++u) {
      const int64_t first = graph.indptr[rows[u]], past = graph.indptr[rows[u] + 1];
      // Rows of the graph lie far apart.
      if (u + 16 < num_rows) {
        const int64_t ahead = graph.indptr[rows[u + 16]], ahead_past = graph.indptr[rows[u + 16] + 1];
        prefetch_bytes(graph.neighbors, ahead * index_size, ahead_past * index_size);
        prefetch_bytes(graph.weights, ahead * weight_size, ahead_past * weight_size);
      }
      for (int64_t e = first; e < past; ++e) {
        emit(static_cast<uint32_t>(graph.neighbor(e)), Term<A>{static_cast<uint32_t>(u), graph.weight<A>(e)});
      }
    }
  };
  return group_by_key<Term<A>>(edges.count, static_cast<uint64_t>(std::max<int64_t>(num_items - 1, 0)),
                               parallel, generate);
}

template Groups<Term<float>> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t,
                                       int64_t, const Parallel&);
template Groups<Term<double>> transpose(const GraphView&, const int32_t*, const TouchedEdges&, int64_t,
                                        int64_t, const Parallel&);

}  // namespace resemb
