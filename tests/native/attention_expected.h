// The attention link's lookup and gradients, in double by plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/attention.h"
#include "expected.h"

namespace driver {

// A problem whose weights are log z, and the link's parameters. Every row that is not empty holds its item.
struct AttentionProblem {
  Problem p;
  int64_t heads;
  Array a_src, a_dst, b;
  double dropout;
  int64_t seed;

  int64_t width() const { return p.dim / heads; }
  std::string text() const {
    return p.text() + ", heads " + std::to_string(heads) + (dropout > 0 ? ", dropout" : "");
  }
  resemb::Attention link() const {
    return {heads, a_src.data(), a_dst.data(), b.data(), dropout, dropout > 0 ? &seed : nullptr};
  }
};

inline void add_own_items(Problem& p) {
  std::vector<int64_t> indptr{0}, neighbors;
  for (int64_t row = 0; row < p.items; ++row) {
    std::vector<int64_t> items(p.neighbors.begin() + p.indptr[row], p.neighbors.begin() + p.indptr[row + 1]);
    const auto at = std::lower_bound(items.begin(), items.end(), row);
    if (!items.empty() && (at == items.end() || *at != row)) items.insert(at, row);
    if (static_cast<int64_t>(items.size()) == kChunk + 1) items.pop_back();  // just a chunk
    neighbors.insert(neighbors.end(), items.begin(), items.end());
    indptr.push_back(static_cast<int64_t>(neighbors.size()));
  }
  p.indptr = indptr;
  p.neighbors = neighbors;
}

inline AttentionProblem make_attention_problem(uint64_t seed) {
  AttentionProblem a{make_problem(seed), 1, {}, {}, {}, 0, static_cast<int64_t>(seed * 77 + 5)};
  Problem& p = a.p;
  Random random(seed + 1000);
  add_own_items(p);
  p.weights.clear();
  for (int64_t e = 0; e < p.edges(); ++e) p.weights.push_back(random.value() / 4);
  std::vector<int64_t> divisors;
  for (int64_t h = 1; h <= 12; ++h) {
    if (p.dim % h == 0) divisors.push_back(h);
  }
  if (!random.one_in(3)) a.heads = divisors[random.below(static_cast<int64_t>(divisors.size()))];
  const auto small = [&](int64_t n) {
    Array values(p.acc(), n, p.aligned);
    for (int64_t i = 0; i < n; ++i) values.set(i, random.value() / 16);
    return values;
  };
  a.a_src = small(p.dim);
  a.a_dst = small(p.dim);
  a.b = small(a.heads);
  if (random.one_in(3)) a.dropout = 0.4;
  return a;
}

class ExpectedAttention : public Shared {
 public:
  Sums grad_a_src, grad_a_dst, grad_b;

  explicit ExpectedAttention(const AttentionProblem& a)
      : Shared(a.p), grad_a_src(a.p.dim), grad_a_dst(a.p.dim), grad_b(a.heads) {
    run(a.p, [&](int64_t id) { return embedding(a, id); }, [&](int64_t id) { add_edges(a, id); });
  }

 private:
  struct Edge {
    double slope, alpha, factor;  // of LeakyReLU; before dropout; dropout's
  };

  static std::vector<Edge> edges_of(const AttentionProblem& a, int64_t id, int64_t h) {
    const Problem& p = a.p;
    const int64_t width = p.dim / a.heads;
    const resemb::EdgeDropout dropout(a.link());
    std::vector<Edge> edges;
    std::vector<double> scores;
    double top = -INFINITY, total = 0;
    for (int64_t e = p.indptr[id]; e < p.indptr[id + 1]; ++e) {
      double argument = 0;
      for (int64_t d = h * width; d < (h + 1) * width; ++d) {
        argument +=
            a.a_src[d] * p.central[id * p.dim + d] + a.a_dst[d] * p.central[p.neighbors[e] * p.dim + d];
      }
      edges.push_back({argument > 0 ? 1 : resemb::kLeak, 0, dropout.on() ? dropout.factor(id, e, h) : 1});
      scores.push_back(edges.back().slope * argument + a.b[h] * p.weights[e]);
      top = std::max(top, scores.back());
    }
    for (size_t k = 0; k < edges.size(); ++k) total += edges[k].alpha = std::exp(scores[k] - top);
    for (Edge& edge : edges) edge.alpha /= total;
    return edges;
  }

