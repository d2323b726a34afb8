// What the sums of segments.cuh add up under the attention link.
#pragma once

#include "cuda/segments.cuh"

namespace resemb::cuda {

// The number of column `col` among `heads` numbers at `row`.
__device__ __forceinline__ int64_t of_head(int64_t row, int64_t col, int64_t heads, uint32_t width) {
  return heads == 1 ? row : row * heads + static_cast<uint32_t>(col) / width;
}

// Listed edges of the unique ids, over C.
template <class A>
struct ListedTerms {
  Count count;
  const uint32_t *starts, *column;
  uint32_t num_items;
  const A* weights;  // [T, heads]
  int64_t heads;
  uint32_t width;

  __device__ __forceinline__ Range range(int64_t u) const { return {starts[u], starts[u + 1]}; }
  __device__ __forceinline__ Edge<A> term(int64_t t, int64_t col) const {
    const uint32_t item = column[t];
    if (item >= num_items) return {0, 0};
    return {item, weights[of_head(t, col, heads, width)]};
  }
};

// Edges of the touched neighbours, over G.
template <class A>
struct AttendedTerms {
  Count count;
  const uint32_t *starts, *order, *row;
  const A* alpha;
  int64_t heads;
  uint32_t width;

  __device__ __forceinline__ Range range(int64_t v) const { return {starts[v], starts[v + 1]}; }
  __device__ __forceinline__ Edge<A> term(int64_t i, int64_t col) const {
    const uint32_t t = order[i];
    return {row[t], alpha[of_head(t, col, heads, width)]};
  }
};

// The same edges over [T, heads] numbers, unweighted.
template <class A>
struct PlainTerms {
  Count count;
  const uint32_t *starts, *order;

  __device__ __forceinline__ Range range(int64_t v) const { return {starts[v], starts[v + 1]}; }
  __device__ __forceinline__ Edge<A> term(int64_t i, int64_t) const { return {order[i], A{1}}; }
};

// One sum over all of `each` rows; those of names, weighted by scores, where given.
template <class A>
struct OneSum {
  Count count;
  Count each;
  const uint32_t* names;
  const A* scores;  // [each, heads]
  int64_t heads;
  uint32_t width;

  __device__ __forceinline__ Range range(int64_t) const { return {0, each.get()}; }
  __device__ __forceinline__ Edge<A> term(int64_t i, int64_t col) const {
    if (names == nullptr) return {static_cast<uint32_t>(i), A{1}};
    return {names[i], scores[of_head(i, col, heads, width)]};
  }
};

// A finish that adds what a column's own scores give to its gradient.
template <class A>
struct AttendedColumns {
  StoreRows<A> rows;
  const A *a_src, *a_dst, *row_scores, *column_scores;
  const uint32_t* own;
  uint32_t untouched;
  int64_t heads;
  uint32_t width;

  struct Row {
    typename StoreRows<A>::Row at;
    int64_t column;
    uint32_t own;
  };
  using Common = typename StoreRows<A>::Common;
  __device__ __forceinline__ Common common() const { return rows.common(); }
  __device__ __forceinline__ Row begin(int64_t v, const Lanes& lanes, const Common& all) const {
    return {rows.begin(v, lanes, all), v, own[v]};
  }
  template <int N>
  __device__ __forceinline__ void store(const Row& row, int64_t col, A (&sum)[N]) const {
    const A of_column = column_scores[of_head(row.column, col, heads, width)];
    A direction[N];
    load<N>(a_dst + col, direction);
    add_scaled(sum, of_column, direction);
    if (row.own != untouched) {
      load<N>(a_src + col, direction);
      add_scaled(sum, row_scores[of_head(row.own, col, heads, width)], direction);
    }
    rows.store(row.at, col, sum);
  }
};

}  // namespace resemb::cuda
