// The attention link's lookup and gradients, in double by plain loops.
#pragma once

#include <numeric>

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

class AttentionExpected {
 public:
  Sums out, central, residual, a_src, a_dst, b, samples;

  explicit AttentionExpected(const AttentionProblem& problem)
      : out(problem.p.out_rows() * problem.p.dim),
        central(problem.p.items * problem.p.dim),
        residual(problem.p.items * problem.p.dim),
        a_src(problem.p.dim),
        a_dst(problem.p.dim),
        b(problem.heads),
        samples(problem.p.samples.empty() ? 0 : problem.p.positions),
        a(problem),
        p(problem.p) {
    for (int64_t i = 0; i < p.positions; ++i) {
      if (p.ids[i] == p.padding) continue;
      const auto [target, factor] = place(p, i);
      for (int64_t d = 0; d < p.dim; ++d) {
        const double g = factor * p.grad[target * p.dim + d];
        residual.add(p.ids[i] * p.dim + d, g, std::fabs(g));
      }
    }
    std::map<int64_t, Sums> rows;
    for (int64_t i = 0; i < p.positions; ++i) {
      if (p.ids[i] == p.padding) continue;
      const auto [row, fresh] = rows.try_emplace(p.ids[i], p.dim);
      if (fresh) {
        for (int64_t h = 0; h < a.heads; ++h) attend(p.ids[i], h, row->second);
      }
      const auto [target, factor] = place(p, i);
      for (int64_t d = 0; d < p.dim; ++d) {
        const double g = p.grad[target * p.dim + d];
        const Sums& e = row->second;
        out.add(target * p.dim + d, factor * e.value[d], std::fabs(factor) * e.size[d]);
        if (!p.samples.empty()) samples.add(i, g * e.value[d], std::fabs(g) * e.size[d]);
      }
    }
  }

 private:
  const AttentionProblem& a;
  const Problem& p;

  // E of a row and head; the gradients that its G gives.
  void attend(int64_t id, int64_t h, Sums& row) {
    const int64_t first = p.indptr[id], count = p.indptr[id + 1] - first, from = h * a.width();
    const resemb::EdgeDropout dropout(a.link());
    std::vector<double> argument(count), alpha(count), kept(count, 1), dots(count), sizes(count);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t v = p.neighbors[first + k];
      for (int64_t d = from; d < from + a.width(); ++d) {
        const double c = p.central[v * p.dim + d], g = residual.value[id * p.dim + d];
        argument[k] += a.a_src[d] * p.central[id * p.dim + d] + a.a_dst[d] * c;
        dots[k] += g * c;
        sizes[k] += residual.size[id * p.dim + d] * std::fabs(c);
      }
      const double score = argument[k] > 0 ? argument[k] : resemb::kLeak * argument[k];
      alpha[k] = std::exp(score + a.b[h] * p.weights[first + k]);
      if (dropout.on()) kept[k] = dropout.factor(id, first + k, h);
    }
    const double total = std::accumulate(alpha.begin(), alpha.end(), 0.0);
    double mean = 0, mean_size = 0;
    for (int64_t k = 0; k < count; ++k) {
      alpha[k] /= total;
      mean += alpha[k] * dots[k] * kept[k];
      mean_size += alpha[k] * sizes[k] * kept[k];
    }
    for (int64_t d = from; d < from + a.width(); ++d) {
      const double r = p.residual[id * p.dim + d];
      row.add(d, r, std::fabs(r));
    }
    for (int64_t k = 0; k < count; ++k) {
      const int64_t v = p.neighbors[first + k];
      const double change = alpha[k] * (dots[k] * kept[k] - mean);
      const double size = alpha[k] * (sizes[k] * kept[k] + mean_size);
      const double leak = argument[k] > 0 ? 1 : resemb::kLeak, score = leak * change;
      b.add(h, change * p.weights[first + k], size * std::fabs(p.weights[first + k]));
      for (int64_t d = from; d < from + a.width(); ++d) {
        const auto add = [&](Sums& to, int64_t at, double factor) {
          to.add(at, score * factor, size * std::fabs(factor));
        };
        const double own = p.central[id * p.dim + d], c = p.central[v * p.dim + d];
        const double share = alpha[k] * kept[k];
        row.add(d, share * c, share * std::fabs(c));
        add(a_src, d, own);
        add(a_dst, d, c);
        add(central, id * p.dim + d, a.a_src[d]);
        add(central, v * p.dim + d, a.a_dst[d]);
        central.add(v * p.dim + d, share * residual.value[id * p.dim + d],
                    share * residual.size[id * p.dim + d]);
      }
    }
  }
};

}  // namespace driver
