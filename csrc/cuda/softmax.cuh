// The attention link's softmax over the listed edges of an id, and its gradient.
#pragma once

#include "cuda/attention.h"
#include "cuda/runtime.cuh"

namespace resemb::cuda {

// Threads that share the softmax of an id: a warp, or a block for one of over kChunk edges.
struct WarpTeam {
  static constexpr int kSize = 32;
  int own = static_cast<int>(threadIdx.x) % 32;

  template <class A, class Join>
  __device__ __forceinline__ A join(A value, const Join& both) const {
    for (int bit = 16; bit > 0; bit /= 2) value = both(value, __shfl_xor_sync(kAllLanes, value, bit));
    return value;
  }
};
struct BlockTeam {
  static constexpr int kSize = kThreads;
  int own = static_cast<int>(threadIdx.x);

  template <class A, class Join>
  __device__ __forceinline__ A join(A value, const Join& both) const {
    __shared__ A of_warp[kWarps];
    value = WarpTeam{}.join(value, both);
    __syncthreads();  // of_warp may still be read
    if (own % 32 == 0) of_warp[own / 32] = value;
    __syncthreads();
    value = of_warp[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) value = both(value, of_warp[w]);
    return value;
  }
};
struct Plus {
  template <class A>
  __device__ __forceinline__ A operator()(A x, A y) const {
    return x + y;
  }
};
struct Larger {
  template <class A>
  __device__ __forceinline__ A operator()(A x, A y) const {
    return x > y ? x : y;
  }
};

template <class A>
struct Softmax {
  Count unique;
  const uint32_t *ids, *starts, *column;
  const int64_t* row_first;  // [U] the graph's number of the id's first edge
  const A* logs;             // [T] log z
  int64_t num_items;
  Attention link;
  Fault* fault;
  const A* own;  // [U, heads] a_src . C[u]
  A* argument;   // [T, heads] a_dst . C[v], then LeakyReLU's argument
  A* alpha;      // [T, heads] out: after dropout
  // Of backward; else null.
  A* dots;        // [T, heads] G[u] . C[v], then the gradient of the argument
  A* row_scores;  // [U, heads] their sums
  A* prior;       // [U, heads] the id's part of the gradient of b
  uint32_t *long_count, *long_ids;
  int64_t most_long;

  // Asked of the rows: where they have no edges, `dots` is null too.
  __device__ bool differentiates() const { return row_scores != nullptr; }

  // Whether all log z of the id are finite and it is itself among its neighbours.
  template <class Team>
  __device__ bool usable(const Team& team, int64_t u, int64_t first, int64_t past, int64_t edge) const {
    int finite = 1, found = 0;
    for (int64_t t = first + team.own; t < past; t += Team::kSize) {
      if (!(logs[t] - logs[t] == 0)) finite = 0;
      if (column[t] == ids[u]) found = 1;
    }
    const int all_finite = 1 - team.join(1 - finite, Larger());
    found = team.join(found, Larger());
    if (past > first && team.own == 0) {
      if (!all_finite) {
        report(fault, Wrong::log_weights, ids[u], edge, num_items);
      } else if (!found) {
        report(fault, Wrong::no_self, ids[u], edge, num_items);
      }
    }
    return all_finite && found;
  }

  // Every thread of the team must take part. An id that cannot be used has shares of 0.
  template <class Team>
  __device__ void attend(const Team& team, const EdgeDropout& dropout, int64_t u) const {
    const int64_t first = starts[u], past = starts[u + 1], heads = link.heads;
    const int64_t edge = row_first[u];
    const bool good = usable(team, u, first, past, edge);
    for (int64_t h = 0; h < heads; ++h) {
      const A source = own[u * heads + h], b = static_cast<const A*>(link.b)[h];
      // A thread comes back to numbers that it has written itself.
      A top = -INFINITY;
      for (int64_t t = first + team.own; t < past; t += Team::kSize) {
        const int64_t i = t * heads + h;
        const A x = argument[i] + source, leaked = x * static_cast<A>(kLeak);
        A score = (x > leaked ? x : leaked) + b * logs[t];
        if (column[t] >= num_items) score = -INFINITY;
        argument[i] = x;
        alpha[i] = score;
        top = top > score ? top : score;
      }
      top = team.join(top, Larger());
      A total = 0;
      for (int64_t t = first + team.own; t < past; t += Team::kSize) {
        const int64_t i = t * heads + h;
        const A e = good ? exp(alpha[i] - top) : A{0};
        alpha[i] = e;
        total += e;
      }
      total = team.join(total, Plus());
      const A share = good ? 1 / total : A{0};
      A mean = 0;
      for (int64_t t = first + team.own; t < past; t += Team::kSize) {
        const int64_t i = t * heads + h;
        const A kept = factor(dropout, u, edge + t - first, h);
        const A own_share = alpha[i] * share;
        alpha[i] = differentiates() ? own_share : own_share * kept;
        if (!differentiates()) continue;
        dots[i] *= kept;  // from here on the gradient of alpha before dropout
        mean += own_share * dots[i];
      }
      if (differentiates()) differentiate(team, dropout, u, first, past, edge, h, team.join(mean, Plus()));
    }
  }

 private:
  __device__ __forceinline__ A factor(const EdgeDropout& dropout, int64_t u, int64_t edge, int64_t h) const {
    return dropout.on() ? static_cast<A>(dropout.factor(ids[u], edge, h)) : A{1};
  }

  template <class Team>
  __device__ void differentiate(const Team& team, const EdgeDropout& dropout, int64_t u, int64_t first,
                                int64_t past, int64_t edge, int64_t h, A mean) const {
    A of_row = 0, of_prior = 0;
    for (int64_t t = first + team.own; t < past; t += Team::kSize) {
      const int64_t i = t * link.heads + h;
      const A d = alpha[i] * (dots[i] - mean);
      const A score = argument[i] > 0 ? d : d * static_cast<A>(kLeak);
      if (d != 0) of_prior += d * logs[t];
      of_row += score;
      dots[i] = score;
      alpha[i] *= factor(dropout, u, edge + t - first, h);
    }
    of_row = team.join(of_row, Plus());
    of_prior = team.join(of_prior, Plus());
    if (team.own == 0) {
      row_scores[u * link.heads + h] = of_row;
      prior[u * link.heads + h] = of_prior;
    }
  }
};

template <class A>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) softmax_ids(Softmax<A> x) {
  const WarpTeam team;
  const EdgeDropout dropout(x.link);
  const int64_t n = x.unique.get();
  for (int64_t u = first_thread() / 32; u < n; u += all_threads() / 32) {
    if (x.starts[u + 1] - x.starts[u] <= kChunk) {
      x.attend(team, dropout, u);
    } else if (team.own == 0) {
      const uint32_t at = atomicAdd(x.long_count, 1u);
      if (at < x.most_long) {
        x.long_ids[at] = static_cast<uint32_t>(u);
      } else {
        report(x.fault, Wrong::stale_graph, u, at, x.most_long);
      }
    }
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) softmax_long_ids(Softmax<A> x) {
  const BlockTeam team;
  const EdgeDropout dropout(x.link);
  const int64_t n = Count{x.long_count, x.most_long}.get();
  for (int64_t i = blockIdx.x; i < n; i += gridDim.x) x.attend(team, dropout, x.long_ids[i]);
}

static __global__ void clear_count(uint32_t* count) {
  if (first_thread() == 0) *count = 0;
}

}  // namespace resemb::cuda