  static Sums embedding(const AttentionProblem& a, int64_t id) {
    const Problem& p = a.p;
    const int64_t width = p.dim / a.heads;
    Sums row(p.dim);
    for (int64_t h = 0; h < a.heads; ++h) {
      const std::vector<Edge> edges = edges_of(a, id, h);
      for (int64_t d = h * width; d < (h + 1) * width; ++d) {
        const auto add = [&](double x) { row.add(d, x, std::fabs(x)); };
        for (size_t k = 0; k < edges.size(); ++k) {
          add(edges[k].alpha * edges[k].factor * p.central[p.neighbors[p.indptr[id] + k] * p.dim + d]);
        }
        add(p.residual[id * p.dim + d]);
      }
    }
    return row;
  }

  void add_edges(const AttentionProblem& a, int64_t id) {
    const Problem& p = a.p;
    const int64_t width = p.dim / a.heads, first = p.indptr[id];
    for (int64_t h = 0; h < a.heads; ++h) {
      const std::vector<Edge> edges = edges_of(a, id, h);
      Sums dots(static_cast<int64_t>(edges.size()));
      double mean = 0, mean_size = 0;
      for (size_t k = 0; k < edges.size(); ++k) {
        const int64_t neighbor = p.neighbors[first + k] * p.dim;
        for (int64_t d = h * width; d < (h + 1) * width; ++d) {
          const double c = p.central[neighbor + d] * edges[k].factor;
          dots.add(k, grad_residual.value[id * p.dim + d] * c,
                   grad_residual.size[id * p.dim + d] * std::fabs(c));
        }
        mean += edges[k].alpha * dots.value[k];
        mean_size += edges[k].alpha * dots.size[k];
      }
      for (size_t k = 0; k < edges.size(); ++k) {
        const int64_t neighbor = p.neighbors[first + k] * p.dim;
        const double d_score = edges[k].alpha * (dots.value[k] - mean);
        const double size = edges[k].alpha * (dots.size[k] + mean_size);
        const double score = edges[k].slope * d_score, log = p.weights[first + k];
        grad_b.add(h, d_score * log, size * std::fabs(log));
        for (int64_t d = h * width; d < (h + 1) * width; ++d) {
          const auto add = [&](Sums& to, int64_t at, double by) {
            to.add(at, score * by, size * std::fabs(by));
          };
          add(grad_a_src, d, p.central[id * p.dim + d]);
          add(grad_a_dst, d, p.central[neighbor + d]);
          add(grad_central, neighbor + d, a.a_dst[d]);
          add(grad_central, id * p.dim + d, a.a_src[d]);
          const double alpha = edges[k].alpha * edges[k].factor;
          grad_central.add(neighbor + d, alpha * grad_residual.value[id * p.dim + d],
                           alpha * grad_residual.size[id * p.dim + d]);
        }
      }
    }
  }
};

struct AttentionResults {
  Array out, central, central_by_rows, residual, a_src, a_dst, b, samples;

  bool same_bits(const AttentionResults& other) const {
    const auto all = [](const AttentionResults& r) {
      return std::vector<const Array*>{&r.out,   &r.central, &r.central_by_rows, &r.residual, &r.a_src,
                                       &r.a_dst, &r.b,       &r.samples};
    };
    for (size_t i = 0; i < all(*this).size(); ++i) {
      if (!all(*this)[i]->same_bits(*all(other)[i])) return false;
    }
    return true;
  }
};

inline void compare_attention(const AttentionProblem& a, const AttentionResults& r,
                              const ExpectedAttention& expected) {
  const DType acc = a.p.acc();
  require_close("output", r.out, expected.out, acc, a.p.out_type);
  require_close("gradient of central", r.central, expected.grad_central, acc, a.p.table);
  require_close("gradient of residual", r.residual, expected.grad_residual, acc, a.p.table);
  require_close("gradient of a_src", r.a_src, expected.grad_a_src, acc, acc);
  require_close("gradient of a_dst", r.a_dst, expected.grad_a_dst, acc, acc);
  require_close("gradient of b", r.b, expected.grad_b, acc, acc);
  require_close("gradient of sample weights", r.samples, expected.grad_samples, acc, acc);
  require(r.central.same_bits(r.central_by_rows), "rows differ from the whole table");
}

}  // namespace driver
