// Dedupe of ids, and transpose of the touched edges.
#include "cuda/plan.h"

#include "cuda/edges.cuh"
#include "cuda/scan.cuh"
#include "cuda/sort.h"

namespace resemb::cuda {
namespace {

int bits_for(int64_t largest) {
  int bits = 0;
  while (largest >> bits != 0) ++bits;
  return bits;
}

// Sort keys of ids: the id, or H for padding and for what is no id.
template <class Id>
__global__ void make_keys(const Id* ids, int64_t n, int64_t num_items, int64_t padding, uint32_t* keys,
                          Fault* fault) {
  for (int64_t p = first_thread(); p < n; p += all_threads()) {
    const int64_t id = ids[p];
    const bool good = static_cast<uint64_t>(id) < static_cast<uint64_t>(num_items);
    if (!good) report(fault, Wrong::id, id, p, num_items);
    keys[p] = static_cast<uint32_t>(good && id != padding ? id : num_items);
  }
}

// Numbers runs of equal keys below `none` in ascending keys, which end with those of `none`.
struct Runs {
  const uint32_t* keys;
  Count count;
  uint32_t none;
  uint32_t* names;   // [runs]
  uint32_t* starts;  // [runs + 1]

  __device__ uint32_t in(int64_t i) const {
    return keys[i] < none && (i == 0 || keys[i - 1] != keys[i]) ? 1 : 0;
  }
  __device__ void out(int64_t i, uint32_t before, uint32_t starts_here) const {
    if (starts_here) {
      names[before] = keys[i];
      starts[before] = static_cast<uint32_t>(i);
    }
    if (keys[i] >= none) {
      if (i == 0) starts[0] = 0;
    } else if (i + 1 == count.get() || keys[i + 1] >= none) {
      starts[before + starts_here] = static_cast<uint32_t>(i + 1);
    }
  }
};

struct RunsOfPositions {
  Runs runs;
  const uint32_t* order;
  uint32_t* rank;
  uint32_t rank_of_padding;

  __device__ uint32_t in(int64_t i) const { return runs.in(i); }
  __device__ void out(int64_t i, uint32_t before, uint32_t starts_here) const {
    runs.out(i, before, starts_here);
    rank[order[i]] = runs.keys[i] < runs.none ? before + starts_here - 1 : rank_of_padding;
  }
};

// Rows of the graph, read once: in pinned host memory that is what they cost.
__global__ void read_adjacency(GraphReader reader, const uint32_t* ids, Count count, int64_t* first,
                               uint32_t* lengths) {
  const int64_t n = count.get();
  for (int64_t u = first_thread(); u < n; u += all_threads()) {
    const Range range = reader.range(ids[u]);
    first[u] = range.first;
    lengths[u] = static_cast<uint32_t>(range.past - range.first);
  }
}

// Lengths become starts, where they lie: none beyond the lists, whose length ids that share edges, or have
// more of them than the graph's largest degree was, would leave.
struct EdgeStarts {
  uint32_t* starts;
  Count count;
  uint32_t most;

