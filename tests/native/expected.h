// What the operators compute, in double by plain loops, and the comparison with what they found.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "problem.h"

namespace driver {

// Sums, each beside the sum of the sizes of its terms.
struct Sums {
  std::vector<double> value, size;
  explicit Sums(int64_t n = 0) : value(n), size(n) {}
  void add(int64_t i, double x, double x_size) {
    value[i] += x;
    size[i] += x_size;
  }
};

// The output row of a position and the factor of its embedding there.
inline std::pair<int64_t, double> place(const Problem& p, int64_t position) {
  if (p.bags < 0) return {position, 1};
  const int64_t bag =
      std::upper_bound(p.offsets.begin(), p.offsets.end() - 1, position) - p.offsets.begin() - 1;
  if (!p.samples.empty()) return {bag, p.samples[position]};
  if (!p.mean) return {bag, 1};
  const auto begin = p.ids.begin() + p.offsets[bag], end = p.ids.begin() + p.offsets[bag + 1];
  return {bag, 1.0 / static_cast<double>(end - begin - std::count(begin, end, p.padding))};
}

// The lookup and its gradients, the link given by row_of and edges_of: row_of(id) is the embedding of an
// item, edges_of(id) adds the gradients that its row's edges pass on, once grad_residual has the row's.
struct Shared {
  Sums out, grad_central, grad_residual, grad_samples;

  explicit Shared(const Problem& p)
      : out(p.out_rows() * p.dim),
        grad_central(p.items * p.dim),
        grad_residual(p.items * p.dim),
        grad_samples(p.samples.empty() ? 0 : p.positions) {}

  template <class RowOf, class EdgesOf>
  void run(const Problem& p, const RowOf& row_of, const EdgesOf& edges_of) {
    std::map<int64_t, Sums> rows;
    for (int64_t position = 0; position < p.positions; ++position) {
      const int64_t id = p.ids[position];
      if (id == p.padding) continue;
      const auto [row, fresh] = rows.try_emplace(id);
      if (fresh) row->second = row_of(id);
      add_position(p, position, row->second);
    }
    for (const auto& [id, row] : rows) edges_of(id);
  }

  void add_position(const Problem& p, int64_t position, const Sums& row) {
    const auto [target, factor] = place(p, position);
    for (int64_t d = 0; d < p.dim; ++d) {
      const double upstream = p.grad[target * p.dim + d], size = std::fabs(upstream);
      out.add(target * p.dim + d, factor * row.value[d], std::fabs(factor) * row.size[d]);
      grad_residual.add(p.ids[position] * p.dim + d, factor * upstream, std::fabs(factor) * size);
      if (!p.samples.empty()) grad_samples.add(position, upstream * row.value[d], size * row.size[d]);
    }
  }
};

class Expected : public Shared {
 public:
  Sums grad_weights;

  explicit Expected(const Problem& p) : Shared(p), grad_weights(p.edges()) {
    run(p, [&](int64_t id) { return embedding(p, id); }, [&](int64_t id) { add_edges(p, id); });
  }

 private:
  static Sums embedding(const Problem& p, int64_t id) {
    Sums row(p.dim);
    for (int64_t d = 0; d < p.dim; ++d) {
      const auto add = [&](double x) { row.add(d, x, std::fabs(x)); };
      for (int64_t e = p.indptr[id]; e < p.indptr[id + 1]; ++e) {
        add(p.weights[e] * p.central[p.neighbors[e] * p.dim + d]);
      }
      add(p.residual[id * p.dim + d]);
    }
    return row;
  }

  void add_edges(const Problem& p, int64_t id) {
    for (int64_t d = 0; d < p.dim; ++d) {
      const double g = grad_residual.value[id * p.dim + d], size = grad_residual.size[id * p.dim + d];
      for (int64_t e = p.indptr[id]; e < p.indptr[id + 1]; ++e) {
        const int64_t at = p.neighbors[e] * p.dim + d;
        grad_central.add(at, p.weights[e] * g, std::fabs(p.weights[e]) * size);
        grad_weights.add(e, p.central[at] * g, std::fabs(p.central[at]) * size);
      }
    }
  }
};

inline void require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

// `found` holds `type`, from sums in `acc`.
inline void require_close(const char* name, const Array& found, const Sums& expected, DType acc, DType type) {
  require(found.size() == static_cast<int64_t>(expected.value.size()), "an array of another size");
  // At most two sums follow one another, each over chunks of kChunk terms and over fewer chunks than that;
  // then one rounding to the type, whose step is absolute among half's subnormals.
  const double relative = 4 * resemb::kChunk * unit_roundoff(acc) + unit_roundoff(type);
  const double absolute = type == DType::f16 ? 0x1p-25 : 0;
  for (int64_t i = 0; i < found.size(); ++i) {
    if (std::fabs(found[i] - expected.value[i]) <= relative * expected.size[i] + absolute) continue;
    throw std::runtime_error(std::string(name) + "[" + std::to_string(i) + "] is " +
                             std::to_string(found[i]) + ", expected " + std::to_string(expected.value[i]));
  }
}

}  // namespace driver
