// The lookup's row kernels, for the instruction set of the including file.
#pragma once

#include "cpu/adjacency.h"
#include "cpu/blocks.h"
#include "cpu/kernels.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Room for edges of a graph that holds them in other types.
template <class A>
struct EdgeRoom {
  int32_t items[kChunk];
  A weights[kChunk];
};

// The columns of one block, for rows [begin, end).
template <class T, class B>
RESEMB_INLINE int64_t gather_columns(const GatherArgs& a, int64_t begin, int64_t end, int64_t col,
                                     int64_t last) {
  using A = Acc<T>;
  const T* central = static_cast<const T*>(a.central) + col;
  const T* residual = a.residual != nullptr ? static_cast<const T*>(a.residual) + col : nullptr;
  const int64_t dim = a.dim;
  EdgeRoom<A> rooms[2];  // of the row at hand and of the next
  const auto first_edges = [&](int64_t i) RESEMB_LAMBDA_INLINE {
    const EdgeRange edges(a, a.ids[i]);
    return EdgeItems(a, edges.first, edges.past, rooms[i % 2].items);
  };
  EdgeItems next;
  if (begin < end) next = first_edges(begin);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = a.ids[i];
    const EdgeRange edges(a, row);
    const EdgeItems now = next;
    if (edges.bad || now.bad) return i;
    prefetch_edges(a, i);
    next = EdgeItems();
    if (i + 1 < end) {
      next = first_edges(i + 1);
      if (residual != nullptr) B::fetch(residual + a.ids[i + 1] * dim);
    }
    // Rows of the next item are fetched while this one is summed, edge by edge.
    B total;
    A* room = rooms[i % 2].weights;
    const A* weights = edge_weights(a, edges.first, now.count, room);
    const int64_t paired = now.count < next.count ? now.count : next.count;
    const auto row_of = [&](int64_t item) RESEMB_LAMBDA_INLINE { return central + item * dim; };
    for (int64_t k = 0; k < paired; ++k) {
      B::fetch(row_of(next.items[k]));
      total.add_scaled(weights[k], row_of(now.items[k]), last);
    }
    for (int64_t k = paired; k < now.count; ++k) total.add_scaled(weights[k], row_of(now.items[k]), last);
    for (int64_t k = paired; k < next.count; ++k) B::fetch(row_of(next.items[k]));
    for (int64_t chunk = edges.first + now.count; chunk < edges.past; chunk += kChunk) {
      const EdgeItems more(a, chunk, edges.past, rooms[i % 2].items);
      if (more.bad) return i;
      weights = edge_weights(a, chunk, more.count, room);
      B sum;
      for (int64_t k = 0; k < more.count; ++k) sum.add_scaled(weights[k], row_of(more.items[k]), last);
      total.add(sum);
    }
    if (residual != nullptr) total.add_row(residual + row * dim, last);
    save_as<A>(total, a.out_type, false, a.out, i * dim + col, last);
  }
  return -1;
}

template <class T>
int64_t gather_rows(const GatherArgs& a, int64_t begin, int64_t end) {
  int64_t bad = -1;
  for_columns<T>(a.dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
    if (bad < 0) bad = gather_columns<T, B>(a, begin, end, col, last);
  });
  return bad;
}

template <class S>
bool sum_rows(const SegmentArgs& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  const Term<A>* terms = static_cast<const Term<A>*>(a.terms);
  const int64_t dim = a.dim, last_term = a.num_terms - 1;
  const bool stream = a.bypass_cache && can_stream(a.out_type, a.out, dim);
  bool any_long = false;
  for_columns<S>(dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
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
      const int64_t at = (a.targets != nullptr ? a.targets[s] : s - a.out_first) * dim + col;
      save_as<A>(sum, a.out_type, stream, a.out, at, last);
    }
  });
  if (stream) finish_stream();
  return any_long;
}

// copy_columns(from, to, fetch) for rows [begin, end): places of their columns in elements, and whether there
// is a row to fetch, kAhead rows on, at `fetch`.
template <class F>
RESEMB_INLINE void for_copies(const CopyArgs& a, int64_t row_size, int64_t begin, int64_t end,
                              const F& copy_columns) {
  for (int64_t i = begin; i < end; ++i) {
    const bool more = a.sources != nullptr && i + kAhead < end;
    copy_columns((a.sources != nullptr ? a.sources[i] : i) * row_size,
                 (a.targets != nullptr ? a.targets[i] : i) * row_size,
                 more ? a.sources[i + kAhead] * row_size : -1);
  }
}

