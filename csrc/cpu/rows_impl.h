// The row kernels, for the instruction set of the including file. That file defines RESEMB_ISA (the
// name of its namespace) and includes the standard headers before it switches the target.

namespace resemb {
namespace RESEMB_ISA {

#include "cpu/vec.h"

// Terms ahead of the one being summed whose row is prefetched.
constexpr int64_t kAhead = 16;
constexpr int kMaxBlock = 8;  // vectors of accumulators kept in registers

// Calls body.template operator()<N>(col, last) for consecutive column blocks of N vectors. The last
// vector of a block starts at col + last: moved back so that it ends with the row, where D is no
// multiple of the lanes. The overlap is computed twice, with the same result. Needs dim >= lanes.
template <class A, class F>
RESEMB_INLINE void for_blocks(int64_t dim, const F& body) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t col = 0;
  for (; dim - col >= kMaxBlock * lanes; col += kMaxBlock * lanes) {
    body.template operator()<kMaxBlock>(col, (kMaxBlock - 1) * lanes);
  }
  const int64_t rest = dim - col;
  const int64_t last = rest - lanes;
  switch ((rest + lanes - 1) / lanes) {
    case 0:
      break;
    case 1:
      body.template operator()<1>(col, last);
      break;
    case 2:
      body.template operator()<2>(col, last);
      break;
    case 3:
      body.template operator()<3>(col, last);
      break;
    case 4:
      body.template operator()<4>(col, last);
      break;
    case 5:
      body.template operator()<5>(col, last);
      break;
    case 6:
      body.template operator()<6>(col, last);
      break;
    case 7:
      body.template operator()<7>(col, last);
      break;
    default:
      body.template operator()<8>(col, last);
      break;
  }
}

// N vectors of accumulators over one column block.
template <class A, int N>
struct Block {
  Vec<A> v[N];

  RESEMB_INLINE Block() {
    for (int i = 0; i < N; ++i) v[i] = Vec<A>{};
  }
  static RESEMB_INLINE int64_t at(int i, int64_t last) { return i == N - 1 ? last : i * kLanes<A>; }
  template <class T>
  RESEMB_INLINE void add_scaled(A w, const T* row, int64_t last) {
    for (int i = 0; i < N; ++i) v[i] += w * load(row + at(i, last));
  }
  template <class T>
  RESEMB_INLINE void add_row(const T* row, int64_t last) {
    for (int i = 0; i < N; ++i) v[i] += load(row + at(i, last));
  }
  RESEMB_INLINE void add(const Block& other) {
    for (int i = 0; i < N; ++i) v[i] += other.v[i];
  }
  template <class O>
  RESEMB_INLINE void save(O* row, int64_t last) const {
    for (int i = 0; i < N; ++i) store(row + at(i, last), v[i]);
  }
  // Past the cache; needs can_stream().
  template <class O>
  RESEMB_INLINE void stream(O* row, int64_t last) const {
    for (int i = 0; i < N; ++i) store_past_cache(row + at(i, last), v[i]);
  }
};

// The same interface for rows narrower than one vector.
template <class A>
struct NarrowBlock {
  Vec<A> v = {};

  template <class T>
  RESEMB_INLINE void add_scaled(A w, const T* row, int64_t dim) {
    v += w * load_part(row, dim);
  }
  template <class T>
  RESEMB_INLINE void add_row(const T* row, int64_t dim) {
    v += load_part(row, dim);
  }
  RESEMB_INLINE void add(const NarrowBlock& other) { v += other.v; }
  template <class O>
  RESEMB_INLINE void save(O* row, int64_t dim) const {
    store_part(row, v, dim);
  }
  template <class O>
  RESEMB_INLINE void stream(O* row, int64_t dim) const {
    save(row, dim);
  }
};

// Whether rows of O can be written past the cache: aligned vectors of accumulators throughout.
template <class O>
RESEMB_INLINE bool can_stream(const void* out, int64_t dim) {
  return sizeof(O) == sizeof(Acc<O>) && dim % kLanes<Acc<O>> == 0 &&
         reinterpret_cast<uintptr_t>(out) % 32 == 0;
}

// Calls body.template operator()<BlockType>(col, last) over all columns of a row of any width.
template <class A, class F>
RESEMB_INLINE void for_columns(int64_t dim, const F& body) {
  if (dim < kLanes<A>) {
    body.template operator()<NarrowBlock<A>>(0, dim);
  } else {
    for_blocks<A>(dim, [&]<int N>(int64_t col, int64_t last)
                           RESEMB_LAMBDA_INLINE { body.template operator()<Block<A, N>>(col, last); });
  }
}

// Edges [first, past) of a row, empty where they leave the graph's arrays.
struct RowEdges {
  int64_t first, past;
  bool bad;

