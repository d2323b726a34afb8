// The numbers of a node's edges under the attention link, for the instruction set of the including file.
//
// They lie edge by edge, those of an edge head by head, `apart` of them: 1, 2, 4 or a multiple of 8, so that
// a vector holds P heads of one edge or of several.
#pragma once

#include "common/attention.h"
#include "cpu/attention_math.h"
#include "cpu/kernels.h"
#include "cpu/neighbor_rows.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

template <class A>
class EdgeScores {
  using V = Vec<A>;
  static constexpr int64_t kLanesHere = kLanes<A>;

 public:
  RESEMB_INLINE EdgeScores(const Attention& link, Room<A>& room)
      : heads(link.heads),
        apart(attention_apart(heads)),
        dropout(link),
        b_(room.take(apart < kLanesHere ? kLanesHere : apart)) {
    for (int64_t l = 0; l < kLanesHere || l < apart; ++l) {
      const int64_t h = l % apart;
      b_[l] = h < heads ? static_cast<const A*>(link.b)[h] : 0;
    }
  }

  RESEMB_INLINE void start(int64_t edges, A* memory) {
    const int64_t stride = attention_stride(edges);
    count = edges;
    past = (edges * apart + kLanesHere - 1) / kLanesHere * kLanesHere;
    logs = memory;
    pre = logs + stride;
    alpha = pre + apart * stride;
    dots = alpha + apart * stride;
    kept_ = dots + apart * stride;
  }

  // Into logs, 0 behind them; whether all are finite.
  RESEMB_INLINE bool take_log_weights(const GraphView& graph, const Node& node) {
    A* to = logs;
    with_weights(graph, node.first,
                 [&](const auto* weights) RESEMB_LAMBDA_INLINE { convert(weights, node.count, to); });
    const int64_t stride = attention_stride(node.count);
    for (int64_t k = node.count; k < stride; ++k) to[k] = 0;
    V zero = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) zero += load(to + k) - load(to + k);
    return sum_lanes(zero) == 0;
  }

  // alpha before dropout, 0 behind the node's edges. pre: a_dst . C, from here on LeakyReLU's argument.
  // own_products(h) gives a_src . C of four heads from h on of the row's own item.
  template <class F>
  RESEMB_INLINE void attend(const F& own_products) {
    for_heads_of_a_vector([&]<int P>() RESEMB_LAMBDA_INLINE { attend_by<P>(own_products); });
  }

  // dots: G . C, from here on the gradients of the scores; alpha after dropout. Writes both to `edges`,
  // [count, 2, heads], and the former's sums to row_scores; adds to the gradient of b, [apart + lanes].
  RESEMB_INLINE void score_gradients(const Node& node, A* edges, A* row_scores, A* sum_b) {
    if (dropout.on()) draw_kept(node);
    for_heads_of_a_vector([&]<int P>() RESEMB_LAMBDA_INLINE {
      score_gradients_by<P>(row_scores, sum_b);
      write_edges<P>(edges);
    });
  }

  // Applies dropout to alpha.
  RESEMB_INLINE void drop(const Node& node) {
    if (!dropout.on()) return;
    draw_kept(node);
    for (int64_t u = 0; u < past; u += kLanesHere) multiply(alpha + u, kept_ + u);
  }

  const int64_t heads, apart;
  const EdgeDropout dropout;
  int64_t count = 0, past = 0;  // edges; their numbers, up to a whole vector
  A *logs = nullptr, *pre = nullptr, *alpha = nullptr, *dots = nullptr;

 private:
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

  template <int P, class F>
  RESEMB_INLINE void attend_by(const F& own_products) {
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
      const V prior = load(b_ + h);
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

  template <int P>
  RESEMB_INLINE void score_gradients_by(A* row_scores, A* sum_b) {
    constexpr int64_t edges = kLanesHere / P;
    const int64_t step = apart < kLanesHere ? kLanesHere : apart;
    const bool drop = dropout.on();
    for (int64_t u = count * apart; u < past; ++u) dots[u] = 0;
    for (int64_t h = 0; h < apart; h += P) {
      V weighted = {};
      for (int64_t u = h; u < past; u += step) {
        if (drop) multiply(dots + u, kept_ + u);
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
        if (drop) multiply(alpha + u, kept_ + u);
      }
      store(sum_b + h, load(sum_b + h) + fold_sum<P>(of_b));
      A scores[kLanesHere];
      store(scores, fold_sum<P>(of_row));
      for (int64_t j = 0; j < P && h + j < heads; ++j) row_scores[h + j] = scores[j];
    }
  }
  template <int P>
  RESEMB_INLINE void write_edges(A* to) const {
    for (int64_t k = 0; k < count; ++k, to += 2 * heads) {
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
  __attribute__((noinline)) void draw_kept(const Node& node) {
    for (int64_t u = 0; u < past; ++u) kept_[u] = 0;
    for (int64_t k = 0; k < node.count; ++k) {
      for (int64_t h = 0; h < heads; h += 4) {
        double factors[4];
        dropout.factors(node.item, node.first + k, h, factors);
        for (int64_t j = 0; j < 4 && h + j < heads; ++j)
          kept_[k * apart + h + j] = static_cast<A>(factors[j]);
      }
    }
  }

  A* const b_;         // of the heads in a vector, or of all
  A* kept_ = nullptr;  // dropout's factors
};

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
