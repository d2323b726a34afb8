// Forward of lookup and bag, and the gradients of R, of link weights and of sample weights.
#include "cuda/lookup.h"

#include "cuda/attention.h"
#include "cuda/bags.cuh"
#include "cuda/segments.cuh"

namespace resemb::cuda {
namespace {

// Edges of the unique ids, over C.
template <class A>
struct GraphTerms {
  Count count;
  GraphReader reader;
  const uint32_t* ids;

  __device__ __forceinline__ Range range(int64_t u) const { return reader.range(ids[u]); }
  __device__ __forceinline__ Edge<A> term(int64_t e, int64_t) const {
    const uint32_t item = reader.item(e);
    if (item >= reader.num_items) return {0, 0};
    return {item, reader.graph.weight<A>(e)};
  }
};

// Positions of the unique ids, over a lookup's gradient.
template <class A>
struct PositionTerms {
  Count count;
  const uint32_t *starts, *order;

  __device__ __forceinline__ Range range(int64_t u) const { return {starts[u], starts[u + 1]}; }
  __device__ __forceinline__ Edge<A> term(int64_t i, int64_t) const { return {order[i], A{1}}; }
};

// The same over a bag's gradient.
template <class A>
struct BagPositionTerms {
  Count count;
  const uint32_t *starts, *order;
  Bags<A> bags;

  __device__ __forceinline__ Range range(int64_t u) const { return {starts[u], starts[u + 1]}; }
  __device__ __forceinline__ Edge<A> term(int64_t i, int64_t) const {
    const uint32_t p = order[i];
    return {bags.of_position[p], bags.weight(p)};
  }
};

// Positions of the bags, over E of the unique ids with zeros behind them.
template <class A>
struct BagTerms {
  Count count;
  Bags<A> bags;
  const uint32_t* rank;
  uint32_t padding;