  RESEMB_INLINE RowEdges(const GatherArgs& a, int64_t row)
      : first(a.graph.indptr[row]), past(a.graph.indptr[row + 1]) {
    bad = first < 0 || past < first || past > a.num_edges;
    if (bad) first = past = 0;
  }
};

template <class T>
int64_t gather(const GatherArgs& a, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const T* central = static_cast<const T*>(a.central);
  const T* residual = static_cast<const T*>(a.residual);
  const int64_t row_bytes = a.dim * static_cast<int64_t>(sizeof(T));
  const int64_t index_size = a.graph.neighbors_are_int64 ? 8 : 4;
  const int64_t weight_size = a.graph.weights_are_double ? 8 : 4;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = a.rows[i];
    const RowEdges edges(a, row);
    bool bad = edges.bad;
    for (int64_t e = edges.first; e < edges.past; ++e) {
      bad |= static_cast<uint64_t>(a.graph.neighbor(e)) >= static_cast<uint64_t>(a.num_items);
    }
    if (bad) return i;
    // Rows of the next item are fetched while this one is summed, edge by edge.
    int64_t next = 0, next_past = 0;
    if (i + 1 < a.num_rows) {
      const RowEdges ahead(a, a.rows[i + 1]);
      next = ahead.first;
      next_past = ahead.past;
      if (residual != nullptr) prefetch_row(residual + a.rows[i + 1] * a.dim, row_bytes);
    }
    if (i + 16 < a.num_rows) __builtin_prefetch(&a.graph.indptr[a.rows[i + 16]]);
    if (i + 8 < a.num_rows) {
      const RowEdges far(a, a.rows[i + 8]);
      prefetch_row(static_cast<const char*>(a.graph.neighbors) + far.first * index_size,
                   (far.past - far.first) * index_size);
      prefetch_row(static_cast<const char*>(a.graph.weights) + far.first * weight_size,
                   (far.past - far.first) * weight_size);
    }
    A* out = static_cast<A*>(a.out) + i * a.dim;
    for_columns<A>(a.dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      B total;
      for (int64_t chunk = edges.first; chunk < edges.past; chunk += kChunk) {
        B sum;
        const int64_t chunk_past = chunk + kChunk < edges.past ? chunk + kChunk : edges.past;
        for (int64_t e = chunk; e < chunk_past; ++e) {
          if (next < next_past) prefetch_row(central + a.graph.neighbor(next++) * a.dim, row_bytes);
          sum.add_scaled(a.graph.weight<A>(e), central + a.graph.neighbor(e) * a.dim + col, last);
        }
        total.add(sum);
      }
      if (residual != nullptr) total.add_row(residual + row * a.dim + col, last);
      total.save(out + col, last);
    });
    while (next < next_past) prefetch_row(central + a.graph.neighbor(next++) * a.dim, row_bytes);
  }
  return -1;
}

template <class S, class O>
void segment_sum(const SegmentArgs& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  const Term<A>* terms = static_cast<const Term<A>*>(a.terms);
  const S* source = static_cast<const S*>(a.source);
  const int64_t row_bytes = a.dim * static_cast<int64_t>(sizeof(S));
  const bool stream = a.bypass_cache && can_stream<O>(a.out, a.dim);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t first = a.begin[s], past = a.end[s];
    if (past - first > kChunk) continue;
    O* out = static_cast<O*>(a.out) + (a.targets != nullptr ? a.targets[s] : s) * a.dim;
    for_columns<A>(a.dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      B sum;
      for (int64_t t = first; t < past; ++t) {
        if (col == 0 && t + kAhead < a.num_terms) {
          prefetch_row(source + static_cast<int64_t>(terms[t + kAhead].source) * a.dim, row_bytes);
        }
        sum.add_scaled(terms[t].weight, source + static_cast<int64_t>(terms[t].source) * a.dim + col, last);
      }
      if (stream) {
        sum.stream(out + col, last);
      } else {
        sum.save(out + col, last);
      }
    });
  }
  if (stream) finish_stream();
}

