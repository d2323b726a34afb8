// The attention link: problems, what its operators compute, in double by plain loops, and their steps.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/attention.h"
#include "steps.h"

namespace driver {

// A problem whose rows hold their own items, its weights taken for log z. Scores are exact in float, so that
// LeakyReLU's argument has one sign in all of them.
struct Attended {
  Problem p;
  int64_t heads, seed = int64_t{1} << 40 | 17;
  double dropout = 0;
  Array a_src, a_dst, b;

  explicit Attended(uint64_t number) : p(make_problem(number)) {
    Random random(number + 1'000'003);
    std::vector<int64_t> divisors;
    for (int64_t h = 1; h <= std::min<int64_t>(p.dim, 20); ++h) {
      if (p.dim % h == 0) divisors.push_back(h);
    }
    heads = divisors[random.below(static_cast<int64_t>(divisors.size()))];
    if (random.one_in(3)) dropout = 0.25;
    for (int64_t row = 0; row < p.items; ++row) {
      const int64_t first = p.indptr[row], count = p.indptr[row + 1] - first;
      if (count > 0) p.neighbors[first + random.below(count)] = row;
    }
    const double scale = std::ldexp(1, -8);  // over the largest dim
    const auto numbers = [&](int64_t n, double by) {
      Array a(p.acc(), n, p.aligned);
      for (int64_t i = 0; i < n; ++i) a.set(i, random.value() * by);
      return a;
    };
    a_src = numbers(p.dim, scale);
    a_dst = numbers(p.dim, scale);
    b = numbers(heads, 1);
  }

  std::string text() const {
    return p.text() + ", heads " + std::to_string(heads) + (dropout > 0 ? ", dropout" : "");
  }
  resemb::Attention link() const { return {heads, a_src.data(), a_dst.data(), b.data(), dropout, &seed}; }
};

class ExpectedAttention : public Shared {
 public:
  Sums grad_a_src, grad_a_dst, grad_b;

  explicit ExpectedAttention(const Attended& a)
      : Shared(a.p), grad_a_src(a.p.dim), grad_a_dst(a.p.dim), grad_b(a.heads) {
    run(a.p, [&](int64_t id) { return embedding(a, id); }, [&](int64_t id) { add_edges(a, id); });
  }

 private:
  struct Edge {
    double slope, alpha, factor;  // of LeakyReLU; before dropout; dropout's
  };

  static std::vector<Edge> edges_of(const Attended& a, int64_t id, int64_t h) {
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
      edges.push_back({argument > 0 ? 1 : 0.2, 0, dropout.on() ? dropout.factor(id, e, h) : 1});
      scores.push_back(edges.back().slope * argument + a.b[h] * p.weights[e]);
      top = std::max(top, scores.back());
    }
    for (size_t k = 0; k < edges.size(); ++k) total += edges[k].alpha = std::exp(scores[k] - top);
    for (Edge& edge : edges) edge.alpha /= total;
    return edges;
  }

