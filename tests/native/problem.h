// Random problems, each a function of its seed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "arrays.h"

namespace driver {

using resemb::kChunk;
constexpr int64_t kFirstNeighbor = 5;  // of the problems of long sums

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  double value() { return static_cast<double>(below(257) - 128) / 64; }  // every type holds it
  Array array(DType type, int64_t n, bool aligned) {
    Array a(type, n, aligned);
    for (int64_t i = 0; i < n; ++i) a.set(i, value());
    return a;
  }

 private:
  std::mt19937_64 engine_;
};

enum class Kind {
  small,
  long_sums,    // rows, bags, ids and neighbours with as many terms as a chunk holds, one more, and many
  many,         // enough positions and edges for several threads
  sparse,       // few ids among many items
  large_output  // written past the cache
};

struct Problem {
  Kind kind;
  int64_t items, dim, positions;
  int64_t bags = -1;     // none: a lookup
  int64_t padding = -1;  // none
  DType table, out_type;
  bool mean = false, int64_ids, int64_neighbors, aligned;
  DType weights_type;
  std::vector<int64_t> ids, indptr, neighbors, offsets;
  std::vector<double> weights, samples;
  Array central, residual, grad;

  DType acc() const { return resemb::accumulator(table); }
  // Of the link weights' gradient; there is none of weights in float16.
  DType weights_gradient() const { return resemb::accumulator(weights_type); }
  int64_t out_rows() const { return bags < 0 ? positions : bags; }
  int64_t edges() const { return static_cast<int64_t>(neighbors.size()); }

  std::string text() const {
    return "H " + std::to_string(items) + ", D " + std::to_string(dim) + ", P " + std::to_string(positions) +
           ", B " + std::to_string(bags) + ", E " + std::to_string(edges()) + ", padding " +
           std::to_string(padding) + ", table " + std::to_string(static_cast<int>(table)) + ", out " +
           std::to_string(static_cast<int>(out_type)) + (mean ? ", mean" : "") +
           (samples.empty() ? "" : ", sample weights") + ", weights " +
           std::to_string(static_cast<int>(weights_type)) + (aligned ? "" : ", unaligned");
  }
};

inline void draw_sizes(Problem& p, Random& random) {
  switch (p.kind) {
    case Kind::small:
      p.items = random.one_in(10) ? random.below(2) : 1 + random.below(60);
      p.dim = 1 + random.below(130);
      p.positions = random.below(120);
      break;
    case Kind::long_sums:
      p.items = 700, p.dim = 1 + random.below(40), p.positions = 1500;
      break;
    case Kind::many:
      p.items = 5000, p.dim = 1 + random.below(6), p.positions = 40'000;
      break;
    case Kind::sparse:
      p.items = 150'000, p.dim = 1 + random.below(3), p.positions = 1 + random.below(120);
      break;
    case Kind::large_output:
      p.items = 200, p.dim = 112, p.positions = 40'000;
      break;
  }
  if (p.items == 0) p.positions = 0;
}

inline void draw_ids(Problem& p, Random& random) {
  if (p.items > 0 && !random.one_in(3)) p.padding = random.below(p.items);
  const bool all_padding = p.padding >= 0 && random.one_in(8);
  for (int64_t i = 0; i < p.positions; ++i) {
    int64_t id = random.below(random.one_in(2) ? std::min<int64_t>(p.items, 3) : p.items);
    if (p.padding >= 0 && (all_padding || random.one_in(4))) id = p.padding;
    p.ids.push_back(id);
  }
  if (p.kind != Kind::long_sums) return;
  // Two items with just these many positions.
  const int64_t counts[] = {kChunk, kChunk + 1};
  int64_t at = 0;
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t item = p.items - 1 - i;
    std::replace(p.ids.begin(), p.ids.end(), item, int64_t{0});
    std::fill_n(p.ids.begin() + at, counts[i], item);
    at += counts[i];
  }
}

inline void add_edge(Problem& p, Random& random, int64_t neighbor) {
  p.neighbors.push_back(neighbor);
  p.weights.push_back(random.value());
}

