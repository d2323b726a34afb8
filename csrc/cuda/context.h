// What every launch needs: stream, scratch, the place of faults. No CUDA headers, no torch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resemb::cuda {

// Device memory that lives as long as the call it was taken for.
class Memory {
 public:
  virtual void* bytes(size_t n) = 0;  // aligned to 16
  template <class T>
  T* take(int64_t n) {
    return static_cast<T*>(bytes(static_cast<size_t>(n) * sizeof(T)));
  }

 protected:
  ~Memory() = default;
};

// What a kernel found wrong. It goes on with what stays inside the arrays, and the host finds this later.
enum class Wrong : int32_t { id, graph, offsets, rows, stale_graph, log_weights, no_self };

// In memory that host and device see; the first report since the last reading is kept.
struct Fault {
  int32_t state;  // 0: none, 1: being written, 2: complete
  Wrong wrong;
  int64_t value, position, bound;
};

struct Context {
  void* stream;
  Memory* memory;
  Fault* fault;
  int max_blocks;  // enough to fill the device
};

}  // namespace resemb::cuda
