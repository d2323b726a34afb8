// What a call of the CUDA kernels has under emulation: memory, a place for faults, a device of some blocks.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cuda/update.h"
#include "expected.h"

namespace driver {

// Blocks of exactly the bytes asked for, filled with NaN and impossible indices.
class ExactMemory final : public resemb::cuda::Memory {
 public:
  void* bytes(size_t n) override {
    void* data = nullptr;
    if (posix_memalign(&data, 64, n) != 0) throw std::bad_alloc();
    std::memset(data, 0xff, n);
    blocks_.emplace_back(static_cast<char*>(data), &std::free);
    return data;
  }

 private:
  std::vector<std::unique_ptr<char, void (*)(void*)>> blocks_;
};

// Everything of one call: a stream's worth of launches on a device of `max_blocks`.
struct Call {
  ExactMemory memory;
  resemb::cuda::Fault fault{};
  resemb::cuda::Context context;
  explicit Call(int max_blocks) : context{nullptr, &memory, &fault, max_blocks} {}

  void require_no_fault() const { require(fault.state == 0, "a fault is reported where there is none"); }
};

}  // namespace driver