inline void draw_graph(Problem& p, Random& random) {
  const bool no_edges = random.one_in(10), long_sums = p.kind == Kind::long_sums;
  const int64_t most = p.kind == Kind::many ? 30 : p.kind == Kind::sparse ? 2 : 8;
  const int64_t hubs[] = {600, kChunk, kChunk + 1};
  for (int64_t row = 0; row < p.items; ++row) {
    p.indptr.push_back(p.edges());
    if (no_edges || row % 5 == 4) continue;
    if (long_sums && row < 3) {
      for (int64_t n = 0; n < hubs[row]; ++n) add_edge(p, random, n + kFirstNeighbor);
      continue;
    }
    const int64_t step = std::max<int64_t>(1, p.items / (1 + random.below(most)));
    int64_t n = long_sums ? kFirstNeighbor : row % 2;  // one neighbour of all rows
    for (; n < p.items; n += 1 + random.below(2 * step)) add_edge(p, random, n);
  }
  p.indptr.push_back(p.edges());
}

inline void draw_bags(Problem& p, Random& random) {
  if (p.kind == Kind::long_sums) {
    p.offsets = {0, kChunk, 2 * kChunk + 1, p.positions};
    p.bags = 3;
  } else {
    p.bags = 1 + random.below(2 * p.positions + 2);
    for (int64_t b = 1; b < p.bags; ++b) p.offsets.push_back(random.below(p.positions + 1));
    p.offsets.push_back(0);
    std::sort(p.offsets.begin(), p.offsets.end());
    p.offsets.push_back(p.positions);
  }
  p.mean = random.one_in(3);
  if (p.mean || random.one_in(2)) return;
  for (const int64_t id : p.ids) p.samples.push_back(id == p.padding ? NAN : random.value());
}

// An output row of padding alone passes no gradient on, whatever it is.
inline void spoil_unused_gradients(Problem& p) {
  for (int64_t row = 0; row < p.out_rows(); ++row) {
    const int64_t begin = p.bags < 0 ? row : p.offsets[row], end = p.bags < 0 ? row + 1 : p.offsets[row + 1];
    if (std::count(p.ids.begin() + begin, p.ids.begin() + end, p.padding) != end - begin) continue;
    for (int64_t d = 0; d < p.dim; ++d) p.grad.set(row * p.dim + d, NAN);
  }
}

inline Problem make_problem(uint64_t seed) {
  Random random(seed);
  Problem p;
  p.kind = seed % 8 == 3    ? Kind::long_sums
           : seed % 24 == 5 ? Kind::many
           : seed % 12 == 1 ? Kind::sparse
           : seed % 48 == 6 ? Kind::large_output
                            : Kind::small;
  const bool large = p.kind == Kind::large_output;
  p.table = large ? DType::f32 : static_cast<DType>(random.below(4));
  p.out_type = p.table;
  if (!large && p.table != DType::f64 && random.one_in(3)) {
    p.out_type = random.one_in(2) ? DType::bf16 : DType::f32;
  }
  p.int64_ids = random.one_in(2);
  p.int64_neighbors = random.one_in(2);
  p.weights_type = random.one_in(3)                            ? DType::f16
                   : p.table == DType::f64 && random.one_in(2) ? DType::f64
                                                               : DType::f32;
  p.aligned = large || random.one_in(2);
  draw_sizes(p, random);
  draw_ids(p, random);
  draw_graph(p, random);
  if (!large && random.one_in(2)) draw_bags(p, random);
  p.central = random.array(p.table, p.items * p.dim, p.aligned);
  p.residual = random.array(p.table, p.items * p.dim, p.aligned);
  // Padding's residual is never read; its central row only where an edge leads there.
  if (p.padding >= 0) {
    for (int64_t d = 0; d < p.dim; ++d) p.residual.set(p.padding * p.dim + d, NAN);
  }
  p.grad = random.array(p.out_type, p.out_rows() * p.dim, p.aligned);
  spoil_unused_gradients(p);
  return p;
}

}  // namespace driver