  __device__ __forceinline__ Range range(int64_t b) const { return bags.range(b); }
  __device__ __forceinline__ Edge<A> term(int64_t p, int64_t) const {
    return {rank[p], rank[p] == padding ? A{0} : bags.weight(p)};
  }
};

// E of the unique ids, to rows `targets` says of `out`.
void gather(const Context& c, const Lookup& x, const Groups& g, DType out_type, void* out,
            const uint32_t* targets, const uint32_t* first_targets) {
  if (x.attention.heads > 0 || x.graph_on_host)
    return gather_listed(c, x, g, out_type, out, targets, first_targets);
  const bool vectorized = allows_vectors(x.dim, x.table, {x.central, x.residual, out});
  with_type(x.table, [&]<class S>() {
    using A = Acc<S>;
    const GraphTerms<A> terms{unique_of(x, g), GraphReader(c, x), g.ids};
    const StoreRows<S> finish{
        out, out_type, x.dim, targets, first_targets, static_cast<const S*>(x.residual), g.ids};
    sum_segments_of<S>(c, vectorized, terms, x.max_edges(), x.max_degree, x.central, x.dim, finish);
  });
}

// out[p] = out[first position of its row]; zeros at padding. W are the words that a row is copied in.
template <class W>
__global__ void copy_rows(W* out, int64_t words, int64_t positions, const uint32_t* rank,
                          const uint32_t* starts, const uint32_t* order, uint32_t padding, int lane_count) {
  const int lane = static_cast<int>(threadIdx.x) % lane_count;
  for (int64_t p = first_group(lane_count); p < positions; p += all_groups(lane_count)) {
    const uint32_t row = rank[p];
    const int64_t from = row == padding ? p : order[starts[row]];
    if (row != padding && from == p) continue;
    for (int64_t w = lane; w < words; w += lane_count) {
      out[p * words + w] = row == padding ? W{} : out[from * words + w];
    }
  }
}

template <class W>
void copy_in_words(const Context& c, const Lookup& x, const Groups& g, void* out, int64_t row_bytes) {
  const int64_t words = row_bytes / static_cast<int64_t>(sizeof(W));
  const int lanes = lanes_for(words, 1);
  launch(c, blocks_for(c, x.positions, kThreads / lanes), &copy_rows<W>, static_cast<W*>(out), words,
         x.positions, static_cast<const uint32_t*>(g.rank), static_cast<const uint32_t*>(g.starts), g.order,
         static_cast<uint32_t>(x.max_unique()), lanes);
}

template <class A>
__global__ void clear_row(A* row, int64_t dim) {
  for (int64_t d = first_thread(); d < dim; d += all_threads()) row[d] = 0;
}

// E of the unique ids, acc, and zeros in row max_unique().
template <class A>
A* unique_embeddings(const Context& c, const Lookup& x, const Groups& g) {
  A* rows = c.memory->take<A>((x.max_unique() + 1) * x.dim);
  gather(c, x, g, x.acc(), rows, nullptr, nullptr);
  launch(c, 1, &clear_row<A>, rows + x.max_unique() * x.dim, x.dim);
  return rows;
}

template <class A>
void pool(const Context& c, const Lookup& x, const Groups& g, void* out) {
  const A* rows = unique_embeddings<A>(c, x, g);
  const uint32_t padding = static_cast<uint32_t>(x.max_unique());
  const BagTerms<A> terms{{nullptr, x.num_bags}, make_bags<A>(c, x, g), g.rank, padding};
  const StoreRows<A> finish{out, x.out_type, x.dim, nullptr, nullptr, nullptr, nullptr};
  const bool vectorized = allows_vectors(x.dim, x.acc(), {rows, out});
  sum_segments_of<A>(c, vectorized, terms, x.positions, x.positions, rows, x.dim, finish);
}

// dot of a row of `left` and one of `right`, for every pair.
template <class S, int N, class Pairs>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    dot_rows(Pairs pairs, const S* left, const Acc<S>* right, int64_t dim, int lane_count) {
  using A = Acc<S>;
  const Lanes lanes(lane_count);
  const int64_t n = pairs.count.get();
  // A warp's groups go round as often as each other, so that its lanes meet in the sum.
  for (int64_t base = first_thread() / 32 * (32 / lane_count); base < n; base += all_groups(lane_count)) {
    const int64_t i = base + static_cast<int64_t>(threadIdx.x) % 32 / lane_count;
    A sum = 0;
    uint32_t l = 0, r = 0;
    const bool some = i < n && pairs.rows_of(i, l, r);
    for (int64_t col = lanes.lane * N; some && col < dim; col += lane_count * N) {
      A a[N], b[N];
      load_upcast<N>(left + l * dim + col, a);
      load<N>(right + r * dim + col, b);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += a[j] * b[j];
    }
    sum = lanes.sum(sum);
    if (i < n && lanes.lane == 0) pairs.put(i, sum);
  }
}

template <class S, class Pairs>
void dot(const Context& c, const Pairs& pairs, const void* left, const void* right, int64_t dim, DType type) {
  if (pairs.count.limit == 0) return;
  const auto run = [&]<int N>(std::integral_constant<int, N>) {
    const int lanes = lanes_for(dim, N);
    launch(c, blocks_for(c, pairs.count.limit, kThreads / lanes), &dot_rows<S, N, Pairs>, pairs,
           static_cast<const S*>(left), static_cast<const Acc<S>*>(right), dim, lanes);
  };
  if (allows_vectors(dim, type, {left, right})) {
    run(std::integral_constant<int, kVectorWidth<S>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

template <class A>
struct EdgePairs {
  Count count;
  GraphView graph;
  const int64_t* first;
  const uint32_t *starts, *row, *column;
  uint32_t num_items;
  bool dense;
  int64_t* numbers;
  void* out;

  __device__ __forceinline__ int64_t edge(int64_t t) const { return first[row[t]] + t - starts[row[t]]; }
  __device__ __forceinline__ bool rows_of(int64_t t, uint32_t& l, uint32_t& r) const {
    l = column[t];
    r = row[t];
    return l < num_items;
  }
  __device__ __forceinline__ void put(int64_t t, A value) const {
    const int64_t e = edge(t), at = dense ? e : t;
    if (!dense) numbers[t] = e;
    if (graph.weights_type == DType::f64) {
      static_cast<double*>(out)[at] = value;
    } else {
      static_cast<float*>(out)[at] = static_cast<float>(value);
    }
  }
};

template <class A>
struct SamplePairs {
  Count count;
  const uint32_t *of_position, *rank;
  uint32_t padding;
  A* out;

  __device__ __forceinline__ bool rows_of(int64_t p, uint32_t& l, uint32_t& r) const {
    l = of_position[p];
    r = rank[p];
    return r != padding;
  }
  __device__ __forceinline__ void put(int64_t p, A value) const { out[p] = value; }
};

template <class T>
__global__ void downcast_rows(const Acc<T>* g, Count count, int64_t dim, const uint32_t* targets, T* out) {
  const int64_t n = count.get() * dim;
  for (int64_t i = first_thread(); i < n; i += all_threads()) {
    const int64_t row = i / dim;
    out[targets != nullptr ? targets[row] * dim + i % dim : i] = downcast<T>(g[i]);
  }
}

}  // namespace

void lookup_forward(const Context& c, const Lookup& x, const Groups& g, void* out) {
  if (x.dim == 0) return;
  if (x.is_bag()) {
    if (x.acc() == DType::f64) {
      pool<double>(c, x, g, out);
    } else {
      pool<float>(c, x, g, out);
    }
    return;
  }
  if (x.positions == 0) return;
  // Each unique id's row goes to the first of its positions, and from there to the others: no scratch rows.
  gather(c, x, g, x.out_type, out, g.order, g.starts);
  const int64_t row_bytes = x.dim * static_cast<int64_t>(item_size(x.out_type));
  if (row_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
    copy_in_words<Pack<uint32_t, 4>>(c, x, g, out, row_bytes);
  } else if (row_bytes % 4 == 0 && reinterpret_cast<uintptr_t>(out) % 4 == 0) {
    copy_in_words<uint32_t>(c, x, g, out, row_bytes);
  } else {
    copy_in_words<uint16_t>(c, x, g, out, row_bytes);
  }
}

void unique_gradient(const Context& c, const Lookup& x, const Groups& g, const void* grad, void* out) {
  const bool vectorized = allows_vectors(x.dim, x.out_type, {grad, out});
  with_type(x.out_type, [&]<class S>() {
    using A = Acc<S>;
    const StoreRows<S> finish{out, x.acc(), x.dim, nullptr, nullptr, nullptr, nullptr};
    const auto sum = [&](const auto& terms) {
      sum_segments_of<S>(c, vectorized, terms, x.positions, x.positions, grad, x.dim, finish);
    };
    if (x.is_bag()) {
      sum(BagPositionTerms<A>{unique_of(x, g), g.starts, g.order, make_bags<A>(c, x, g)});
    } else {
      sum(PositionTerms<A>{unique_of(x, g), g.starts, g.order});
    }
  });
}

void store_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* g, bool in_line,
                    void* out) {
  if (x.max_unique() == 0 || x.dim == 0) return;
  with_type(x.table, [&]<class T>() {
    launch(c, blocks_for(c, x.max_unique() * x.dim, kThreads * 4), &downcast_rows<T>,
           static_cast<const Acc<T>*>(g), unique_of(x, groups), x.dim,
           static_cast<const uint32_t*>(in_line ? nullptr : groups.ids), static_cast<T*>(out));
  });
}

void link_weight_gradient(const Context& c, const Lookup& x, const TouchedEdges& edges, const void* g,
                          bool dense, int64_t* numbers, void* out) {
  with_type(x.table, [&]<class S>() {
    const EdgePairs<Acc<S>> pairs{
        {edges.count, x.max_edges()},       x.graph, edges.first, edges.starts, edges.row, edges.column,
        static_cast<uint32_t>(x.num_items), dense,   numbers,     out};
    dot<S>(c, pairs, x.central, g, x.dim, x.table);
  });
}

void sample_weight_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* grad,
                            void* out) {
  with_type(x.out_type, [&]<class S>() {
    using A = Acc<S>;
    const A* rows = unique_embeddings<A>(c, x, groups);
    const SamplePairs<A> pairs{{nullptr, x.positions},
                               make_bags<A>(c, x, groups).of_position,
                               groups.rank,
                               static_cast<uint32_t>(x.max_unique()),
                               static_cast<A*>(out)};
    dot<S>(c, pairs, grad, rows, x.dim, x.out_type);
  });
}

}  // namespace resemb::cuda
