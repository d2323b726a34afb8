// The attention link's segment sums, for the instruction set of the including file: all heads of a term at
// once where they are whole vectors.
#pragma once

#include <type_traits>

#include "cpu/head_blocks.h"
#include "cpu/kernels.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// The columns of one head in a block, and those of several heads. Constructors are written out, since
// implicit ones are not compiled for the instruction set.
template <class B>
struct OneHead : B {
  static constexpr int kHeads = 1;
  RESEMB_INLINE OneHead() {}
  template <class A>
  RESEMB_INLINE void add_heads(const A* weights, const A* row, int64_t last) {
    this->add_scaled(*weights, row, last);
  }
};
template <class A, int H, int N>
struct SeveralHeads : HeadBlock<A, H, N> {
  static constexpr int kHeads = H;
  RESEMB_INLINE SeveralHeads() {}
  RESEMB_INLINE void add_heads(const A* weights, const A* row, int64_t) { this->add_weighted(weights, row); }
};

// alpha of a term's heads, and behind them the gradients of their scores.
template <class A>
RESEMB_INLINE const A* numbers_of(const AttendedTerm<A>& term, const A*, int64_t) {
  return &term.edge.alpha;
}
template <class A>
RESEMB_INLINE const A* numbers_of(const PlacedTerm& term, const A* edges, int64_t heads) {
  return edges + static_cast<int64_t>(term.edge) * 2 * heads;
}

// row_scores of ascending items, where the batch has them.
template <class A>
class OwnScores {
 public:
  // For items from `item` on.
  RESEMB_INLINE OwnScores(const AttentionSegmentArgs& args, int64_t item) : a(args) {
    for (int64_t count = a.num_unique; count > 0;) {
      const int64_t half = count / 2;
      const bool below = a.unique_ids[own + half] < item;
      own = below ? own + half + 1 : own;
      count = below ? count - half - 1 : half;
    }
  }
  // [heads], or null.
  RESEMB_INLINE const A* of(int64_t item) {
    while (own < a.num_unique && a.unique_ids[own] < item) ++own;
    if (own == a.num_unique || a.unique_ids[own] != item) return nullptr;
    return static_cast<const A*>(a.row_scores) + own * a.link.heads;
  }

 private:
  const AttentionSegmentArgs& a;
  int64_t own = 0;  // the first row that is not below the item
};

// Columns [col, ...) of heads [h, h + B::kHeads), for segments [begin, end).
template <class A, class Term, class B>
RESEMB_INLINE bool sum_heads(const AttentionSegmentArgs& a, int64_t begin, int64_t end, int64_t h,
                             int64_t col, int64_t last) {
  const Term* terms = static_cast<const Term*>(a.terms);
  const A* edges = static_cast<const A*>(a.edges);
  const A* source = static_cast<const A*>(a.source) + col;
  const A *a_src = static_cast<const A*>(a.link.a_src) + col,
          *a_dst = static_cast<const A*>(a.link.a_dst) + col;
  const int64_t dim = a.dim, heads = a.link.heads, last_term = a.num_terms - 1;
  const bool stream = a.bypass_cache && can_stream(a.out_type, a.out, dim);
  bool any_long = false;
  OwnScores<A> own(a, a.parts || begin == end ? 0 : a.items[begin]);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t first = a.begin[s], past = a.end[s];
    if (past - first > kChunk) {
      any_long = true;
      continue;
    }
    B sum;
    A score[B::kHeads] = {};
    for (int64_t t = first; t < past; ++t) {
      const Term& ahead = terms[t + kAhead < last_term ? t + kAhead : last_term];
      B::fetch(source + static_cast<int64_t>(ahead.source) * dim);
      if constexpr (std::is_same_v<Term, PlacedTerm>) prefetch(numbers_of(ahead, edges, heads) + h);
      const A* numbers = numbers_of(terms[t], edges, heads) + h;
      sum.add_heads(numbers, source + static_cast<int64_t>(terms[t].source) * dim, last);
      for (int j = 0; j < B::kHeads; ++j) score[j] += numbers[heads + j];
    }
    if (a.parts) {
      A* out = static_cast<A*>(a.out) + s * (dim + heads);
      sum.save(out + col, last);
      for (int j = 0; j < B::kHeads; ++j) out[dim + h + j] = score[j];
      continue;
    }
    sum.add_heads(score, a_dst, last);
    if (const A* row_scores = own.of(a.items[s])) sum.add_heads(row_scores + h, a_src, last);
    const int64_t at = (a.targets != nullptr ? a.targets[s] : s - a.out_first) * dim + col;
    save_as<A>(sum, a.out_type, stream, a.out, at, last);
  }
  if (stream) finish_stream();
  return any_long;
}

