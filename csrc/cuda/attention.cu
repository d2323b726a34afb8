// Scores, shares and gradients of the attention link; sums over listed edges.
#include "cuda/attention.h"

#include "cuda/attention_terms.cuh"
#include "cuda/softmax.cuh"

namespace resemb::cuda {
namespace {

// For edge t and head h: C[column[t]] times a, and times G[row[t]] where G is given; a group for each.
template <class S, int N>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    multiply_edges(Count edges, const uint32_t* column, const uint32_t* row, uint32_t num_items,
                   const S* central, const Acc<S>* a, const Acc<S>* g, int64_t heads, int64_t width,
                   int lane_count, Acc<S>* with_a, Acc<S>* with_g) {
  using A = Acc<S>;
  const Lanes lanes(lane_count);
  const int64_t n = edges.get() * heads;
  // A warp's groups go round as often as each other, so that its lanes meet in the sums.
  for (int64_t base = first_thread() / 32 * (32 / lane_count); base < n; base += all_groups(lane_count)) {
    const int64_t i = base + static_cast<int64_t>(threadIdx.x) % 32 / lane_count;
    const int64_t t = heads == 1 ? i : i / heads, h = i - t * heads;
    const uint32_t item = i < n ? column[t] : num_items;
    A sum = 0, product = 0;
    if (item < num_items) {
      const S* c = central + (item * heads + h) * width;
      const A* upstream = g != nullptr ? g + (row[t] * heads + h) * width : nullptr;
      for (int64_t col = lanes.lane * N; col < width; col += lane_count * N) {
        A x[N], y[N];
        load_upcast<N>(c + col, x);
        load<N>(a + h * width + col, y);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += x[j] * y[j];
        if (g == nullptr) continue;
        load<N>(upstream + col, y);
#pragma unroll
        for (int j = 0; j < N; ++j) product += x[j] * y[j];
      }
    }
    sum = lanes.sum(sum);
    if (g != nullptr) product = lanes.sum(product);
    if (i < n && lanes.lane == 0) {
      with_a[i] = sum;
      if (g != nullptr) with_g[i] = product;
    }
  }
}

// own[v] = the unique id that is column v's item, or `none`.
__global__ void find_own(Count columns, const uint32_t* items, Count unique, const uint32_t* ids,
                         uint32_t none, uint32_t* own) {
  const int64_t n = columns.get(), count = unique.get();
  for (int64_t v = first_thread(); v < n; v += all_threads()) {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (ids[middle] < items[v]) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    own[v] = low < count && ids[low] == items[v] ? static_cast<uint32_t>(low) : none;
  }
}

uint32_t width_of(const Lookup& x) {
  return static_cast<uint32_t>(x.attention.heads > 0 ? x.dim / x.attention.heads : x.dim);
}

// Whether a lane may take as many columns as 16 bytes hold: rows allow it, and they are of one head.
bool allows_head_vectors(const Lookup& x, DType type, std::initializer_list<const void*> bases) {
  return allows_vectors(width_of(x), type, bases);
}

// with_a, with_g: [count, heads]. See multiply_edges.
template <class S>
void multiply(const Context& c, const Lookup& x, Count count, const uint32_t* column, const uint32_t* row,
              const void* a, const void* g, Acc<S>* with_a, Acc<S>* with_g) {
  using A = Acc<S>;
  if (count.limit == 0) return;
  const int64_t heads = x.attention.heads, width = x.dim / heads;
  const auto run = [&]<int N>(std::integral_constant<int, N>) {
    const int lanes = lanes_for(width, N);
    launch(c, blocks_for(c, count.limit * heads, kThreads / lanes), &multiply_edges<S, N>, count, column, row,
           static_cast<uint32_t>(x.num_items), static_cast<const S*>(x.central), static_cast<const A*>(a),
           static_cast<const A*>(g), heads, width, lanes, with_a, with_g);
  };
  if (allows_head_vectors(x, x.table, {x.central, a, g})) {
    run(std::integral_constant<int, kVectorWidth<S>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

// Shares, and with G what backward keeps of every edge, row and head.
template <class S>
Softmax<Acc<S>> make_shares(const Context& c, const Lookup& x, const Groups& groups,
                            const TouchedEdges& edges, const void* g) {
  using A = Acc<S>;
  const int64_t heads = x.attention.heads, most = x.max_edges(), max_unique = x.max_unique();
  const Count unique = unique_of(x, groups), count{edges.count, most};
  A* own = c.memory->take<A>(max_unique * heads);
  Softmax<A> s{};
  s.unique = unique;
  s.ids = groups.ids;
  s.starts = edges.starts;
  s.column = edges.column;
  s.row_first = edges.first;
  s.logs = static_cast<const A*>(touched_weights(c, x, edges));
  s.num_items = x.num_items;
  s.link = x.attention;
  s.fault = c.fault;
  s.own = own;
  s.argument = c.memory->take<A>(most * heads);
  s.alpha = c.memory->take<A>(most * heads);
  if (g != nullptr) {
    s.dots = c.memory->take<A>(most * heads);
    s.row_scores = c.memory->take<A>(max_unique * heads);
    s.prior = c.memory->take<A>(max_unique * heads);
  }
  if (max_unique == 0) return s;
  multiply<S>(c, x, unique, groups.ids, nullptr, x.attention.a_src, nullptr, own, nullptr);
  multiply<S>(c, x, count, edges.column, edges.row, x.attention.a_dst, g, s.argument, s.dots);
  s.most_long = x.max_degree > kChunk ? most / (kChunk + 1) : 0;
  s.long_count = c.memory->take<uint32_t>(1);
  s.long_ids = c.memory->take<uint32_t>(s.most_long);
  launch(c, 1, &clear_count, s.long_count);
  launch(c, blocks_for(c, max_unique, kWarps), &softmax_ids<A>, s);
  if (s.most_long > 0) launch(c, blocks_for(c, s.most_long, 1), &softmax_long_ids<A>, s);
  return s;
}

// The sum of rows `names` of C weighted by scores, [D]; every head its own.
template <class S>
void sum_weighted(const Context& c, const Lookup& x, Count each, const uint32_t* names, const Acc<S>* scores,
                  void* out) {
  using A = Acc<S>;
  const OneSum<A> terms{{nullptr, 1}, each, names, scores, x.attention.heads, width_of(x)};
  const StoreRows<S> finish{out, x.acc(), x.dim, nullptr, nullptr, nullptr, nullptr};
  sum_segments_of<S>(c, allows_head_vectors(x, x.table, {x.central, out}), terms, each.limit, each.limit,
                     x.central, x.dim, finish);
}

template <class S>
AttentionGradient differentiate(const Context& c, const Lookup& x, const Groups& groups, const void* g,
                                void* a_src, void* a_dst, void* b) {
  using A = Acc<S>;
  const int64_t heads = x.attention.heads;
  const Count unique = unique_of(x, groups);
  const TouchedEdges edges = touched_edges(c, x, groups);
  const Softmax<A> s = make_shares<S>(c, x, groups, edges, g);
  const Columns columns = transpose(c, x, edges, /*with_weights=*/false);
  const Count touched{columns.count, x.max_columns()};
  A* column_scores = c.memory->take<A>(touched.limit * heads);
  sum_segments<A, 1>(c, PlainTerms<A>{touched, columns.starts, columns.order}, x.max_edges(), x.max_edges(),
                     s.dots, heads,
                     StoreRows<A>{column_scores, x.acc(), heads, nullptr, nullptr, nullptr, nullptr});
  uint32_t* own = c.memory->take<uint32_t>(touched.limit);
  if (touched.limit > 0) {
    launch(c, blocks_for(c, touched.limit, kThreads), &find_own, touched,
           static_cast<const uint32_t*>(columns.items), unique, static_cast<const uint32_t*>(groups.ids),
           static_cast<uint32_t>(x.max_unique()), own);
  }
  sum_weighted<S>(c, x, unique, groups.ids, s.row_scores, a_src);
  sum_weighted<S>(c, x, touched, columns.items, column_scores, a_dst);
  sum_segments<A, 1>(c, OneSum<A>{{nullptr, 1}, unique, nullptr, nullptr, 1, 1}, unique.limit, unique.limit,
                     s.prior, heads, StoreRows<A>{b, x.acc(), heads, nullptr, nullptr, nullptr, nullptr});
  return {columns, edges.row, s.alpha, s.row_scores, column_scores, own};
}

}  // namespace

const void* attend(const Context& c, const Lookup& x, const Groups& groups, const TouchedEdges& edges) {
  const void* alpha = nullptr;
  with_type(x.table, [&]<class S>() { alpha = make_shares<S>(c, x, groups, edges, nullptr).alpha; });
  return alpha;
}

void gather_listed(const Context& c, const Lookup& x, const Groups& g, DType out_type, void* out,
                   const uint32_t* targets, const uint32_t* first_targets) {
  const TouchedEdges edges = touched_edges(c, x, g);
  const bool attends = x.attention.heads > 0;
  const void* weights = attends ? attend(c, x, g, edges) : touched_weights(c, x, edges);
  const bool vectorized = allows_head_vectors(x, x.table, {x.central, x.residual, out});
  with_type(x.table, [&]<class S>() {
    using A = Acc<S>;
    const ListedTerms<A> terms{unique_of(x, g),
                               edges.starts,
                               edges.column,
                               static_cast<uint32_t>(x.num_items),
                               static_cast<const A*>(weights),
                               attends ? x.attention.heads : 1,
                               width_of(x)};
    const StoreRows<S> finish{
        out, out_type, x.dim, targets, first_targets, static_cast<const S*>(x.residual), g.ids};
    sum_segments_of<S>(c, vectorized, terms, x.max_edges(), x.max_degree, x.central, x.dim, finish);
  });
}

AttentionGradient attention_backward(const Context& c, const Lookup& x, const Groups& groups, const void* g,
                                     void* a_src, void* a_dst, void* b) {
  AttentionGradient gradient{};
  with_type(x.table, [&]<class S>() { gradient = differentiate<S>(c, x, groups, g, a_src, a_dst, b); });
  return gradient;
}

void attention_central_gradient(const Context& c, const Lookup& x, const AttentionGradient& gradient,
                                const void* g, bool in_line, void* out) {
  const Columns& columns = gradient.columns;
  const Attention& link = x.attention;
  const auto sum = [&]<class A>(A) {
    const AttendedTerms<A> terms{
        {columns.count, x.max_columns()},      columns.starts, columns.order, gradient.edge_rows,
        static_cast<const A*>(gradient.alpha), link.heads,     width_of(x)};
    const AttendedColumns<A> finish{
        {out, x.table, x.dim, in_line ? nullptr : columns.items, nullptr, nullptr, nullptr},
        static_cast<const A*>(link.a_src),
        static_cast<const A*>(link.a_dst),
        static_cast<const A*>(gradient.row_scores),
        static_cast<const A*>(gradient.column_scores),
        gradient.own,
        static_cast<uint32_t>(x.max_unique()),
        link.heads,
        width_of(x)};
    const bool vectorized = allows_head_vectors(x, x.acc(), {g, out, link.a_src, link.a_dst});
    sum_segments_of<A>(c, vectorized, terms, x.max_edges(), x.max_edges(), g, x.dim, finish);
  };
  if (x.acc() == DType::f64) {
    sum(double{});
  } else {
    sum(float{});
  }
}

}  // namespace resemb::cuda
