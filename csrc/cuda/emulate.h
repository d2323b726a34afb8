// Runs the kernels on the host, for tests without a GPU: each CUDA thread is a fiber. Blocks run one after
// another, in a shuffled order; the fibers of a block take turns in one too, and give up theirs at barriers
// and warp operations only. x86-64 alone, for the switch of stacks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee's registers and stack in *from and goes on at `to`.
extern "C" void resemb_switch_stack(void** from, void* to);
asm(R"(
.text
.weak resemb_switch_stack
resemb_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulate {

struct Index {
  unsigned x, y, z;
};
enum class Wait { none, block, warp, done };

constexpr size_t kStack = 64 << 10;

struct Thread {
  void* stack_pointer;
  Index index;
  Wait wait;
  unsigned mask;          // of the warp operation waited for
  unsigned operations;    // warp operations so far
  uint64_t published[2];  // by parity: nobody enters the next but one before all have read this
};

inline std::vector<Thread> threads;
inline std::vector<char> stacks;
inline Thread* current;
inline void* scheduler;
inline Index block_index, block_size, grid_size;
inline unsigned live;
inline void (*body)(void*);
inline void* context;
inline uint64_t random_state = 88172645463325252u;

inline uint64_t random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

#ifdef __SANITIZE_ADDRESS__
inline const void* host_stack;
inline size_t host_size;
#endif

inline void switch_to(void** from, void* to, [[maybe_unused]] const char* stack) {
#ifdef __SANITIZE_ADDRESS__
  void* fake;
  __sanitizer_start_switch_fiber(&fake, stack ? stack : host_stack, stack ? kStack : host_size);
  resemb_switch_stack(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  resemb_switch_stack(from, to);
#endif
}

inline void pause() { switch_to(&current->stack_pointer, scheduler, nullptr); }

// Lets the block's threads go on once all that live wait at the barrier.
inline void open_barrier() {
  for (const Thread& t : threads) {
    if (t.wait != Wait::block && t.wait != Wait::done) return;
  }
  for (Thread& t : threads) {
    if (t.wait == Wait::block) t.wait = Wait::none;
  }
}

inline void entry() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_size);  // who begins a fiber is the host
#endif
  body(context);
  current->wait = Wait::done;
  --live;
  open_barrier();
  pause();
  fail("a finished thread goes on");
}

inline void barrier() {
  current->wait = Wait::block;
  open_barrier();
  if (current->wait != Wait::none || random() % 2) pause();
}

// Hands `bits` to the lanes of `mask`, all of which must arrive; returns this warp's first thread.
inline const Thread* exchange(unsigned mask, uint64_t bits, int& parity) {
  Thread* warp = &threads[current->index.x / 32 * 32];
  if (!(mask >> (current->index.x % 32) & 1)) fail("a lane outside its own mask");
  parity = current->operations++ % 2;
  current->published[parity] = bits;
  current->mask = mask;
  current->wait = Wait::warp;
  bool all = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (warp[lane].wait == Wait::done) fail("a warp operation waits for a lane that has left");
    all &= warp[lane].wait == Wait::warp && warp[lane].mask == mask;
  }
  if (all) {
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) warp[lane].wait = Wait::none;
    }
  }
  if (!all || random() % 2) pause();
  return warp;
}

inline void run_block(unsigned size) {
  threads.assign(size, Thread{});
  stacks.resize(size * kStack);
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stacks.data(), stacks.size());  // finished threads never left their frames
#endif
  std::vector<unsigned> order(size);
  for (unsigned t = 0; t < size; ++t) {
    order[t] = t;
    threads[t].index = {t, 0, 0};
    void** top =
        reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(&stacks[(t + 1) * kStack - 64]) / 16 * 16);
    *top = reinterpret_cast<void*>(&entry);  // what the first switch returns into
    threads[t].stack_pointer = top - 6;
  }
  for (live = size; live > 0;) {
    for (unsigned t = size; t > 1; --t) std::swap(order[t - 1], order[random() % t]);
    bool moved = false;
    for (const unsigned t : order) {
      current = &threads[t];
      if (current->wait != Wait::none) continue;
      moved = true;
      switch_to(&scheduler, current->stack_pointer, &stacks[t * kStack]);
    }
    if (!moved) fail("a barrier or warp operation that not all its threads reach");
  }
}

template <class F>
void launch(unsigned blocks, unsigned size, const F& kernel) {
  if (blocks == 0 || size == 0 || size % 32 != 0) fail("an impossible launch");
  body = [](void* f) { (*static_cast<const F*>(f))(); };
  context = const_cast<F*>(&kernel);
  grid_size = {blocks, 1, 1}, block_size = {size, 1, 1};
  std::vector<unsigned> order(blocks);
  for (unsigned b = 0; b < blocks; ++b) order[b] = b;
  for (unsigned b = blocks; b > 1; --b) std::swap(order[b - 1], order[random() % b]);
  for (const unsigned b : order) {
    block_index = {b, 0, 0};
    run_block(size);
  }
  context = nullptr;
}

}  // namespace emulate

#define threadIdx (emulate::current->index)
#define blockIdx (emulate::block_index)
#define blockDim (emulate::block_size)
#define gridDim (emulate::grid_size)

inline void __syncthreads() { emulate::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  int parity;
  emulate::exchange(mask, 0, parity);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int = 32) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  int parity;
  const emulate::Thread* warp = emulate::exchange(mask, bits, parity);
  std::memcpy(&value, &warp[from % 32].published[parity], sizeof value);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bit) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ bit);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return __shfl_sync(mask, value, lane < by ? lane : lane - by);
}
inline unsigned __match_any_sync(unsigned mask, unsigned value) {
  int parity;
  const emulate::Thread* warp = emulate::exchange(mask, value, parity);
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1 && warp[lane].published[parity] == value) same |= 1u << lane;
  }
  return same;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <class T>
T atomicAdd(T* place, T value) {
  const T old = *place;
  *place += value;
  return old;
}
template <class T>
T atomicMax(T* place, T value) {
  const T old = *place;
  if (value > old) *place = value;
  return old;
}
inline int atomicCAS(int* place, int expected, int value) {
  const int old = *place;
  if (old == expected) *place = value;
  return old;
}
inline void __threadfence_system() {}