  static Sums embedding(const Attended& a, int64_t id) {
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

  void add_edges(const Attended& a, int64_t id) {
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
  Array out, central, central_by_rows, residual, samples, a_src, a_dst, b;

  bool same_bits(const AttentionResults& other) const {
    return out.same_bits(other.out) && central.same_bits(other.central) &&
           residual.same_bits(other.residual) && samples.same_bits(other.samples) &&
           a_src.same_bits(other.a_src) && a_dst.same_bits(other.a_dst) && b.same_bits(other.b) &&
           central.same_bits(central_by_rows);
  }
};

inline AttentionResults run_attention(const Attended& a, const resemb::Parallel& parallel) {
  const Problem& p = a.p;
  Inputs in(p);
  in.lookup.attention = a.link();
  const resemb::Lookup& x = in.lookup;
  const Plan made(p, in, parallel);
  const PlanView plan = made.view();
  AttentionResults r;
  r.out = Array(p.out_type, p.out_rows() * p.dim, p.aligned);
  require(resemb::lookup_forward(x, plan, r.out.data(), parallel) == -1, "a good graph is called bad");

  Array g(p.acc(), plan.unique() * p.dim, p.aligned);
  resemb::row_gradient(x, plan, p.grad.data(), g.data(), parallel);
  r.residual = Array(p.table, p.items * p.dim, p.aligned);
  resemb::write_rows(x, g.data(), plan.unique(), plan.rows(), r.residual.zero().data(), parallel);
  const resemb::TouchedEdges edges = resemb::touched_edges(x.graph, plan.rows(), plan.unique(), parallel);
  r.a_src = Array(p.acc(), p.dim, p.aligned);
  r.a_dst = Array(p.acc(), p.dim, p.aligned);
  r.b = Array(p.acc(), a.heads, p.aligned);
  const resemb::AttendedEdges attended = resemb::attention_backward(x, plan, edges, g.data(), r.a_src.data(),
                                                                    r.a_dst.data(), r.b.data(), parallel);
  r.central = Array(p.table, p.items * p.dim, p.aligned);
  const auto sum = [&](const auto& touched, resemb::AttentionSegmentArgs args) {
    Array rows(p.table, touched.size() * p.dim, p.aligned);
    args.out = rows.data();
    args.bypass_cache = true;
    resemb::sum_segments(args, touched.size(), parallel);
    r.central_by_rows =
        rows.spread({touched.data(), touched.data() + touched.size()}, p.dim, p.items * p.dim);
    args.targets = touched.data();
    args.out = r.central.zero().data();
    args.bypass_cache = false;
    resemb::sum_segments(args, touched.size(), parallel);
  };
  resemb::with_attention_columns(x, plan, edges, attended, g.data(), parallel, sum);
  if (!p.samples.empty()) {
    r.samples = Array(p.acc(), p.positions, p.aligned);
    resemb::sample_weight_gradient(x, plan, p.grad.data(), r.samples.data(), parallel);
  }
  return r;
}

inline void compare_attention(const Attended& a, const AttentionResults& r,
                              const ExpectedAttention& expected) {
  const DType acc = a.p.acc();
  require_close("attention's output", r.out, expected.out, acc, a.p.out_type);
  require_close("gradient of central", r.central, expected.grad_central, acc, a.p.table);
  require_close("gradient of residual", r.residual, expected.grad_residual, acc, a.p.table);
  require_close("gradient of a_src", r.a_src, expected.grad_a_src, acc, acc);
  require_close("gradient of a_dst", r.a_dst, expected.grad_a_dst, acc, acc);
  require_close("gradient of b", r.b, expected.grad_b, acc, acc);
  require_close("gradient of sample weights", r.samples, expected.grad_samples, acc, acc);
}

// A row without its own item, and one with a log weight that is not finite, are found before anything is
// written.
inline void check_bad_attention(Attended& a, Random& random) {
  Problem& p = a.p;
  if (p.positions == 0) return;
  const int64_t row = p.ids[random.below(p.positions)];
  const int64_t first = p.indptr[row], past = p.indptr[row + 1];
  if (row == p.padding || first == past || p.items < 2) return;
  if (random.one_in(2)) {
    std::replace(p.neighbors.begin() + first, p.neighbors.begin() + past, row, (row + 1) % p.items);
  } else {
    const double bad[] = {NAN, INFINITY, -INFINITY};
    p.weights[first + random.below(past - first)] = bad[random.below(3)];
  }
  const resemb::Parallel parallel(3, launch);
  Inputs in(p);
  in.lookup.attention = a.link();
  const Plan plan(p, in, parallel);
  Array out(p.out_type, p.out_rows() * p.dim, p.aligned);
  const Array untouched(p.out_type, p.out_rows() * p.dim, p.aligned);
  const int64_t found = resemb::lookup_forward(in.lookup, plan.view(), out.data(), parallel);
  require(found >= 0 && plan.view().rows()[found] == row, "a row unfit for attention goes unseen");
  require(out.same_bits(untouched), "written despite a bad row");
}

}  // namespace driver
