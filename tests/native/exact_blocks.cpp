// Stands in for csrc/cpu/buffer.cpp: every block has exactly the bytes asked for, so that a sanitizer
// sees what the pool's rounding would hide. Fresh blocks hold NaN and impossible indices.
#include <cstdlib>
#include <cstring>
#include <new>

#include "cpu/buffer.h"

namespace resemb::cpu {

void* take_block(size_t& bytes, bool zeroed) {
  void* data = nullptr;
  if (posix_memalign(&data, 64, bytes) != 0) throw std::bad_alloc();
  std::memset(data, zeroed ? 0 : 0xff, bytes);
  return data;
}
void give_block(void* data, size_t bytes, bool zeroed) noexcept {
  for (size_t i = 0; zeroed && i < bytes; ++i) {
    if (static_cast<char*>(data)[i] != 0) std::abort();
  }
  std::free(data);
}
size_t release_blocks() noexcept { return 0; }

}  // namespace resemb::cpu
