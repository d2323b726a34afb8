// The attention link's row kernels, for the instruction set of the including file: all heads of a row in one
// pass over its neighbours for the scores and one for each sum.
//
// Every head's columns are whole vectors there: rows are read where they lie if D / heads is a multiple of
// the lanes and the tables hold accumulators, and are otherwise copied, each head with zeros behind it.
//
// The numbers of a row's edges lie edge by edge, those of an edge head by head, `apart` of them: 1, 2, 4 or a
// multiple of 8, so that a vector holds P heads of one edge or of several.
#pragma once

#include "common/attention.h"
#include "cpu/attention_math.h"
#include "cpu/head_blocks.h"
#include "cpu/row_edges.h"
#include "cpu/rows.h"

namespace resemb {
namespace RESEMB_ISA {

// Fetches rows of a table, some at a time.
struct Fetching {
  const char* table = nullptr;
  const int32_t* items = nullptr;
  int64_t row_bytes = 0, left = 0;  // rows

  RESEMB_INLINE void one(int64_t item) const {
    const char *row = table + item * row_bytes, *past = row + row_bytes;
    for (; row + 256 <= past; row += 256) {
      prefetch(row);
      prefetch(row + 64);
      prefetch(row + 128);
      prefetch(row + 192);
    }
    for (; row < past; row += 64) prefetch(row);
  }
  RESEMB_INLINE void next() {
    if (left == 0) return;
    one(*items);
    ++items;
    --left;
  }
  RESEMB_INLINE void all() {
    while (left > 0) next();
  }
};

template <class A>
class AttentionRows {
  using V = Vec<A>;
  static constexpr int64_t kLanesHere = kLanes<A>;

  struct Row {
    int64_t i, item, first, count;  // number, item, first edge, edges
  };

 public:
  RESEMB_INLINE explicit AttentionRows(const AttentionArgs& args)
      : a(args),
        g(args.rows),
        dim(g.dim),
        heads(args.link.heads),
        width(dim / heads),
        vectors((width + kLanesHere - 1) / kLanesHere),
        wide(vectors * kLanesHere),
        size(heads * wide),
        row_bytes(dim * static_cast<int64_t>(item_size(g.table))),
        in_place(width == wide && item_size(g.table) == sizeof(A)),
        apart(attention_apart(heads)),
        dropout(args.link),
        free_(static_cast<A*>(args.scratch)) {
    a_src = laid_out(static_cast<const A*>(args.link.a_src), take(size));
    a_dst = laid_out(static_cast<const A*>(args.link.a_dst), take(size));
    b = take(apart < kLanesHere ? kLanesHere : apart);
    for (int64_t l = 0; l < kLanesHere || l < apart; ++l) {
      const int64_t h = l % apart;
      b[l] = h < heads ? static_cast<const A*>(args.link.b)[h] : 0;
    }
    sum = take(size);
    part = take(size);
    own_copy = take(size);
    grad_copy = take(size);
  }

  int64_t forward(int64_t begin, int64_t end) {
    copies = free_;
    return for_rows(begin, end, [&](const Row& row) RESEMB_LAMBDA_INLINE {
      if (!take_log_weights(row)) return false;
      if (row.count > 0) {
        if (!score<false>(row)) return false;
        attend(row.count);
        if (dropout.on()) {
          draw_kept(row);
          for (int64_t u = 0; u < past; u += kLanesHere) multiply(alpha + u, kept + u);
        }
      }
      A* out = static_cast<A*>(g.out) + row.i * dim;
      A* to = width == wide ? out : sum;
      weigh(row, alpha, g.residual != nullptr ? table_row(g.residual, row.item, own_copy) : nullptr, to);
      if (width == wide) return true;
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = 0; c < width; ++c) out[h * width + c] = sum[h * wide + c];
      }
      return true;
    });
  }

