// The attention link's row kernels, for the instruction set of the including file: all heads of a row in one
// pass over its neighbours for the scores and one for each sum.
#pragma once

#include "cpu/attention_math.h"
#include "cpu/edge_scores.h"
#include "cpu/head_blocks.h"
#include "cpu/kernels.h"
#include "cpu/neighbor_rows.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

template <class A>
class AttentionKernel : NeighborRows<A> {
  using V = Vec<A>;
  using Base = NeighborRows<A>;
  using Base::ahead, Base::copied, Base::copies, Base::dim, Base::for_chunks, Base::for_nodes, Base::g;
  using Base::heads, Base::in_place, Base::laid_out, Base::now, Base::rows, Base::size, Base::table_row;
  using Base::vectors, Base::padded, Base::width;
  static constexpr int64_t kLanesHere = kLanes<A>;

 public:
  RESEMB_INLINE explicit AttentionKernel(const AttentionArgs& args)
      : Base(args.gather, args.link.heads),
        a(args),
        room{static_cast<A*>(args.scratch)},
        edges(args.link, room),
        a_src(laid_out(static_cast<const A*>(args.link.a_src), room.take(size))),
        a_dst(laid_out(static_cast<const A*>(args.link.a_dst), room.take(size))),
        sum(room.take(size)),
        part(room.take(size)),
        own_copy(room.take(size)),
        grad_copy(room.take(size)) {}