template <class A, class O>
RESEMB_INLINE void save_columns(const A* sum, int64_t columns, O* out) {
  for (int64_t c = 0; c < columns; c += kLanes<A>) {
    store_columns(out + c, load(sum + c), columns - c < kLanes<A> ? columns - c : kLanes<A>);
  }
}

// Several heads that are not whole vectors, for segments [begin, end): weights by column, in tiles.
template <class A>
bool sum_narrow_heads(const AttentionSegmentArgs& a, int64_t begin, int64_t end) {
  constexpr int64_t kTile = 64;
  const PlacedTerm* terms = static_cast<const PlacedTerm*>(a.terms);
  const A* edges = static_cast<const A*>(a.edges);
  const A *a_src = static_cast<const A*>(a.link.a_src), *a_dst = static_cast<const A*>(a.link.a_dst);
  const int64_t dim = a.dim, heads = a.link.heads, width = dim / heads, last_term = a.num_terms - 1;
  bool any_long = false;
  for (int64_t col = 0; col < dim; col += kTile) {
    const int64_t columns = dim - col < kTile ? dim - col : kTile;
    const A* source = static_cast<const A*>(a.source) + col;
    int32_t head[kTile];
    for (int64_t c = 0; c < columns; ++c) head[c] = static_cast<int32_t>((col + c) / width);
    OwnScores<A> own(a, a.parts || begin == end ? 0 : a.items[begin]);
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = a.begin[s], past = a.end[s];
      if (past - first > kChunk) {
        any_long = true;
        continue;
      }
      A sum[kTile] = {}, score[kTile] = {};
      for (int64_t t = first; t < past; ++t) {
        const PlacedTerm& ahead = terms[t + kAhead < last_term ? t + kAhead : last_term];
        prefetch_bytes(source + static_cast<int64_t>(ahead.source) * dim, columns * sizeof(A));
        prefetch_bytes(numbers_of(ahead, edges, heads), 2 * heads * sizeof(A));
        const A* numbers = numbers_of(terms[t], edges, heads);
        const A* row = source + static_cast<int64_t>(terms[t].source) * dim;
        for (int64_t c = 0; c < columns; ++c) {
          sum[c] += numbers[head[c]] * row[c];
          score[c] += numbers[heads + head[c]];
        }
      }
      if (a.parts) {
        A* out = static_cast<A*>(a.out) + s * (dim + heads);
        save_columns(sum, columns, out + col);
        for (int64_t c = 0; c < columns; ++c) out[dim + head[c]] = score[c];
        continue;
      }
      for (int64_t c = 0; c < columns; ++c) sum[c] += score[c] * a_dst[col + c];
      if (const A* row_scores = own.of(a.items[s])) {
        for (int64_t c = 0; c < columns; ++c) sum[c] += row_scores[head[c]] * a_src[col + c];
      }
      const int64_t at = (a.targets != nullptr ? a.targets[s] : s - a.out_first) * dim + col;
      if (a.out_type == DType::f16) {
        if constexpr (sizeof(A) == 4) save_columns(sum, columns, static_cast<Half*>(a.out) + at);
      } else if (a.out_type == DType::bf16) {
        if constexpr (sizeof(A) == 4) save_columns(sum, columns, static_cast<BFloat*>(a.out) + at);
      } else {
        save_columns(sum, columns, static_cast<A*>(a.out) + at);
      }
    }
  }
  return any_long;
}

template <class A>
bool sum_attended(const AttentionSegmentArgs& a, int64_t begin, int64_t end) {
  const int64_t heads = a.link.heads, width = a.dim / heads;
  if (heads > 1 && width % kLanes<A> != 0) return sum_narrow_heads<A>(a, begin, end);
  bool any_long = false;
  if (heads == 1) {
    for_columns<A>(width, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      any_long |= sum_heads<A, AttendedTerm<A>, OneHead<B>>(a, begin, end, 0, col, last);
    });
    return any_long;
  }
  for_head_blocks(heads, width / kLanes<A>, [&]<int H, int N>(int64_t h, int64_t i) RESEMB_LAMBDA_INLINE {
    const int64_t col = h * width + i * kLanes<A>;
    any_long |= sum_heads<A, PlacedTerm, SeveralHeads<A, H, N>>(a, begin, end, h, col, 0);
  });
  return any_long;
}

bool attention_segment_sum(const AttentionSegmentArgs& a, int64_t begin, int64_t end) {
  return a.source_type == DType::f64 ? sum_attended<double>(a, begin, end)
                                     : sum_attended<float>(a, begin, end);
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
