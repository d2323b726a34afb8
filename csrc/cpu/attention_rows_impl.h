// The attention link's row kernels, for the instruction set of the including file: all heads of a row in one
// pass over its neighbours for the scores and one for each sum.
//
// Every head's columns are whole vectors there: rows are read where they lie if D / heads is a multiple of
// the lanes and the tables hold accumulators, and are otherwise copied, each head with zeros behind it.
#pragma once

#include "common/attention.h"
#include "cpu/head_blocks.h"
#include "cpu/row_edges.h"
#include "cpu/rows.h"

namespace resemb {
namespace RESEMB_ISA {

// Sums of the lanes of four vectors.
RESEMB_INLINE void sum_four(const f8* v, float* out) {
  const auto pairs = [](f8 a, f8 b) RESEMB_LAMBDA_INLINE {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  };
  const f8 sums = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
  const f4 whole =
      __builtin_shufflevector(sums, sums, 0, 1, 2, 3) + __builtin_shufflevector(sums, sums, 4, 5, 6, 7);
  write(out, whole);
}
RESEMB_INLINE void sum_four(const d4* v, double* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum_lanes(v[i]);
}

// exp(x) for x <= 0, to two units of the last place; 0 below e^-87.
RESEMB_INLINE f8 exponential(f8 x) {
  const f8 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
  const f8 n = shifted - 12582912.0f;
  const f8 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f8 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const f8 y = p * (r * r) + r + 1.0f;
  const f8 power = (f8)(((u8)shifted + 127u) << 23);
  const u8 tiny = (u8)(x < -87.0f);
  return (f8)((u8)(y * power) & ~tiny);
}
RESEMB_INLINE d4 exponential(d4 x) {
  for (int i = 0; i < 4; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

template <class V>
RESEMB_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
RESEMB_INLINE float largest_lane(f8 v) {
  f8 most = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  most = larger(most, __builtin_shufflevector(most, most, 2, 3, 0, 1, 6, 7, 4, 5));
  return most[1] > most[0] ? most[1] : most[0];
}
RESEMB_INLINE double largest_lane(d4 v) {
  const d4 most = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  return most[1] > most[0] ? most[1] : most[0];
}

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
        dropout(args.link),
        free_(static_cast<A*>(args.scratch)) {
    a_src = laid_out(static_cast<const A*>(args.link.a_src), take(size));
    a_dst = laid_out(static_cast<const A*>(args.link.a_dst), take(size));
    b = static_cast<const A*>(args.link.b);
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
        for (int64_t h = 0; h < heads; ++h) attend(h, row.count);
        if (dropout.on()) {
          draw_kept(row);
          for (int64_t k = 0; k < heads * stride; k += kLanesHere) multiply(alpha + k, kept + k);
        }
      }
      weigh(row, alpha, sum);
      finish(row);
      return true;
    });
  }

