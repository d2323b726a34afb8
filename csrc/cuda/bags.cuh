// Bags of positions: the bag of every position and the factor of its embedding there.
#pragma once

#include "cuda/edges.cuh"

namespace resemb::cuda {

template <class A>
struct Bags {
  const int64_t* offsets;
  int64_t num_bags, positions;
  const uint32_t* of_position;  // [P]
  const uint32_t* sizes;        // [B] positions other than padding; null unless for a mean
  const A* sample_weights;      // [P] or null

  __device__ __forceinline__ int64_t start(int64_t b) const {
    const int64_t at = offsets[b];
    return at < 0 ? 0 : at < positions ? at : positions;
  }
  __device__ __forceinline__ Range range(int64_t b) const {
    const int64_t first = start(b), past = start(b + 1);
    return {first, past < first ? first : past};
  }
  __device__ __forceinline__ A weight(int64_t p) const {
    if (sample_weights != nullptr) return sample_weights[p];
    return sizes != nullptr ? A{1} / static_cast<A>(sizes[of_position[p]]) : A{1};
  }
};

static __global__ void check_offsets(const int64_t* offsets, int64_t num_bags, int64_t positions,
                                     uint32_t* sizes, Fault* fault) {
  for (int64_t b = first_thread(); b < num_bags; b += all_threads()) {
    if (sizes != nullptr) sizes[b] = 0;
    const bool good = offsets[b] <= offsets[b + 1] && (b > 0 || offsets[0] == 0) &&
                      (b + 1 < num_bags || offsets[num_bags] == positions);
    if (!good) report(fault, Wrong::offsets, offsets[b + 1], b + 1, positions);
  }
}

// of_position[p] = the last bag that starts at or before p; sizes are counted where wanted.
static __global__ void find_bags(const int64_t* offsets, int64_t num_bags, int64_t positions,
                                 const uint32_t* rank, uint32_t padding, uint32_t* of_position,
                                 uint32_t* sizes) {
  for (int64_t p = first_thread(); p < positions; p += all_threads()) {
    int64_t low = 0, high = num_bags - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (offsets[middle] <= p) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    of_position[p] = static_cast<uint32_t>(low);
    if (sizes != nullptr && rank[p] != padding) atomicAdd(&sizes[low], 1u);
  }
}

template <class A>
Bags<A> make_bags(const Context& c, const Lookup& x, const Groups& g) {
  uint32_t* of_position = c.memory->take<uint32_t>(x.positions + 1);
  uint32_t* sizes = x.mean ? c.memory->take<uint32_t>(x.num_bags + 1) : nullptr;
  if (x.num_bags > 0) {
    launch(c, blocks_for(c, x.num_bags, kThreads), &check_offsets, x.offsets, x.num_bags, x.positions, sizes,
           c.fault);
    launch(c, blocks_for(c, x.positions, kThreads), &find_bags, x.offsets, x.num_bags, x.positions,
           static_cast<const uint32_t*>(g.rank), static_cast<uint32_t>(x.max_unique()), of_position, sizes);
  }
  return {x.offsets, x.num_bags, x.positions, of_position, sizes, static_cast<const A*>(x.sample_weights)};
}

}  // namespace resemb::cuda