  int64_t forward(int64_t begin, int64_t end) {
    copies = room.free;
    return for_nodes(begin, end, [&](const Node& node) RESEMB_LAMBDA_INLINE {
      edges.start(node.count, copies + copied(node));
      if (!edges.take_log_weights(g.graph, node)) return false;
      if (node.count > 0) {
        if (!score<false>(node)) return false;
        edges.attend(own_products());
        edges.drop(node);
      }
      A* out = static_cast<A*>(g.out) + node.i * dim;
      A* to = width == padded ? out : sum;
      weigh(node, edges.alpha, g.residual != nullptr ? table_row(g.residual, node.item, own_copy) : nullptr,
            to);
      if (width == padded) return true;
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = 0; c < width; ++c) out[h * width + c] = sum[h * padded + c];
      }
      return true;
    });
  }

  void backward(int64_t begin, int64_t end) {
    const int64_t heads_room = edges.apart + kLanesHere;
    A *sum_src = room.take(size), *sum_dst = room.take(size), *sum_b = room.take(heads_room);
    for (int64_t c = 0; c < size; ++c) sum_src[c] = sum_dst[c] = 0;
    for (int64_t h = 0; h < heads_room; ++h) sum_b[h] = 0;
    copies = room.free;
    for_nodes(begin, end, [&](const Node& node) RESEMB_LAMBDA_INLINE {
      A* row_scores = static_cast<A*>(a.row_scores) + node.i * heads;
      if (node.count == 0) {
        for (int64_t h = 0; h < heads; ++h) row_scores[h] = 0;
        return true;
      }
      edges.start(node.count, copies + copied(node));
      edges.take_log_weights(g.graph, node);
      grad = laid_out(static_cast<const A*>(a.grad) + node.i * dim, grad_copy);
      if (!score<true>(node)) return false;
      edges.attend(own_products());
      edges.score_gradients(node, static_cast<A*>(a.edges) + a.offsets[node.i] * 2 * heads, row_scores,
                            sum_b);
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = h * padded; c < (h + 1) * padded; c += kLanesHere) {
          store(sum_src + c, load(sum_src + c) + row_scores[h] * load(own + c));
        }
      }
      weigh(node, edges.dots, nullptr, sum);
      for (int64_t c = 0; c < size; c += kLanesHere) store(sum_dst + c, load(sum_dst + c) + load(sum + c));
      return true;
    });
    A* sums = static_cast<A*>(a.sums);
    for (int64_t c = 0; c < dim; ++c) {
      sums[c] += sum_src[c / width * padded + c % width];
      sums[dim + c] += sum_dst[c / width * padded + c % width];
    }
    for (int64_t h = 0; h < heads; ++h) sums[2 * dim + h] += sum_b[h];
  }

 private:
  // pre: a_dst . C of every edge and head. dots: G . C likewise where wanted. False for a malformed row.
  template <bool WithDots>
  __attribute__((noinline)) bool score(const Node& node) {
    bool found = false;
    const bool good = for_chunks(node, [&](int64_t first, int64_t count) RESEMB_LAMBDA_INLINE {
      const int32_t *items = now.items, item = static_cast<int32_t>(node.item);
      int32_t here = 0;
      for (int64_t k = 0; k < count; ++k) here |= items[k] == item;
      found |= here != 0;
      if (edges.apart > 1) {
        multiply_rows<WithDots, false, 0>(first, count);
      } else if (vectors == 8) {
        multiply_rows<WithDots, true, 8>(first, count);
      } else {
        multiply_rows<WithDots, true, 0>(first, count);
      }
    });
    if (!good || !found) return false;
    own = table_row(g.central, node.item, own_copy);
    return true;
  }

  // N: vectors of a head, or 0 for any number.
  template <bool WithDots, bool OneHead, int N>
  __attribute__((noinline)) void multiply_rows(int64_t first, int64_t count) {
    Fetching fetching = ahead;
    const bool fetch = in_place;
    const int64_t stride = edges.apart;
    for (int64_t k = 0; k < count; k += 4) {
      if (fetch) fetching.next();
      if (fetch) fetching.next();
      A *scores = edges.pre + (first + k) * stride, *products = edges.dots + (first + k) * stride;
      if constexpr (OneHead) {
        Four<A> of_dots;
        write(scores, multiply_four<WithDots, N>(rows + k, 0, &of_dots));
        if constexpr (WithDots) write(products, of_dots);
        continue;
      }
      for (int64_t h = 0; h < heads; h += 4) {
        Four<A> of_scores[4] = {}, of_dots[4] = {};
        for (int64_t j = 0; j < 4 && h + j < heads; ++j) {
          of_scores[j] = multiply_four<WithDots, N>(rows + k, (h + j) * padded, of_dots + j);
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

  // What EdgeScores::attend asks for.
  RESEMB_INLINE auto own_products() const {
    return [this](int64_t h) RESEMB_LAMBDA_INLINE {
      const auto of_head = [&](int64_t j) RESEMB_LAMBDA_INLINE {
        V products = {};
        if (j >= heads) return products;
        for (int64_t c = j * padded; c < (j + 1) * padded; c += kLanesHere) {
          products += load(a_src + c) * load(own + c);
        }
        return products;
      };
      const V products[] = {of_head(h), of_head(h + 1), of_head(h + 2), of_head(h + 3)};
      return sum_four(products);
    };
  }

  // to: sum over the node's edges of their weights, laid out as alpha, times their central rows, and behind
  // them `last` where there is one.
  RESEMB_INLINE void weigh(const Node& node, const A* weights, const A* last, A* to) {
    for (int64_t c = 0; node.count == 0 && c < size; ++c) to[c] = last != nullptr ? last[c] : 0;
    for_chunks(node, [&](int64_t first, int64_t count) RESEMB_LAMBDA_INLINE {
      A* into = first == 0 ? to : part;
      const A* added = first + count < node.count ? nullptr : last;
      for_head_blocks(heads, vectors, [&]<int H, int N>(int64_t h, int64_t i) RESEMB_LAMBDA_INLINE {
        weigh_block<H, N>(weights + first * edges.apart + h, count, h * padded + i * kLanesHere, added, into);
      });
      if (first == 0) return;
      for (int64_t c = 0; c < size; c += kLanesHere) store(to + c, load(to + c) + load(part + c));
    });
  }
  template <int H, int N>
  __attribute__((noinline)) void weigh_block(const A* weight, int64_t count, int64_t col, const A* last,
                                             A* to) {
    Fetching fetching = ahead;
    if (!in_place) fetching.left = 0;
    const int64_t step = edges.apart;
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
  Room<A> room;
  EdgeScores<A> edges;
  const A *const a_src, *const a_dst;
  A *const sum, *const part, *const own_copy, *const grad_copy;
  const A *grad = nullptr, *own = nullptr;  // of the row at hand: its gradient, its central row
};

int64_t attend(const AttentionArgs& a, int64_t begin, int64_t end) {
  return a.gather.table == DType::f64 ? AttentionKernel<double>(a).forward(begin, end)
                                      : AttentionKernel<float>(a).forward(begin, end);
}

void attend_backward(const AttentionArgs& a, int64_t begin, int64_t end) {
  if (a.gather.table == DType::f64) {
    AttentionKernel<double>(a).backward(begin, end);
  } else {
    AttentionKernel<float>(a).backward(begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
