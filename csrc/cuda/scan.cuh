// Exclusive sums of 32-bit numbers whose count may be known on the device alone.
//
// CUB takes the count from the host, which would have to wait for the device or scan the largest count
// possible, several times the usual one.
#pragma once

#include "cuda/runtime.cuh"

namespace resemb::cuda {

constexpr int kScanItems = 8;  // a thread
constexpr int64_t kScanTile = kThreads * kScanItems;

// Of one number a thread; `total` is all of them. Every thread of the block must take part.
__device__ inline uint32_t block_exclusive(uint32_t value, uint32_t& total) {
  __shared__ uint32_t of_warp[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t sum = value;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const uint32_t before = __shfl_up_sync(kAllLanes, sum, by);
    if (lane >= by) sum += before;
  }
  if (lane == 31) of_warp[warp] = sum;
  __syncthreads();
  uint32_t before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) before = total;
    total += of_warp[w];
  }
  __syncthreads();  // of_warp may be written again
  return before + sum - value;
}

template <class F>
__global__ void scan_tiles(F f, Count count, uint32_t* tiles) {
  const int64_t n = count.get();
  for (int64_t first = blockIdx.x * kScanTile; first < n; first += gridDim.x * kScanTile) {
    uint32_t sum = 0, total;
    for (int k = 0; k < kScanItems; ++k) {
      const int64_t i = first + k * kThreads + threadIdx.x;
      if (i < n) sum += f.in(i);
    }
    block_exclusive(sum, total);
    if (threadIdx.x == 0) tiles[first / kScanTile] = total;
  }
}

// One block: makes the tiles' sums exclusive.
static __global__ void scan_sums(Count count, uint32_t* tiles, uint32_t* total_out) {
  const int64_t n = (count.get() + kScanTile - 1) / kScanTile;
  uint32_t carry = 0;
  for (int64_t first = 0; first < n; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    uint32_t total;
    const uint32_t before = block_exclusive(i < n ? tiles[i] : 0, total);
    if (i < n) tiles[i] = carry + before;
    carry += total;
  }
  if (threadIdx.x == 0 && total_out != nullptr) *total_out = carry;
}

template <class F>
__global__ void scan_write(F f, Count count, const uint32_t* tiles) {
  const int64_t n = count.get();
  for (int64_t first = blockIdx.x * kScanTile; first < n; first += gridDim.x * kScanTile) {
    uint32_t value[kScanItems], sum = 0, total;
#pragma unroll
    for (int k = 0; k < kScanItems; ++k) {
      const int64_t i = first + threadIdx.x * kScanItems + k;
      value[k] = i < n ? f.in(i) : 0;
      sum += value[k];
    }
    uint32_t before = tiles[first / kScanTile] + block_exclusive(sum, total);
#pragma unroll
    for (int k = 0; k < kScanItems; ++k) {
      const int64_t i = first + threadIdx.x * kScanItems + k;
      if (i < n) f.out(i, before, value[k]);
      before += value[k];
    }
  }
}

// f.out(i, sum of f.in(j) over j < i, f.in(i)) for i < count; the sum of all to *total where given. f.out may
// write what f.in(i) of the same i reads.
template <class F>
void exclusive_scan(const Context& c, const F& f, Count count, uint32_t* total) {
  const int64_t tiles = (count.limit + kScanTile - 1) / kScanTile;
  uint32_t* sums = c.memory->take<uint32_t>(tiles + 1);
  const int blocks = blocks_for(c, tiles, 1);
  launch(c, blocks, &scan_tiles<F>, f, count, sums);
  launch(c, 1, &scan_sums, count, sums, total);
  launch(c, blocks, &scan_write<F>, f, count, static_cast<const uint32_t*>(sums));
}

}  // namespace resemb::cuda