  void backward(int64_t begin, int64_t end) {
    A *sum_src = take(size), *sum_dst = take(size);
    for (int64_t c = 0; c < size; ++c) sum_src[c] = sum_dst[c] = 0;
    A* sums = static_cast<A*>(a.sums);
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
      if (dropout.on()) draw_kept(row);
      A* edges = static_cast<A*>(a.edges) + a.offsets[row.i] * 2 * heads;
      for (int64_t h = 0; h < heads; ++h) {
        attend(h, row.count);
        row_scores[h] = score_gradients(h, row.count, sums + 2 * dim + h);
        for (int64_t c = h * wide; c < (h + 1) * wide; c += kLanesHere) {
          store(sum_src + c, load(sum_src + c) + row_scores[h] * load(own + c));
        }
        const A *alpha_h = alpha + h * stride, *score_h = dots + h * stride;
        for (int64_t k = 0; k < row.count; ++k) {
          edges[k * 2 * heads + h] = alpha_h[k];
          edges[k * 2 * heads + heads + h] = score_h[k];
        }
      }
      weigh(row, dots, sum);
      for (int64_t c = 0; c < size; c += kLanesHere) store(sum_dst + c, load(sum_dst + c) + load(sum + c));
      return true;
    });
    for (int64_t c = 0; c < dim; ++c) {
      sums[c] += sum_src[c / width * wide + c % width];
      sums[dim + c] += sum_dst[c / width * wide + c % width];
    }
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
  // fetches the central rows of `next`, piece by piece, so that they are on their way while it computes.
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
      fetched = 0;
      if (i + 1 < end) {
        next = first_items(i + 1);
        if (g.residual != nullptr) fetch(g.residual, g.rows[i + 1]);
      }
      const Row row{i, g.rows[i], edges.first, edges.past - edges.first};
      held = -1;
      stride = attention_stride(row.count);
      logs = copies + (in_place ? 0 : (row.count < kChunk ? row.count : kChunk) * size);
      pre = logs + stride;
      alpha = pre + heads * stride;
      dots = alpha + heads * stride;
      kept = dots + heads * stride;
      if (!f(row)) return i;
      fetch_next(next.count);
    }
    return -1;
  }

  RESEMB_INLINE void fetch(const void* table, int64_t item) const {
    const char* bytes = static_cast<const char*>(table) + item * row_bytes;
    for (int64_t at = 0; at < row_bytes; at += 64) prefetch(bytes + at);
  }
  // Fetches some of the next row's central rows that are not yet on their way.
  RESEMB_INLINE void fetch_next(int64_t count) {
    const int64_t past = fetched + count < next.count ? fetched + count : next.count;
    for (; fetched < past; ++fetched) fetch(g.central, next.items[fetched]);
  }

  // Into logs, 0 behind them; whether all are finite.
  RESEMB_INLINE bool take_log_weights(const Row& row) {
    const auto copy_from = [&](const auto* weights) RESEMB_LAMBDA_INLINE {
      A zero = 0;
      for (int64_t k = 0; k < row.count; ++k) {
        logs[k] = static_cast<A>(weights[row.first + k]);
        zero += logs[k] - logs[k];
      }
      return zero == 0;
    };
    const GraphView& graph = g.graph;
    const bool finite = graph.weights_are_double ? copy_from(static_cast<const double*>(graph.weights))
                                                 : copy_from(static_cast<const float*>(graph.weights));
    for (int64_t k = row.count; k < stride; ++k) logs[k] = 0;
    return finite;
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
          if (!in_place) fetch_next(1);
          rows[j] = table_row(g.central, now.items[j], copies + j * size);
        }
        for (int64_t j = now.count; j % 4 != 0; ++j) rows[j] = rows[j - 1];
      }
      f(k, now.count);
    }
    return true;
  }

  // pre: a_dst . C of every edge and head; source: a_src . C of the row's own. dots: G . C of every edge
  // and head where wanted. False for a malformed row.
  template <bool WithDots>
  __attribute__((noinline)) bool score(const Row& row) {
    bool found = false;
    const bool good = for_chunks(row, [&](int64_t first, int64_t count) RESEMB_LAMBDA_INLINE {
      for (int64_t k = 0; k < count; ++k) found |= now.items[k] == row.item;
      for (int64_t k = 0; k < count; k += 4) {
        if (in_place) fetch_next(2);
        for (int64_t h = 0; h < heads; ++h) four_products<WithDots>(k, h, first + k + h * stride);
      }
    });
    if (!good || !found) return false;
    own = table_row(g.central, row.item, own_copy);
    return true;
  }

  template <bool WithDots>
  RESEMB_INLINE void four_products(int64_t k, int64_t h, int64_t to) {
    const int64_t first = h * wide;
    const A *row0 = rows[k] + first, *row1 = rows[k + 1] + first;
    const A *row2 = rows[k + 2] + first, *row3 = rows[k + 3] + first;
    const A *left = a_dst + first, *other = WithDots ? grad + first : nullptr;
    V scores[4] = {}, products[4] = {};
    const auto add = [&](int j, V x, V y, V z) RESEMB_LAMBDA_INLINE {
      scores[j] += x * y;
      if constexpr (WithDots) products[j] += x * z;
    };
    const int64_t past = wide;
    for (int64_t c = 0; c < past; c += kLanesHere) {
      const V y = load(left + c), z = WithDots ? load(other + c) : y;
      add(0, load(row0 + c), y, z);
      add(1, load(row1 + c), y, z);
      add(2, load(row2 + c), y, z);
      add(3, load(row3 + c), y, z);
    }
    sum_four(scores, pre + to);
    if constexpr (WithDots) sum_four(products, dots + to);
  }

  // alpha of a head before dropout; pre: LeakyReLU's argument. alpha is 0 behind the row's edges.
  RESEMB_INLINE void attend(int64_t h, int64_t count) {
    A *pre_h = pre + h * stride, *alpha_h = alpha + h * stride;
    V products = {};
    for (int64_t c = h * wide; c < (h + 1) * wide; c += kLanesHere) products += load(a_src + c) * load(own + c);
    const A source = sum_lanes(products), prior = b[h];
    V most = V{} - static_cast<A>(INFINITY);
    for (int64_t k = count; k < stride; ++k) pre_h[k] = -INFINITY;
    for (int64_t k = 0; k < stride; k += kLanesHere) {
      const V argument = load(pre_h + k) + source;
      const V score = larger(argument, argument * static_cast<A>(kLeak)) + prior * load(logs + k);
      store(pre_h + k, argument);
      store(alpha_h + k, score);
      most = larger(most, score);
    }
    const A top = largest_lane(most);
    V total = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) {
      const V e = exponential(load(alpha_h + k) - top);
      store(alpha_h + k, e);
      total += e;
    }
    const A share = 1 / sum_lanes(total);
    for (int64_t k = 0; k < stride; k += kLanesHere) store(alpha_h + k, load(alpha_h + k) * share);
  }

  // From dots to gradients of the score, in their place, and alpha after dropout; adds to the gradient of b.
  // Returns the sum of the former.
  RESEMB_INLINE A score_gradients(int64_t h, int64_t count, A* sum_b) {
    A *alpha_h = alpha + h * stride, *dots_h = dots + h * stride;
    const A *pre_h = pre + h * stride, *kept_h = kept + h * stride;
    for (int64_t k = count; k < stride; ++k) dots_h[k] = 0;
    V weighted = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) {
      if (dropout.on()) multiply(dots_h + k, kept_h + k);
      weighted += load(alpha_h + k) * load(dots_h + k);
    }
    const A mean = sum_lanes(weighted);
    V of_row = {}, of_b = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) {
      const V d = load(alpha_h + k) * (load(dots_h + k) - mean);
      of_b += d * load(logs + k);
      const V score = load(pre_h + k) > 0 ? d : d * static_cast<A>(kLeak);
      of_row += score;
      store(dots_h + k, score);
      if (dropout.on()) multiply(alpha_h + k, kept_h + k);
    }
    *sum_b += sum_lanes(of_b);
    return sum_lanes(of_row);
  }

  static RESEMB_INLINE void multiply(A* x, const A* by) { store(x, load(x) * load(by)); }

  // Dropout's factors, 0 behind the row's edges.
  __attribute__((noinline)) void draw_kept(const Row& row) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t k = row.count; k < stride; ++k) kept[h * stride + k] = 0;
    }
    for (int64_t h = 0; h < heads; h += 4) {
      for (int64_t k = 0; k < row.count; ++k) {
        double factors[4];
        dropout.factors(row.item, row.first + k, h, factors);
        for (int64_t j = 0; j < 4 && h + j < heads; ++j) {
          kept[(h + j) * stride + k] = static_cast<A>(factors[j]);
        }
      }
    }
  }

  // to: sum over the row's edges of their weights, laid out as alpha, times their central rows.
  __attribute__((noinline)) void weigh(const Row& row, const A* weights, A* to) {
    for (int64_t c = 0; row.count == 0 && c < size; ++c) to[c] = 0;
    for_chunks(row, [&](int64_t first, int64_t count) RESEMB_LAMBDA_INLINE {
      A* into = first == 0 ? to : part;
      for_head_blocks(heads, vectors, [&]<int H, int N>(int64_t h, int64_t i) RESEMB_LAMBDA_INLINE {
        const A* own_weights = weights + h * stride + first;
        const int64_t col = h * wide + i * kLanesHere, apart = stride;
        HeadBlock<A, H, N> block;
        int64_t k = 0;
        for (; k + 2 <= count; k += 2) {
          if (in_place) fetch_next(1);
          block.add_weighted(own_weights + k, apart, rows[k] + col);
          block.add_weighted(own_weights + k + 1, apart, rows[k + 1] + col);
        }
        if (k < count) block.add_weighted(own_weights + k, apart, rows[k] + col);
        block.save(into + col);
      });
      if (first == 0) return;
      for (int64_t c = 0; c < size; c += kLanesHere) store(to + c, load(to + c) + load(part + c));
    });
  }

  // Adds the residual to sum, and writes the row.
  RESEMB_INLINE void finish(const Row& row) {
    A* out = static_cast<A*>(a.rows.out) + row.i * dim;
    const A* residual = g.residual != nullptr ? table_row(g.residual, row.item, part) : nullptr;
    A* to = width == wide ? out : sum;
    for (int64_t c = 0; c < size; c += kLanesHere) {
      store(to + c, residual != nullptr ? load(sum + c) + load(residual + c) : load(sum + c));
    }
    if (width == wide) return;
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t c = 0; c < width; ++c) out[h * width + c] = sum[h * wide + c];
    }
  }

  const AttentionArgs& a;
  const GatherArgs& g;
  const int64_t dim, heads;
  const int64_t width, vectors, wide;  // of a head: columns, vectors, columns in whole vectors
  const int64_t size;                  // columns of all heads in whole vectors
  const int64_t row_bytes;
  const bool in_place;  // central rows are not copied
  const EdgeDropout dropout;
  A* free_;
  const A *a_src, *a_dst, *b;
  A *sum, *part, *own_copy, *grad_copy, *copies = nullptr;

  // Of the row at hand.
  const A *grad = nullptr, *own = nullptr;  // of own: its central row
  const A* rows[kChunk];                    // central rows of the chunk `now`
  EdgeItems now, next;                      // next: checked first edges of the next row
  int32_t rooms[2][kChunk];                 // of their items, by turns
  int64_t held = -1;    // first edge of `now` whose rows are in `rows`
  int64_t fetched = 0;  // rows of next
  int64_t stride = 0;
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