  void backward(int64_t begin, int64_t end) {
    A *sum_src = take(size), *sum_dst = take(size), *sum_b = take(apart + kLanesHere);
    for (int64_t c = 0; c < size; ++c) sum_src[c] = sum_dst[c] = 0;
    for (int64_t h = 0; h < apart + kLanesHere; ++h) sum_b[h] = 0;
    copies = free_;
    for_rows(begin, end, [&](const Row& row) RESEMB_LAMBDA_INLINE {
      A* row_scores = static_cast<A*>(a.row_scores) + row.i * heads;
      if (row.count == 0) {
        for (int64_t h = 0; h < heads; ++h) row_scores[h] = 0;
        return true;
      }
      take_log_weights(row);
      grad = laid_out(static_cast<const A*>(a.grad) + row.i * dim, grad_copy);
      if (!score<true>(row)) return false;
      attend(row.count);
      if (dropout.on()) draw_kept(row);
      score_gradients(row, row_scores, sum_b);
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = h * wide; c < (h + 1) * wide; c += kLanesHere) {
          store(sum_src + c, load(sum_src + c) + row_scores[h] * load(own + c));
        }
      }
      weigh(row, dots, nullptr, sum);
      for (int64_t c = 0; c < size; c += kLanesHere) store(sum_dst + c, load(sum_dst + c) + load(sum + c));
      return true;
    });
    A* sums = static_cast<A*>(a.sums);
    for (int64_t c = 0; c < dim; ++c) {
      sums[c] += sum_src[c / width * wide + c % width];
      sums[dim + c] += sum_dst[c / width * wide + c % width];
    }
    for (int64_t h = 0; h < heads; ++h) sums[2 * dim + h] += sum_b[h];
  }

 private:
  RESEMB_INLINE A* take(int64_t n) {
    A* taken = free_;
    free_ += n;
    return taken;
  }

  // A row of accumulators with its heads in whole vectors: itself, or its copy.
  RESEMB_INLINE const A* laid_out(const A* row, A* copy) const {
    if (width == wide) return row;
    lay_out(row, copy);
    return copy;
  }
  template <class T>
  RESEMB_INLINE void lay_out(const T* row, A* to) const {
    if (width == wide) {
      for (int64_t c = 0; c < dim; c += kLanesHere) store(to + c, load(row + c));
      return;
    }
    for (int64_t h = 0; h < heads; ++h) {
      int64_t c = 0;
      for (; c + kLanesHere <= width; c += kLanesHere) store(to + h * wide + c, load(row + h * width + c));
      store(to + h * wide + c, load_part(row + h * width + c, width - c));
    }
  }
  // A table's row likewise.
  RESEMB_INLINE const A* table_row(const void* table, int64_t item, A* copy) const {
    if (in_place) return static_cast<const A*>(table) + item * dim;
    copy_table_row(static_cast<const char*>(table) + item * row_bytes, copy);
    return copy;
  }
  __attribute__((noinline)) void copy_table_row(const void* row, A* to) const {
    if constexpr (sizeof(A) == 4) {
      if (g.table == DType::f16) return lay_out(static_cast<const Half*>(row), to);
      if (g.table == DType::bf16) return lay_out(static_cast<const BFloat*>(row), to);
    }
    lay_out(static_cast<const A*>(row), to);
  }

  // f(row) until it returns false or the graph is malformed; the row it stopped at, or -1. Meanwhile f
  // fetches the central rows of `next` by `ahead`, so that they are on their way while it computes.
  template <class F>
  RESEMB_INLINE int64_t for_rows(int64_t begin, int64_t end, const F& f) {
    const auto first_items = [&](int64_t i) RESEMB_LAMBDA_INLINE {
      const RowEdges edges(g, g.rows[i]);
      return EdgeItems(g, edges.first, edges.past, rooms[i % 2]);
    };
    next = EdgeItems();
    if (begin < end) next = first_items(begin);
    for (int64_t i = begin; i < end; ++i) {
      const RowEdges edges(g, g.rows[i]);
      now = next;
      if (edges.bad || now.bad) return i;
      prefetch_edges(g, i);
      next = EdgeItems();
      if (i + 1 < end) {
        next = first_items(i + 1);
        if (g.residual != nullptr) {
          Fetching{static_cast<const char*>(g.residual), nullptr, row_bytes}.one(g.rows[i + 1]);
        }
      }
      ahead = {static_cast<const char*>(g.central), next.items, row_bytes, next.count};
      const Row row{i, g.rows[i], edges.first, edges.past - edges.first};
      held = -1;
      past = (row.count * apart + kLanesHere - 1) / kLanesHere * kLanesHere;
      const int64_t stride = attention_stride(row.count);
      logs = copies + (in_place ? 0 : (row.count < kChunk ? row.count : kChunk) * size);
      pre = logs + stride;
      alpha = pre + apart * stride;
      dots = alpha + apart * stride;
      kept = dots + apart * stride;
      if (!f(row)) return i;
      ahead.all();
    }
    return -1;
  }

  // Into logs, 0 behind them; whether all are finite.
  RESEMB_INLINE bool take_log_weights(const Row& row) {
    A* to = logs;
    const auto copy_from = [&](const auto* weights) RESEMB_LAMBDA_INLINE {
      for (int64_t k = 0; k < row.count; ++k) to[k] = static_cast<A>(weights[k]);
    };
    const GraphView& graph = g.graph;
    if (graph.weights_are_double) {
      copy_from(static_cast<const double*>(graph.weights) + row.first);
    } else {
      copy_from(static_cast<const float*>(graph.weights) + row.first);
    }
    const int64_t stride = attention_stride(row.count);
    for (int64_t k = row.count; k < stride; ++k) to[k] = 0;
    V zero = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) zero += load(to + k) - load(to + k);
    return sum_lanes(zero) == 0;
  }

  // f(k, count) for the row's chunks of edges, from its k-th on, whose items are in `now` and whose central
  // rows in `rows`, the last one again up to a multiple of four. False where a neighbour is no item.
  template <class F>
  RESEMB_INLINE bool for_chunks(const Row& row, const F& f) {
    for (int64_t k = 0; k < row.count; k += kChunk) {
      if (k != held) {
        // The first chunk was taken when the row was still the next one.
        if (k > 0 || held >= 0) now = EdgeItems(g, row.first + k, row.first + row.count, rooms[row.i % 2]);
        if (now.bad) return false;
        held = k;
        for (int64_t j = 0; j < now.count; ++j) {
          if (!in_place) ahead.next();
          rows[j] = table_row(g.central, now.items[j], copies + j * size);
        }
        for (int64_t j = now.count; j % 4 != 0; ++j) rows[j] = rows[j - 1];
      }
      f(k, now.count);
    }
    return true;
  }

  // pre: a_dst . C of every edge and head. dots: G . C likewise where wanted. False for a malformed row.
  template <bool WithDots>
  __attribute__((noinline)) bool score(const Row& row) {
    bool found = false;
    const bool good = for_chunks(row, [&](int64_t first, int64_t count) RESEMB_LAMBDA_INLINE {
      const int32_t *items = now.items, item = static_cast<int32_t>(row.item);
      int32_t here = 0;
      for (int64_t k = 0; k < count; ++k) here |= items[k] == item;
      found |= here != 0;
      if (apart > 1) {
        multiply_rows<WithDots, false, 0>(first, count);
      } else if (vectors == 8) {
        multiply_rows<WithDots, true, 8>(first, count);
      } else {
        multiply_rows<WithDots, true, 0>(first, count);
      }
    });
    if (!good || !found) return false;
    own = table_row(g.central, row.item, own_copy);
    return true;
  }

  // N: vectors of a head, or 0 for any number.
  template <bool WithDots, bool OneHead, int N>
  __attribute__((noinline)) void multiply_rows(int64_t first, int64_t count) {
    Fetching fetching = ahead;
    const bool fetch = in_place;
    const int64_t stride = apart;
    for (int64_t k = 0; k < count; k += 4) {
      if (fetch) fetching.next();
      if (fetch) fetching.next();
      A *scores = pre + (first + k) * stride, *products = dots + (first + k) * stride;
      if constexpr (OneHead) {
        Four<A> of_dots;
        write(scores, multiply_four<WithDots, N>(rows + k, 0, &of_dots));
        if constexpr (WithDots) write(products, of_dots);
        continue;
      }
      for (int64_t h = 0; h < heads; h += 4) {
        Four<A> of_scores[4] = {}, of_dots[4] = {};
        for (int64_t j = 0; j < 4 && h + j < heads; ++j) {
          of_scores[j] = multiply_four<WithDots, N>(rows + k, (h + j) * wide, of_dots + j);
        }
        if (stride == 2) {
          write_by_two<A>(of_scores, scores);
          if constexpr (WithDots) write_by_two<A>(of_dots, products);
        } else {
          write_by_four<A>(of_scores, scores + h, stride);
          if constexpr (WithDots) write_by_four<A>(of_dots, products + h, stride);
        }
      }
    }
    ahead = fetching;
  }

  // The products of four rows with a_dst over the columns of a head, and with grad.
  template <bool WithDots, int N>
  RESEMB_INLINE Four<A> multiply_four(const A* const* row, int64_t col, Four<A>* of_dots) const {
    V scores[4] = {}, products[4] = {};
    const A *row0 = row[0], *row1 = row[1], *row2 = row[2], *row3 = row[3], *left = a_dst, *other = grad;
    const auto add = [&](int i, V x, V y, V z) RESEMB_LAMBDA_INLINE {
      scores[i] += x * y;
      if constexpr (WithDots) products[i] += x * z;
    };
    const int64_t count = N > 0 ? N : vectors;
    for (int64_t i = 0; i < count; ++i, col += kLanesHere) {
      const V y = load(left + col), z = WithDots ? load(other + col) : y;
      add(0, load(row0 + col), y, z);
      add(1, load(row1 + col), y, z);
      add(2, load(row2 + col), y, z);
      add(3, load(row3 + col), y, z);
    }
    if constexpr (WithDots) *of_dots = sum_four(products);
    return sum_four(scores);
  }

  // a_src . C of four heads of the row's own.
  RESEMB_INLINE Four<A> own_products(int64_t h) const {
    const auto of_head = [&](int64_t j) RESEMB_LAMBDA_INLINE {
      V products = {};
      if (j >= heads) return products;
      for (int64_t c = j * wide; c < (j + 1) * wide; c += kLanesHere) products += load(a_src + c) * load(own + c);
      return products;
    };
    const V products[] = {of_head(h), of_head(h + 1), of_head(h + 2), of_head(h + 3)};
    return sum_four(products);
  }

  // Calls body.template operator()<P>().
  template <class F>
  RESEMB_INLINE void for_heads_of_a_vector(const F& body) const {
    if (apart == 1) return body.template operator()<1>();
    if (apart == 2) return body.template operator()<2>();
    if constexpr (kLanesHere == 8) {
      if (apart == 4) return body.template operator()<4>();
    }
    body.template operator()<kLanesHere>();
  }

  // alpha before dropout, 0 behind the row's edges; pre: LeakyReLU's argument.
  RESEMB_INLINE void attend(int64_t count) {
    for_heads_of_a_vector([&]<int P>() RESEMB_LAMBDA_INLINE { attend_by<P>(count); });
  }
  template <int P>
  RESEMB_INLINE void attend_by(int64_t count) {
    constexpr int64_t edges = kLanesHere / P;  // of a vector
    const int64_t step = apart < kLanesHere ? kLanesHere : apart;
    for (int64_t u = count * apart; u < past; ++u) pre[u] = -INFINITY;
    for (int64_t h = 0; h < apart; h += P) {
      V source;
      if constexpr (P == 8) {
        const Four<A> low = own_products(h), high = own_products(h + 4);
        source = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
      } else {
        source = repeat_all<P>(own_products(h));
      }
      const V prior = load(b + h);
      V most = V{} - static_cast<A>(INFINITY);
      for (int64_t u = h, k = 0; u < past; u += step, k += edges) {
        const V argument = load(pre + u) + source;
        const V score = larger(argument, argument * static_cast<A>(kLeak)) + prior * repeat_each<P>(logs + k);
        store(pre + u, argument);
        store(alpha + u, score);
        most = larger(most, score);
      }
      const V top = fold_largest<P>(most);
      V total = {};
      for (int64_t u = h; u < past; u += step) {
        const V e = exponential(load(alpha + u) - top);
        store(alpha + u, e);
        total += e;
      }
      const V share = 1 / fold_sum<P>(total);
      for (int64_t u = h; u < past; u += step) store(alpha + u, load(alpha + u) * share);
    }
  }

  // From dots to the gradients of the scores in their place, and to alpha after dropout. Keeps both in a.edges
  // and the former's sums in row_scores; adds to the gradient of b.
  RESEMB_INLINE void score_gradients(const Row& row, A* row_scores, A* sum_b) {
    for_heads_of_a_vector(
        [&]<int P>() RESEMB_LAMBDA_INLINE { score_gradients_by<P>(row, row_scores, sum_b); });
  }
  template <int P>
  RESEMB_INLINE void score_gradients_by(const Row& row, A* row_scores, A* sum_b) {
    constexpr int64_t edges = kLanesHere / P;
    const int64_t step = apart < kLanesHere ? kLanesHere : apart;
    const bool drop = dropout.on();
    for (int64_t u = row.count * apart; u < past; ++u) dots[u] = 0;
    for (int64_t h = 0; h < apart; h += P) {
      V weighted = {};
      for (int64_t u = h; u < past; u += step) {
        if (drop) multiply(dots + u, kept + u);
        weighted += load(alpha + u) * load(dots + u);
      }
      const V mean = fold_sum<P>(weighted);
      V of_row = {}, of_b = {};
      for (int64_t u = h, k = 0; u < past; u += step, k += edges) {
        const V d = load(alpha + u) * (load(dots + u) - mean);
        of_b += d * repeat_each<P>(logs + k);
        const V score = load(pre + u) > 0 ? d : d * static_cast<A>(kLeak);
        of_row += score;
        store(dots + u, score);
        if (drop) multiply(alpha + u, kept + u);
      }
      store(sum_b + h, load(sum_b + h) + fold_sum<P>(of_b));
      A scores[kLanesHere];
      store(scores, fold_sum<P>(of_row));
      for (int64_t j = 0; j < P && h + j < heads; ++j) row_scores[h + j] = scores[j];
    }
    A* to = static_cast<A*>(a.edges) + a.offsets[row.i] * 2 * heads;
    for (int64_t k = 0; k < row.count; ++k, to += 2 * heads) {
      if (heads == P) {
        __builtin_memcpy(to, alpha + k * P, P * sizeof(A));
        __builtin_memcpy(to + P, dots + k * P, P * sizeof(A));
        continue;
      }
      for (int64_t h = 0; h < heads; ++h) {
        to[h] = alpha[k * apart + h];
        to[heads + h] = dots[k * apart + h];
      }
    }
  }

  static RESEMB_INLINE void multiply(A* x, const A* by) { store(x, load(x) * load(by)); }

  // Dropout's factors, 0 where there is no edge or head.
  __attribute__((noinline)) void draw_kept(const Row& row) {
    for (int64_t u = 0; u < past; ++u) kept[u] = 0;
    for (int64_t k = 0; k < row.count; ++k) {
      for (int64_t h = 0; h < heads; h += 4) {
        double factors[4];
        dropout.factors(row.item, row.first + k, h, factors);
        for (int64_t j = 0; j < 4 && h + j < heads; ++j) kept[k * apart + h + j] = static_cast<A>(factors[j]);
      }
    }
  }

  // to: sum over the row's edges of their weights, laid out as alpha, times their central rows, and behind
  // them `last` where there is one.
  RESEMB_INLINE void weigh(const Row& row, const A* weights, const A* last, A* to) {
    for (int64_t c = 0; row.count == 0 && c < size; ++c) to[c] = last != nullptr ? last[c] : 0;
    for_chunks(row, [&](int64_t first, int64_t count) RESEMB_LAMBDA_INLINE {
      A* into = first == 0 ? to : part;
      const A* added = first + count < row.count ? nullptr : last;
      for_head_blocks(heads, vectors, [&]<int H, int N>(int64_t h, int64_t i) RESEMB_LAMBDA_INLINE {
        weigh_block<H, N>(weights + first * apart + h, count, h * wide + i * kLanesHere, added, into);
      });
      if (first == 0) return;
      for (int64_t c = 0; c < size; c += kLanesHere) store(to + c, load(to + c) + load(part + c));
    });
  }
  template <int H, int N>
  __attribute__((noinline)) void weigh_block(const A* weight, int64_t count, int64_t col, const A* last, A* to) {
    Fetching fetching = ahead;
    if (!in_place) fetching.left = 0;
    const int64_t step = apart;
    const A* const* row = rows;
    HeadBlock<A, H, N> block;
    for (const A* const* past = row + count - 1; row < past; row += 2) {
      fetching.next();
      block.add_weighted(weight, row[0] + col);
      block.add_weighted(weight + step, row[1] + col);
      weight += 2 * step;
    }
    if (count % 2 != 0) block.add_weighted(weight, *row + col);
    if (last != nullptr) block.add_row(last + col);
    block.save(to + col);
    if (in_place) ahead = fetching;
  }

  const AttentionArgs& a;
  const GatherArgs& g;
  const int64_t dim, heads;
  const int64_t width, vectors, wide;  // of a head: columns, vectors, columns in whole vectors
  const int64_t size;                  // columns of all heads in whole vectors
  const int64_t row_bytes;
  const bool in_place;                 // central rows are not copied
  const int64_t apart;                 // numbers of an edge
  const EdgeDropout dropout;
  A* free_;
  const A *a_src, *a_dst;
  A* b;  // of the heads in a vector, or of all
  A *sum, *part, *own_copy, *grad_copy, *copies = nullptr;

  // Of the row at hand.
  const A *grad = nullptr, *own = nullptr;  // of own: its central row
  const A* rows[kChunk];                    // central rows of the chunk `now`
  EdgeItems now, next;                      // next: checked first edges of the next row
  int32_t rooms[2][kChunk];                 // of their items, by turns
  int64_t held = -1;    // first edge of `now` whose rows are in `rows`
  Fetching ahead;       // of the rows of next
  int64_t past = 0;     // numbers of its edges, up to a whole vector
  A *logs = nullptr, *pre = nullptr, *alpha = nullptr, *dots = nullptr, *kept = nullptr;
};

int64_t attend(const AttentionArgs& a, int64_t begin, int64_t end) {
  return a.rows.table == DType::f64 ? AttentionRows<double>(a).forward(begin, end)
                                    : AttentionRows<float>(a).forward(begin, end);
}

void attend_backward(const AttentionArgs& a, int64_t begin, int64_t end) {
  if (a.rows.table == DType::f64) {
    AttentionRows<double>(a).backward(begin, end);
  } else {
    AttentionRows<float>(a).backward(begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb
