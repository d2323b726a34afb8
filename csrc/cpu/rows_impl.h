// The row kernels, for the instruction set of the including file. That file defines RESEMB_ISA (the
// name of its namespace) and includes the standard headers before it switches the target.

namespace resemb {
namespace RESEMB_ISA {

#include "cpu/vec.h"

// Terms ahead of the one being summed whose row is prefetched.
constexpr int64_t kAhead = 24;
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
  template <class T>
  static RESEMB_INLINE void fetch(const T* row) {
    constexpr int64_t bytes = N * kLanes<A> * static_cast<int64_t>(sizeof(T));
#pragma GCC unroll 8
    for (int64_t at = 0; at < bytes; at += 64) prefetch(reinterpret_cast<const char*>(row) + at);
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
  static RESEMB_INLINE void fetch(const T* row) {
    prefetch(row);
  }
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

// Calls body.template operator()<BlockType>(col, last) over all columns of rows of any width. The body
// holds the loop over rows, so that it is compiled for its block's width.
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

// The first edges of a row, at most kChunk, checked. I and W are the graph's types.
template <class I, class W>
struct EdgeChunk {
  const I* neighbor = nullptr;
  const W* weight = nullptr;
  int64_t count = 0;
  bool bad = false;

  EdgeChunk() = default;
  RESEMB_INLINE EdgeChunk(const GatherArgs& a, const RowEdges& edges)
      : neighbor(static_cast<const I*>(a.graph.neighbors) + edges.first),
        weight(static_cast<const W*>(a.graph.weights) + edges.first),
        count(edges.past - edges.first < kChunk ? edges.past - edges.first : kChunk) {
    bad = !all_items(a, neighbor, neighbor + count);
    if (bad) count = 0;
  }

  // Whether neighbours lie in [0, H); a negative one counts as huge.
  static RESEMB_INLINE bool all_items(const GatherArgs& a, const I* first, const I* past) {
    using U = std::make_unsigned_t<I>;
    U worst = 0;
    for (const I* n = first; n < past; ++n) worst = static_cast<U>(*n) > worst ? static_cast<U>(*n) : worst;
    return first == past || worst < static_cast<uint64_t>(a.num_items);
  }
};

// The columns of one block, for rows [begin, end).
template <class T, class B, class I, class W>
RESEMB_INLINE int64_t gather_columns(const GatherArgs& a, int64_t begin, int64_t end, int64_t col,
                                     int64_t last) {
  using A = Acc<T>;
  using Edges = EdgeChunk<I, W>;
  const T* central = static_cast<const T*>(a.central) + col;
  const T* residual = a.residual != nullptr ? static_cast<const T*>(a.residual) + col : nullptr;
  const I* neighbors = static_cast<const I*>(a.graph.neighbors);
  const W* weights = static_cast<const W*>(a.graph.weights);
  const int64_t dim = a.dim;
  Edges next;
  if (begin < end) next = Edges(a, RowEdges(a, a.rows[begin]));
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = a.rows[i];
    const RowEdges edges(a, row);
    const Edges now = next;
    const int64_t rest = edges.first + now.count;
    if (edges.bad || now.bad || !Edges::all_items(a, neighbors + rest, neighbors + edges.past)) return i;

    if (i + 16 < a.num_rows) prefetch(&a.graph.indptr[a.rows[i + 16]]);
    if (i + 8 < a.num_rows) {
      const RowEdges far(a, a.rows[i + 8]);
      prefetch_bytes(neighbors + far.first, (far.past - far.first) * static_cast<int64_t>(sizeof(I)));
      prefetch_bytes(weights + far.first, (far.past - far.first) * static_cast<int64_t>(sizeof(W)));
    }
    next.count = 0;
    if (i + 1 < end) {
      const int64_t next_row = a.rows[i + 1];
      next = Edges(a, RowEdges(a, next_row));
      if (residual != nullptr) B::fetch(residual + next_row * dim);
    }
    // Rows of the next item are fetched while this one is summed, edge by edge.
    B total;
    const int64_t paired = now.count < next.count ? now.count : next.count;
    const auto row_of = [&](I item)
                            RESEMB_LAMBDA_INLINE { return central + static_cast<int64_t>(item) * dim; };
    for (int64_t k = 0; k < paired; ++k) {
      B::fetch(row_of(next.neighbor[k]));
      total.add_scaled(static_cast<A>(now.weight[k]), row_of(now.neighbor[k]), last);
    }
    for (int64_t k = paired; k < now.count; ++k) {
      total.add_scaled(static_cast<A>(now.weight[k]), row_of(now.neighbor[k]), last);
    }
    for (int64_t k = paired; k < next.count; ++k) B::fetch(row_of(next.neighbor[k]));
    for (int64_t chunk = rest; chunk < edges.past; chunk += kChunk) {
      B sum;
      const int64_t chunk_past = chunk + kChunk < edges.past ? chunk + kChunk : edges.past;
      for (int64_t e = chunk; e < chunk_past; ++e) {
        sum.add_scaled(static_cast<A>(weights[e]), row_of(neighbors[e]), last);
      }
      total.add(sum);
    }
    if (residual != nullptr) total.add_row(residual + row * dim, last);
    total.save(static_cast<A*>(a.out) + i * dim + col, last);
  }
  return -1;
}

template <class T, class I, class W>
int64_t gather_rows(const GatherArgs& a, int64_t begin, int64_t end) {
  int64_t bad = -1;
  for_columns<Acc<T>>(a.dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
    if (bad < 0) bad = gather_columns<T, B, I, W>(a, begin, end, col, last);
  });
  return bad;
}

template <class T>
int64_t gather(const GatherArgs& a, int64_t begin, int64_t end) {
  if (a.graph.neighbors_are_int64) {
    return a.graph.weights_are_double ? gather_rows<T, int64_t, double>(a, begin, end)
                                      : gather_rows<T, int64_t, float>(a, begin, end);
  }
  return a.graph.weights_are_double ? gather_rows<T, int32_t, double>(a, begin, end)
                                    : gather_rows<T, int32_t, float>(a, begin, end);
}

template <class S, class O>
bool segment_sum(const SegmentArgs& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  const Term<A>* terms = static_cast<const Term<A>*>(a.terms);
  const int64_t dim = a.dim, last_term = a.num_terms - 1;
  const bool stream = a.bypass_cache && can_stream<O>(a.out, dim);
  bool any_long = false;
  for_columns<A>(dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
    const S* source = static_cast<const S*>(a.source) + col;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = a.begin[s], past = a.end[s];
      if (past - first > kChunk) {
        any_long = true;
        continue;
      }
      B sum;
      for (int64_t t = first; t < past; ++t) {
        const int64_t ahead = t + kAhead < last_term ? t + kAhead : last_term;
        B::fetch(source + static_cast<int64_t>(terms[ahead].source) * dim);
        sum.add_scaled(terms[t].weight, source + static_cast<int64_t>(terms[t].source) * dim, last);
      }
      O* out = static_cast<O*>(a.out) + (a.targets != nullptr ? a.targets[s] : s - a.out_first) * dim + col;
      if (stream) {
        sum.stream(out, last);
      } else {
        sum.save(out, last);
      }
    }
  });
  if (stream) finish_stream();
  return any_long;
}