  __device__ uint32_t in(int64_t u) const { return starts[u]; }
  __device__ void out(int64_t u, uint32_t before, uint32_t length) const {
    starts[u] = before < most ? before : most;
    if (u + 1 == count.get()) starts[u + 1] = before + length < most ? before + length : most;
  }
};

// The last u in [low, high] with starts[u] <= t.
__device__ __forceinline__ int64_t id_of_edge(const uint32_t* starts, int64_t low, int64_t high, int64_t t) {
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (starts[middle] <= t) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Tiles of edges, whatever ids they belong to: a hub's are spread over as many blocks as others'.
__global__ void list_edges(GraphReader reader, const int64_t* row_first, Count unique, const uint32_t* starts,
                           const uint32_t* total, int64_t limit, uint32_t* row, uint32_t* column) {
  __shared__ int64_t ends[2];
  constexpr int64_t kTile = kThreads * 4;
  const int64_t num_unique = unique.get(), n = Count{total, limit}.get();
  if (first_thread() == 0 && *total > limit) report(reader.fault, Wrong::stale_graph, *total, 0, limit);
  for (int64_t first = blockIdx.x * kTile; first < n; first += gridDim.x * kTile) {
    const int64_t past = first + kTile < n ? first + kTile : n;
    if (threadIdx.x < 2) {
      ends[threadIdx.x] = id_of_edge(starts, 0, num_unique - 1, threadIdx.x == 0 ? first : past - 1);
    }
    __syncthreads();
    for (int64_t t = first + threadIdx.x; t < past; t += kThreads) {
      const int64_t u = id_of_edge(starts, ends[0], ends[1], t);
      const int64_t e = row_first[u] + t - starts[u];
      row[t] = static_cast<uint32_t>(u);
      column[t] = reader.item(e);
    }
    __syncthreads();  // ends is written again
  }
}

template <class A>
__global__ void list_weights(GraphView graph, const int64_t* row_first, const uint32_t* starts,
                             const uint32_t* row, Count edges, Edge<A>* out) {
  const int64_t n = edges.get();
  for (int64_t t = first_thread(); t < n; t += all_threads()) {
    const uint32_t u = row[t];
    out[t] = {u, graph.weight<A>(row_first[u] + t - starts[u])};
  }
}

template <class A>
__global__ void list_weights_alone(GraphView graph, const int64_t* row_first, const uint32_t* starts,
                                   const uint32_t* row, Count edges, A* out) {
  const int64_t n = edges.get();
  for (int64_t t = first_thread(); t < n; t += all_threads()) {
    const uint32_t u = row[t];
    out[t] = graph.weight<A>(row_first[u] + t - starts[u]);
  }
}

__global__ void copy_numbers(const uint32_t* from, Count count, uint32_t* to) {
  const int64_t n = count.get();
  for (int64_t i = first_thread(); i < n; i += all_threads()) to[i] = from[i];
}

__global__ void to_int64_kernel(const uint32_t* numbers, int64_t n, int64_t* out) {
  for (int64_t i = first_thread(); i < n; i += all_threads()) out[i] = numbers[i];
}

__global__ void max_degree_kernel(const int64_t* indptr, int64_t num_items, uint32_t* out) {
  uint32_t longest = 0;
  for (int64_t i = first_thread(); i < num_items; i += all_threads()) {
    const int64_t length = indptr[i + 1] - indptr[i];
    if (length > longest) longest = static_cast<uint32_t>(length < 0xffffffff ? length : 0xffffffff);
  }
  atomicMax(out, longest);
}

__global__ void set_number(uint32_t* place, uint32_t value) {
  if (first_thread() == 0) *place = value;
}

__global__ void check_kernel(const int64_t* rows, int64_t n, int64_t num_items, Fault* fault, uint32_t* bad) {
  for (int64_t i = first_thread(); i < n; i += all_threads()) {
    const bool good = rows[i] >= 0 && rows[i] < num_items && (i == 0 || rows[i - 1] < rows[i]);
    if (good) continue;
    if (fault != nullptr) report(fault, Wrong::rows, rows[i], i, num_items);
    if (bad != nullptr) *bad = 1;
  }
}

constexpr int64_t kEach = kThreads * 4;  // items a block where they cost little

}  // namespace

void make_plan(const Context& c, const Lookup& x, const Ids& ids, int64_t padding_idx, const Plan& plan) {
  const int64_t n = x.positions;
  if (n == 0) return launch(c, 1, &set_number, plan.num_unique, 0u);
  const int bits = bits_for(x.num_items);
  const SortBuffers buffers{plan.sorted, plan.order, c.memory->take<uint32_t>(n),
                            c.memory->take<uint32_t>(n)};
  uint32_t* keys = buffers.unsorted(bits);
  const int blocks = blocks_for(c, n, kEach);
  if (ids.are_int64) {
    launch(c, blocks, &make_keys<int64_t>, static_cast<const int64_t*>(ids.data), n, x.num_items, padding_idx,
           keys, c.fault);
  } else {
    launch(c, blocks, &make_keys<int32_t>, static_cast<const int32_t*>(ids.data), n, x.num_items, padding_idx,
           keys, c.fault);
  }
  sort_keys(c, buffers, Count{nullptr, n}, bits);
}

Groups make_groups(const Context& c, const Lookup& x, const Plan& plan) {
  const int64_t n = x.positions, most = x.max_unique();
  const Groups g{plan.num_unique, c.memory->take<uint32_t>(most + 1), c.memory->take<uint32_t>(most + 1),
                 c.memory->take<uint32_t>(n + 1), plan.order};
  if (n == 0) return g;
  const Count all{nullptr, n};
  const Runs runs{plan.sorted, all, static_cast<uint32_t>(x.num_items), g.ids, g.starts};
  const RunsOfPositions f{runs, plan.order, g.rank, static_cast<uint32_t>(most)};
  exclusive_scan(c, f, all, plan.num_unique);
  return g;
}

TouchedEdges touched_edges(const Context& c, const Lookup& x, const Groups& groups) {
  const int64_t most = x.max_edges();
  const TouchedEdges edges{c.memory->take<int64_t>(x.max_unique()),
                           c.memory->take<uint32_t>(x.max_unique() + 1), c.memory->take<uint32_t>(1),
                           c.memory->take<uint32_t>(most), c.memory->take<uint32_t>(most)};
  const Count unique{groups.num_unique, x.max_unique()};
  const GraphReader reader(c, x);
  launch(c, blocks_for(c, x.max_unique(), kThreads), &read_adjacency, reader,
         static_cast<const uint32_t*>(groups.ids), unique, edges.first, edges.starts);
  exclusive_scan(c, EdgeStarts{edges.starts, unique, static_cast<uint32_t>(most)}, unique, edges.count);
  if (most > 0) {
    launch(c, blocks_for(c, most, kEach), &list_edges, reader, static_cast<const int64_t*>(edges.first),
           unique, static_cast<const uint32_t*>(edges.starts), static_cast<const uint32_t*>(edges.count),
           most, edges.row, edges.column);
  }
  return edges;
}

Columns transpose(const Context& c, const Lookup& x, const TouchedEdges& edges, bool with_weights) {
  const int64_t most = x.max_edges();
  Columns columns{c.memory->take<uint32_t>(1), c.memory->take<uint32_t>(x.max_columns() + 1),
                  c.memory->take<uint32_t>(x.max_columns() + 1), c.memory->take<uint32_t>(most), nullptr};
  if (most == 0) {
    launch(c, 1, &set_number, columns.count, 0u);
    return columns;
  }
  const int bits = bits_for(x.num_items);
  const SortBuffers buffers{c.memory->take<uint32_t>(most), columns.order, c.memory->take<uint32_t>(most),
                            c.memory->take<uint32_t>(most)};
  const Count count{edges.count, most};
  const auto list = [&]<class A>(A) {
    Edge<A>* out = c.memory->take<Edge<A>>(most);
    launch(c, blocks_for(c, most, kEach), &list_weights<A>, x.graph, static_cast<const int64_t*>(edges.first),
           static_cast<const uint32_t*>(edges.starts), static_cast<const uint32_t*>(edges.row), count, out);
    columns.edges = out;
  };
  if (with_weights && x.acc() == DType::f64) {
    list(double{});
  } else if (with_weights) {
    list(float{});
  }
  launch(c, blocks_for(c, most, kEach), &copy_numbers, static_cast<const uint32_t*>(edges.column), count,
         buffers.unsorted(bits));
  sort_keys(c, buffers, count, bits);
  exclusive_scan(c,
                 Runs{buffers.keys, count, static_cast<uint32_t>(x.num_items), columns.items, columns.starts},
                 count, columns.count);
  return columns;
}

const void* touched_weights(const Context& c, const Lookup& x, const TouchedEdges& edges) {
  const int64_t most = x.max_edges();
  const auto list = [&]<class A>(A) -> const void* {
    A* out = c.memory->take<A>(most);
    if (most > 0) {
      launch(c, blocks_for(c, most, kEach), &list_weights_alone<A>, x.graph,
             static_cast<const int64_t*>(edges.first), static_cast<const uint32_t*>(edges.starts),
             static_cast<const uint32_t*>(edges.row), Count{edges.count, most}, out);
    }
    return out;
  };
  return x.acc() == DType::f64 ? list(double{}) : list(float{});
}

void to_int64(const Context& c, const uint32_t* numbers, int64_t n, int64_t* out) {
  if (n > 0) launch(c, blocks_for(c, n, kEach), &to_int64_kernel, numbers, n, out);
}

void max_degree(const Context& c, const int64_t* indptr, int64_t num_items, uint32_t* out) {
  launch(c, 1, &set_number, out, 0u);
  launch(c, blocks_for(c, num_items, kEach), &max_degree_kernel, indptr, num_items, out);
}

void check_rows(const Context& c, const TableRows& rows, bool to_fault, uint32_t* bad) {
  if (bad != nullptr) launch(c, 1, &set_number, bad, 0u);
  if (rows.count > 0) {
    launch(c, blocks_for(c, rows.count, kEach), &check_kernel, rows.rows, rows.count, rows.num_items,
           to_fault ? c.fault : nullptr, bad);
  }
}

}  // namespace resemb::cuda
