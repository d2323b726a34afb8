#include "cuda/sort.h"

#include <utility>

#include "cuda/scan.cuh"

namespace resemb::cuda {
namespace {

constexpr int kBits = 8, kDigits = 1 << kBits;
constexpr int kItems = 16;  // keys a thread
constexpr int64_t kTile = kThreads * kItems;
static_assert(kDigits == kThreads, "a thread keeps the count of one digit");

__device__ __forceinline__ uint32_t digit_of(uint32_t key, int shift) { return key >> shift & (kDigits - 1); }
__device__ __forceinline__ int64_t tiles_of(int64_t n) { return (n + kTile - 1) / kTile; }

// counts[digit, tile]
__global__ void count_digits(const uint32_t* keys, Count count, int shift, uint32_t* counts) {
  __shared__ uint32_t local[kDigits];
  const int64_t n = count.get(), tiles = tiles_of(n);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    local[threadIdx.x] = 0;
    __syncthreads();
    for (int k = 0; k < kItems; ++k) {
      const int64_t i = tile * kTile + k * kThreads + threadIdx.x;
      if (i < n) atomicAdd(&local[digit_of(keys[i], shift)], 1u);
    }
    __syncthreads();
    counts[threadIdx.x * tiles + tile] = local[threadIdx.x];
  }
}

struct InPlace {
  uint32_t* numbers;
  __device__ uint32_t in(int64_t i) const { return numbers[i]; }
  __device__ void out(int64_t i, uint32_t before, uint32_t) const { numbers[i] = before; }
};

__global__ void count_counts(Count keys, uint32_t* n) {
  if (first_thread() == 0) *n = static_cast<uint32_t>(tiles_of(keys.get()) * kDigits);
}

// Moves every key behind the smaller digits of all tiles and the equal ones before it. A warp takes
// consecutive keys, so that the order among equal digits is theirs.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    move_keys(const uint32_t* keys, const uint32_t* values, uint32_t* keys_out, uint32_t* values_out,
              Count count, int shift, const uint32_t* starts) {
  __shared__ uint32_t of_warp[kWarps][kDigits];
  const int64_t n = count.get(), tiles = tiles_of(n);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    for (int w = 0; w < kWarps; ++w) of_warp[w][threadIdx.x] = 0;
    __syncthreads();
    const int64_t first = tile * kTile + warp * 32 * kItems + lane;
    uint32_t key[kItems], rank[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int64_t i = first + k * 32;
      key[k] = i < n ? keys[i] : 0;
      const uint32_t digit = digit_of(key[k], shift);
      const unsigned peers = __match_any_sync(kAllLanes, i < n ? digit : kDigits);
      const uint32_t before = i < n ? of_warp[warp][digit] : 0;
      __syncwarp();
      if (i < n && lane == __ffs(static_cast<int>(peers)) - 1) {
        of_warp[warp][digit] = before + static_cast<uint32_t>(__popc(peers));
      }
      __syncwarp();
      rank[k] = before + static_cast<uint32_t>(__popc(peers & ((1u << lane) - 1)));
    }
    __syncthreads();
    uint32_t start = starts[threadIdx.x * tiles + tile];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t here = of_warp[w][threadIdx.x];
      of_warp[w][threadIdx.x] = start;
      start += here;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int64_t i = first + k * 32;
      if (i >= n) continue;
      const uint32_t to = of_warp[warp][digit_of(key[k], shift)] + rank[k];
      keys_out[to] = key[k];
      values_out[to] = values != nullptr ? values[i] : static_cast<uint32_t>(i);
    }
    __syncthreads();  // of_warp is written again
  }
}

int passes(int bits) { return bits < 1 ? 1 : (bits + kBits - 1) / kBits; }

}  // namespace

uint32_t* SortBuffers::unsorted(int bits) const { return passes(bits) % 2 == 1 ? other_keys : keys; }

void sort_keys(const Context& c, const SortBuffers& buffers, const Count& count, int bits) {
  uint32_t *keys = buffers.keys, *values = buffers.values;
  uint32_t *keys_out = buffers.other_keys, *values_out = buffers.other_values;
  if (passes(bits) % 2 == 1) std::swap(keys, keys_out), std::swap(values, values_out);
  const int64_t tiles = (count.limit + kTile - 1) / kTile;
  uint32_t* counts = c.memory->take<uint32_t>(tiles * kDigits + 1);
  uint32_t* number = c.memory->take<uint32_t>(1);
  const int blocks = blocks_for(c, tiles, 1);
  launch(c, 1, &count_counts, count, number);
  const Count numbers{number, tiles * kDigits};
  for (int pass = 0; pass < passes(bits); ++pass) {
    const int shift = pass * kBits;
    launch(c, blocks, &count_digits, static_cast<const uint32_t*>(keys), count, shift, counts);
    exclusive_scan(c, InPlace{counts}, numbers, nullptr);
    launch(c, blocks, &move_keys, static_cast<const uint32_t*>(keys),
           static_cast<const uint32_t*>(pass == 0 ? nullptr : values), keys_out, values_out, count, shift,
           static_cast<const uint32_t*>(counts));
    std::swap(keys, keys_out);
    std::swap(values, values_out);
  }
}

}  // namespace resemb::cuda
