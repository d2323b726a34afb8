// The attention link: what its kernels share, on the CPU and the GPU.
//
//   alpha_uv = softmax over v in N(u) of LeakyReLU(a_src . C[u] + a_dst . C[v]) + b log z_uv
//
// for every head on its own D / heads columns. Every row that is not empty holds its own entry.
#pragma once

#include <cstdint>

#include "common/philox.h"
#include "common/types.h"

namespace resemb {

constexpr double kLeak = 0.2;  // LeakyReLU's slope below zero; at zero too

struct Attention {
  int64_t heads;        // 0: the link is another one
  const void* a_src;    // [D] acc
  const void* a_dst;    // [D] acc
  const void* b;        // [heads] acc
  double dropout;       // share of the edges dropped, below 1
  const int64_t* seed;  // of dropout; null without
};

// What backward keeps of an edge and a head.
template <class A>
struct EdgeGradient {
  A alpha;  // after dropout
  A score;  // gradient of a_src . C[u] + a_dst . C[v]
};

// The edges that dropout keeps, by Philox(seed; edge of the graph, row and head), and what the kept are
// multiplied with.
struct EdgeDropout {
  uint64_t seed = 0, below = 0;
  double scale = 1;

  EdgeDropout() = default;
  explicit RESEMB_INLINE EdgeDropout(const Attention& a)
      : seed(a.dropout > 0 ? static_cast<uint64_t>(*a.seed) : 0),
        below(static_cast<uint64_t>(a.dropout * 4294967296.0)),
        scale(1 / (1 - a.dropout)) {}

  RESEMB_INLINE bool on() const { return below > 0; }
  // Of heads 4 n to 4 n + 3, head one of them.
  RESEMB_INLINE void factors(int64_t row, int64_t edge, int64_t head, double* to) const {
    const uint64_t place = static_cast<uint64_t>(head / 4) << 32 | static_cast<uint64_t>(row);
    const Philox random(seed, static_cast<uint64_t>(edge), place);
    for (int i = 0; i < 4; ++i) to[i] = random.word[i] >= below ? scale : 0;
  }
  RESEMB_INLINE double factor(int64_t row, int64_t edge, int64_t head) const {
    double of_four[4];
    factors(row, edge, head, of_four);
    return of_four[head % 4];
  }
};

}  // namespace resemb