// Rows that keep their type, as bytes.
void copy_same(const CopyArgs& a, int64_t begin, int64_t end) {
  const int64_t bytes = a.dim * static_cast<int64_t>(item_size(a.out_type));
  const bool stream = a.bypass_cache && can_stream(a.out_type, a.out, a.dim);
  const char* source = static_cast<const char*>(a.source);
  char* out = static_cast<char*>(a.out);
  if (bytes < kVectorBytes) {
    for_copies(a, bytes, begin, end, [&](int64_t from, int64_t to, int64_t fetch) RESEMB_LAMBDA_INLINE {
      if (fetch >= 0) prefetch(source + fetch);
      __builtin_memcpy(out + to, source + from, bytes);
    });
    return;
  }
  for_blocks<kVectorBytes, kMaxBlock>(bytes, [&]<int N>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
    for_copies(a, bytes, begin, end, [&](int64_t from, int64_t to, int64_t fetch) RESEMB_LAMBDA_INLINE {
      if (fetch >= 0) Block<float, N>::fetch(reinterpret_cast<const float*>(source + fetch + col));
      u8 v[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
        v[n] = read<u8>(source + from + col + (n == N - 1 ? last : n * kVectorBytes));
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        char* p = out + to + col + (n == N - 1 ? last : n * kVectorBytes);
        if (stream) {
          write_past_cache(p, v[n]);
        } else {
          write(p, v[n]);
        }
      }
    });
  });
  if (stream) finish_stream();
}

// Rows of accumulators, rounded to O.
template <class O>
void copy_rows(const CopyArgs& a, int64_t begin, int64_t end) {
  using A = Acc<O>;
  const bool stream = a.bypass_cache && can_stream(a.out_type, a.out, a.dim);
  for_columns<A>(a.dim, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
    const A* source = static_cast<const A*>(a.source) + col;
    for_copies(a, a.dim, begin, end, [&](int64_t from, int64_t to, int64_t fetch) RESEMB_LAMBDA_INLINE {
      if (fetch >= 0) B::fetch(source + fetch);
      B row;
      row.add_row(source + from, last);
      O* target = static_cast<O*>(a.out) + to + col;
      if (stream) {
        row.stream(target, last);
      } else {
        row.save(target, last);
      }
    });
  });
  if (stream) finish_stream();
}

template <class T>
void dot_rows(const DotArgs& a, int64_t begin, int64_t end) {
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
void rank_items(const RankArgs& a, int64_t begin, int64_t end) {
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

int64_t gather(const GatherArgs& a, int64_t begin, int64_t end) {
  switch (a.table) {
    case DType::f32:
      return gather_rows<float>(a, begin, end);
    case DType::f64:
      return gather_rows<double>(a, begin, end);
    case DType::f16:
      return gather_rows<Half>(a, begin, end);
    case DType::bf16:
      return gather_rows<BFloat>(a, begin, end);
  }
  return -1;
}

// A sum reads or writes accumulators on at least one side.
bool segment_sum(const SegmentArgs& a, int64_t begin, int64_t end) {
  switch (a.source_type) {
    case DType::f32:
      return sum_rows<float>(a, begin, end);
    case DType::f64:
      return sum_rows<double>(a, begin, end);
    case DType::f16:
      return sum_rows<Half>(a, begin, end);
    case DType::bf16:
      return sum_rows<BFloat>(a, begin, end);
  }
  return false;
}

void copy(const CopyArgs& a, int64_t begin, int64_t end) {
  if (a.source_type == a.out_type) return copy_same(a, begin, end);
  if (a.out_type == DType::f16) return copy_rows<Half>(a, begin, end);
  copy_rows<BFloat>(a, begin, end);
}

void dot(const DotArgs& a, int64_t begin, int64_t end) {
  switch (a.right_type) {
    case DType::f32:
      return dot_rows<float>(a, begin, end);
    case DType::f64:
      return dot_rows<double>(a, begin, end);
    case DType::f16:
      return dot_rows<Half>(a, begin, end);
    case DType::bf16:
      return dot_rows<BFloat>(a, begin, end);
  }
}

void rank(const RankArgs& a, int64_t begin, int64_t end) {
  if (a.items_are_int64) {
    rank_items<int64_t>(a, begin, end);
  } else {
    rank_items<int32_t>(a, begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