template <class O>
void copy(const CopyArgs& a, int64_t begin, int64_t end) {
  using A = Acc<O>;
  const int64_t dim = a.dim;
  const bool stream = a.bypass_cache && can_stream<O>(a.out, dim);
  for_columns<A>(dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
    const A* source = static_cast<const A*>(a.source) + col;
    for (int64_t i = begin; i < end; ++i) {
      if (a.sources != nullptr && i + kAhead < end) B::fetch(source + a.sources[i + kAhead] * dim);
      B row;
      row.add_row(source + (a.sources != nullptr ? a.sources[i] : i) * dim, last);
      O* to = static_cast<O*>(a.out) + (a.targets != nullptr ? a.targets[i] : i) * dim + col;
      if (stream) {
        row.stream(to, last);
      } else {
        row.save(to, last);
      }
    }
  });
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
      prefetch_bytes(right + static_cast<int64_t>(a.pairs[k + kAhead].right) * a.dim, a.dim * sizeof(T));
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

template <class Id>
void rank(const RankArgs& a, int64_t begin, int64_t end) {
  const Id* items = static_cast<const Id*>(a.items);
  for (int64_t i = begin; i < end; ++i) {
    const Id item = items[i];
    if (item == a.excluded) {
      a.out[i] = a.excluded_rank;
      continue;
    }
    const uint64_t below = (uint64_t{1} << (item & 63)) - 1;
    a.out[i] = static_cast<int32_t>(a.before[item >> 6] + __builtin_popcountll(a.bits[item >> 6] & below));
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
bool segment_sum_any(const SegmentArgs& a, int64_t begin, int64_t end) {
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

void rank_any(const RankArgs& a, int64_t begin, int64_t end) {
  if (a.items_are_int64) {
    rank<int64_t>(a, begin, end);
  } else {
    rank<int32_t>(a, begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb
