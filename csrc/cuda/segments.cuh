// Weighted sums of rows, one for each segment of a list of terms.
//
// A group of up to 32 lanes takes a segment, each lane some columns. Segments over kChunk terms are listed
// and summed chunk by chunk by as many groups, then a block adds up a segment's chunks in a fixed order: work
// is balanced, and bits depend on D alone. The order of the list does depend on chance; no sum does.
#pragma once

#include "cuda/edges.cuh"

namespace resemb::cuda {

// The lanes that share a row: `size` of them, a power of two.
struct Lanes {
  int size, lane;
  unsigned mask;  // within the warp

  __device__ __forceinline__ explicit Lanes(int size_in)
      : size(size_in),
        lane(static_cast<int>(threadIdx.x) % size_in),
        mask((size_in == 32 ? kAllLanes : (1u << size_in) - 1)
             << (static_cast<int>(threadIdx.x) % 32 / size_in * size_in)) {}

  template <class A>
  __device__ __forceinline__ A sum(A value) const {
    for (int bit = size / 2; bit > 0; bit /= 2) value += __shfl_xor_sync(mask, value, bit);
    return value;
  }
  __device__ __forceinline__ uint32_t largest(uint32_t value) const {
    for (int bit = size / 2; bit > 0; bit /= 2) {
      const uint32_t other = __shfl_xor_sync(mask, value, bit);
      if (other > value) value = other;
    }
    return value;
  }
};

inline int lanes_for(int64_t dim, int columns_a_lane) {
  int size = 1;
  while (size < 32 && static_cast<int64_t>(size) * columns_a_lane < dim) size *= 2;
  return size;
}

__device__ __forceinline__ int64_t first_group(int lanes) { return first_thread() / lanes; }
__device__ __forceinline__ int64_t all_groups(int lanes) { return all_threads() / lanes; }

template <class A, int N>
__device__ __forceinline__ void add_scaled(A (&sum)[N], A weight, const A (&row)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) sum[j] += weight * row[j];
}

// sum[] += terms first .. past - 1, in order, at columns col .. col + N - 1.
template <class S, int N, class Terms>
__device__ __forceinline__ void add_terms(const Terms& terms, const S* source, int64_t dim, int64_t col,
                                          int64_t first, int64_t past, Acc<S> (&sum)[N]) {
  using A = Acc<S>;
  constexpr int kInFlight = 4;
  int64_t t = first;
  for (; t + kInFlight <= past; t += kInFlight) {
    Edge<A> term[kInFlight];
    Raw<S, N> row[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) term[k] = terms.term(t + k, col);
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      row[k].load(source + static_cast<int64_t>(term[k].source) * dim + col);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      A numbers[N];
      row[k].upcast(numbers);
      add_scaled(sum, term[k].weight, numbers);
    }
  }
  for (; t < past; ++t) {
    const Edge<A> term = terms.term(t, col);
    A row[N];
    load_upcast<N>(source + static_cast<int64_t>(term.source) * dim + col, row);
    add_scaled(sum, term.weight, row);
  }
}

// Segments over kChunk terms and their chunks, listed as they are met.
struct LongSegment {
  uint32_t segment, first_chunk, chunks;
};
struct ChunkOf {
  uint32_t segment, number;
};
struct LongSums {
  uint32_t* counts;  // [2] segments, chunks
  LongSegment* segments;
  ChunkOf* chunks;
  void* partial;  // [chunks, D] acc
  int64_t most_segments, most_chunks;
  Fault* fault;

  __device__ inline void add(int64_t segment, int64_t terms) const {
    const uint32_t n = static_cast<uint32_t>((terms + kChunk - 1) / kChunk);
    const uint32_t at = atomicAdd(&counts[0], 1u), first = atomicAdd(&counts[1], n);
    if (at >= most_segments || first + static_cast<int64_t>(n) > most_chunks) {
      report(fault, Wrong::stale_graph, terms, segment, most_chunks);
      if (at < most_segments) segments[at] = {static_cast<uint32_t>(segment), 0, 0};
      for (int64_t k = first; k < most_chunks && k < first + static_cast<int64_t>(n); ++k) chunks[k] = {0, 0};
      return;
    }
    segments[at] = {static_cast<uint32_t>(segment), first, n};
    for (uint32_t k = 0; k < n; ++k) chunks[first + k] = {static_cast<uint32_t>(segment), k};
  }
};

// A finish that may have to look at all of a row's columns before it stores them.
template <class Finish>
concept Looks = requires { typename Finish::Totals; };

// Hands the columns of a row to `finish`, where `active`; sum_at(col, sum) adds their sums to `sum`. Those
// that the lanes hold at once are made once.
template <class A, int N, class Finish, class SumAt>
__device__ __forceinline__ void finish_row(const Finish& finish, typename Finish::Row& row, int64_t dim,
                                           const Lanes& lanes, bool active, const SumAt& sum_at) {
  A sum[N];
  const auto make = [&](int64_t col) {
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] = 0;
    sum_at(col, sum);
  };
  const int64_t width = lanes.size * N;
  bool made = false;
  if constexpr (Looks<Finish>) {
    if (finish.looks()) {
      typename Finish::Totals totals{};
      for (int64_t col = lanes.lane * N, base = 0; base < dim; base += width, col += width) {
        make(col);
        if (active && col < dim) finish.look(row, totals, col, sum);
      }
      if (active) finish.settle(row, totals, lanes);
      made = dim <= width;
    }
  }
  for (int64_t col = lanes.lane * N, base = 0; base < dim; base += width, col += width) {
    if (!made) make(col);
    if (active && col < dim) finish.store(row, col, sum);
  }
}

template <class S, int N, class Terms, class Finish>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    sum_short(Terms terms, const S* source, int64_t dim, int lane_count, Finish finish, LongSums longs) {
  const Lanes lanes(lane_count);
  const int64_t count = terms.count.get();
  const auto all = finish.common();
  for (int64_t s = first_group(lane_count); s < count; s += all_groups(lane_count)) {
    const Range range = terms.range(s);
    if (range.past - range.first > kChunk) {
      if (lanes.lane == 0) longs.add(s, range.past - range.first);
      continue;
    }
    typename Finish::Row row = finish.begin(s, lanes, all);
    finish_row<Acc<S>, N>(finish, row, dim, lanes, true, [&](int64_t col, Acc<S>(&sum)[N]) {
      if (col < dim) add_terms<S, N>(terms, source, dim, col, range.first, range.past, sum);
    });
  }
}

template <class S, int N, class Terms>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    sum_chunks(Terms terms, const S* source, int64_t dim, int lane_count, LongSums longs) {
  using A = Acc<S>;
  const Lanes lanes(lane_count);
  const int64_t count = Count{&longs.counts[1], longs.most_chunks}.get();
  for (int64_t i = first_group(lane_count); i < count; i += all_groups(lane_count)) {
    const ChunkOf chunk = longs.chunks[i];
    const Range range = terms.range(chunk.segment);
    const int64_t first = range.first + chunk.number * kChunk;
    const int64_t past = first + kChunk < range.past ? first + kChunk : range.past;
    for (int64_t col = lanes.lane * N; col < dim; col += lanes.size * N) {
      A sum[N] = {};
      add_terms<S, N>(terms, source, dim, col, first, past, sum);
      store<N>(static_cast<A*>(longs.partial) + i * dim + col, sum);
    }
  }
}

// A block for a segment: each group adds every so many chunks, then the groups' sums are halved.
template <class S, int N, class Finish>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    sum_long(int64_t dim, int lane_count, Finish finish, LongSums longs) {
  using A = Acc<S>;
  __shared__ A shared[kThreads][N];
  const Lanes lanes(lane_count);
  const int group = static_cast<int>(threadIdx.x) / lane_count, groups = kThreads / lane_count;
  const int64_t count = Count{&longs.counts[0], longs.most_segments}.get();
  const A* partial = static_cast<const A*>(longs.partial);
  const auto all = finish.common();
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const LongSegment segment = longs.segments[i];
    typename Finish::Row row{};
    if (group == 0) row = finish.begin(segment.segment, lanes, all);
    finish_row<A, N>(finish, row, dim, lanes, group == 0, [&](int64_t col, A(&sum)[N]) {
      if (col < dim) {
        for (uint32_t k = group; k < segment.chunks; k += groups) {
          A row[N];
          load<N>(partial + static_cast<int64_t>(segment.first_chunk + k) * dim + col, row);
          add_scaled(sum, A{1}, row);
        }
      }
#pragma unroll
      for (int j = 0; j < N; ++j) shared[threadIdx.x][j] = sum[j];
      for (int half = groups / 2; half > 0; half /= 2) {
        __syncthreads();
        if (group >= half) continue;
#pragma unroll
        for (int j = 0; j < N; ++j) shared[threadIdx.x][j] += shared[threadIdx.x + half * lane_count][j];
      }
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] = shared[threadIdx.x][j];
      __syncthreads();  // shared is written again
    });
  }
}

static __global__ void clear_counts(uint32_t* counts) {
  if (first_thread() < 2) counts[first_thread()] = 0;
}

// Sums every segment of `terms` over `source`, and hands it to `finish`.
//   terms: count (segments), range(s), term(t, col); most_terms bounds the terms of all, longest those of one
template <class S, int N, class Terms, class Finish>
void sum_segments(const Context& c, const Terms& terms, int64_t most_terms, int64_t longest,
                  const void* source, int64_t dim, const Finish& finish) {
  const int64_t most = terms.count.limit;
  if (most == 0 || dim == 0) return;
  const int lanes = lanes_for(dim, N);
  const int64_t row_groups = kThreads / lanes;
  const S* rows = static_cast<const S*>(source);
  LongSums longs{};
  longs.fault = c.fault;
  const bool may_be_long = longest > kChunk && most_terms > kChunk;
  longs.counts = c.memory->take<uint32_t>(2);
  launch(c, 1, &clear_counts, longs.counts);
  if (may_be_long) {
    longs.most_segments = most_terms / (kChunk + 1);
    longs.most_chunks = 2 * most_terms / (kChunk + 1) + 1;
    longs.segments = c.memory->take<LongSegment>(longs.most_segments);
    longs.chunks = c.memory->take<ChunkOf>(longs.most_chunks);
    longs.partial = c.memory->take<Acc<S>>(longs.most_chunks * dim);
  }
  launch(c, blocks_for(c, most, row_groups), &sum_short<S, N, Terms, Finish>, terms, rows, dim, lanes, finish,
         longs);
  if (!may_be_long) return;
  launch(c, blocks_for(c, longs.most_chunks, row_groups), &sum_chunks<S, N, Terms>, terms, rows, dim, lanes,
         longs);
  launch(c, blocks_for(c, longs.most_segments, 1), &sum_long<S, N, Finish>, dim, lanes, finish, longs);
}

// The same with as wide loads as `wide` allows.
template <class S, class Terms, class MakeFinish>
void sum_segments_of(const Context& c, bool vectorized, const Terms& terms, int64_t most_terms,
                     int64_t longest, const void* source, int64_t dim, const MakeFinish& finish) {
  if (vectorized) {
    sum_segments<S, kVectorWidth<S>>(c, terms, most_terms, longest, source, dim, finish);
  } else {
    sum_segments<S, 1>(c, terms, most_terms, longest, source, dim, finish);
  }
}

// A finish that stores rows: out[target] = sum + residual[residual_rows[s]].
template <class S>
struct StoreRows {
  void* out;
  DType out_type;
  int64_t dim;
  const uint32_t* targets;        // null: s
  const uint32_t* first_targets;  // null, or: targets[first_targets[s]]
  const S* residual;              // null: none
  const uint32_t* residual_rows;

  struct Row {
    int64_t out, residual;
  };
  struct Common {};
  __device__ __forceinline__ Common common() const { return {}; }

  __device__ __forceinline__ Row begin(int64_t s, const Lanes&, const Common&) const {
    int64_t target = s;
    if (first_targets != nullptr) target = first_targets[s];
    if (targets != nullptr) target = targets[target];
    return {target * dim, residual != nullptr ? residual_rows[s] * dim : 0};
  }
  template <class A, int N>
  __device__ __forceinline__ void store(const Row& row, int64_t col, A (&sum)[N]) const {
    if (residual != nullptr) {
      A own[N];
      load_upcast<N>(residual + row.residual + col, own);
      add_scaled(sum, A{1}, own);
    }
    store_as(out_type, out, row.out + col, sum);
  }
};

}  // namespace resemb::cuda