template <class O>
void copy(const CopyArgs& a, int64_t begin, int64_t end) {
  using A = Acc<O>;
  const A* source = static_cast<const A*>(a.source);
  const bool stream = a.bypass_cache && can_stream<O>(a.out, a.dim);
  for (int64_t i = begin; i < end; ++i) {
    const A* from = source + (a.sources != nullptr ? a.sources[i] : i) * a.dim;
    O* to = static_cast<O*>(a.out) + (a.targets != nullptr ? a.targets[i] : i) * a.dim;
    if (a.sources != nullptr && i + kAhead < end) {
      prefetch_row(source + a.sources[i + kAhead] * a.dim, a.dim * static_cast<int64_t>(sizeof(A)));
    }
    for_columns<A>(a.dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      B row;
      row.add_row(from + col, last);
      if (stream) {
        row.stream(to + col, last);
      } else {
        row.save(to + col, last);
      }
    });
  }
  if (stream) finish_stream();
}

template <class T>
void dot(const DotArgs& a, int64_t begin, int64_t end) {
  using A = Acc<T>;
  constexpr int64_t lanes = kLanes<A>;
  const T* right = static_cast<const T*>(a.right);
  const A* left = static_cast<const A*>(a.left);
  for (int64_t k = begin; k < end; ++k) {
    if (k + kAhead < end) {
      prefetch_row(right + static_cast<int64_t>(a.pairs[k + kAhead].right) * a.dim, a.dim * sizeof(T));
    }
    const A* x = left + static_cast<int64_t>(a.pairs[k].left) * a.dim;
    const T* y = right + static_cast<int64_t>(a.pairs[k].right) * a.dim;
    Vec<A> sum[2] = {};
    int64_t col = 0;
    for (; col + 2 * lanes <= a.dim; col += 2 * lanes) {
      sum[0] += load(x + col) * load(y + col);
      sum[1] += load(x + col + lanes) * load(y + col + lanes);
    }
    for (; col + lanes <= a.dim; col += lanes) sum[0] += load(x + col) * load(y + col);
    if (col < a.dim) sum[1] += load_part(x + col, a.dim - col) * load_part(y + col, a.dim - col);
    static_cast<A*>(a.out)[k] = sum_lanes(sum[0] + sum[1]);
  }
}

int64_t gather_any(const GatherArgs& a, int64_t begin, int64_t end) {
  switch (a.table) {
    case DType::f32:
      return gather<float>(a, begin, end);
    case DType::f64:
      return gather<double>(a, begin, end);
    case DType::f16:
      return gather<Half>(a, begin, end);
    case DType::bf16:
      return gather<BFloat>(a, begin, end);
  }
  return -1;
}

// A sum reads or writes accumulators on at least one side.
void segment_sum_any(const SegmentArgs& a, int64_t begin, int64_t end) {
  if (a.source_type == DType::f64) return segment_sum<double, double>(a, begin, end);
  if (a.source_type == DType::f16) return segment_sum<Half, float>(a, begin, end);
  if (a.source_type == DType::bf16) return segment_sum<BFloat, float>(a, begin, end);
  if (a.out_type == DType::f16) return segment_sum<float, Half>(a, begin, end);
  if (a.out_type == DType::bf16) return segment_sum<float, BFloat>(a, begin, end);
  return segment_sum<float, float>(a, begin, end);
}

void copy_any(const CopyArgs& a, int64_t begin, int64_t end) {
  switch (a.out_type) {
    case DType::f32:
      return copy<float>(a, begin, end);
    case DType::f64:
      return copy<double>(a, begin, end);
    case DType::f16:
      return copy<Half>(a, begin, end);
    case DType::bf16:
      return copy<BFloat>(a, begin, end);
  }
}

void dot_any(const DotArgs& a, int64_t begin, int64_t end) {
  switch (a.right_type) {
    case DType::f32:
      return dot<float>(a, begin, end);
    case DType::f64:
      return dot<double>(a, begin, end);
    case DType::f16:
      return dot<Half>(a, begin, end);
    case DType::bf16:
      return dot<BFloat>(a, begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb
