// What kernels are written with: the CUDA runtime, or its emulation on the host.
#pragma once

#ifdef RESEMB_EMULATE
#include "cuda/emulate.h"
#else
#include <cuda_runtime.h>
#endif

#include <stdexcept>
#include <string>

#include "common/types.h"
#include "cuda/context.h"

namespace resemb::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Blocks that must share a multiprocessor: leaves ptxas 128 registers a thread. Told none, or to fit more, it
// spills.
constexpr int kBlocksAtOnce = 2;
constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks for `work` pieces, `each` of them a block; kernels loop over what is left.
inline int blocks_for(const Context& c, int64_t work, int64_t each) {
  const int64_t blocks = (work + each - 1) / each;
  return static_cast<int>(blocks < 1 ? 1 : blocks > c.max_blocks ? c.max_blocks : blocks);
}

template <class... P, class... A>
void launch([[maybe_unused]] const Context& c, int blocks, void (*kernel)(P...), A... arguments) {
#ifdef RESEMB_EMULATE
  emulate::launch(blocks, kThreads, [&] { kernel(arguments...); });
#else
  // clang-format off: it takes the brackets for shifts
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(c.stream)>>>(arguments...);
  // clang-format on
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw std::runtime_error(std::string("resemb_ext: a CUDA kernel did not start: ") +
                             cudaGetErrorString(error));
  }
#endif
}

// A number that may be known on the device alone: there *device, and never more than `limit`.
struct Count {
  const uint32_t* device;  // null: it is `limit`
  int64_t limit;

  __device__ __forceinline__ int64_t get() const {
    if (device == nullptr) return limit;
    const int64_t n = *device;
    return n < limit ? n : limit;
  }
};

__device__ __forceinline__ int64_t first_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t all_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

__device__ inline void report(Fault* fault, Wrong wrong, int64_t value, int64_t position, int64_t bound) {
  if (atomicCAS(&fault->state, 0, 1) != 0) return;
  fault->wrong = wrong;
  fault->value = value;
  fault->position = position;
  fault->bound = bound;
  __threadfence_system();
  *const_cast<volatile int32_t*>(&fault->state) = 2;
}

}  // namespace resemb::cuda
