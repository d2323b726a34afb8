#include "cpu/buffer.h"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace resemb {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Small blocks are left to malloc, which serves them well; the pool keeps at most this much in all.
constexpr size_t kSmallestPooled = size_t{64} << 10;
constexpr size_t kPoolLimit = size_t{512} << 20;
constexpr int kMaxBlocks = 64;

struct Block {
  void* data;
  size_t bytes;
};

struct Pool {
  std::mutex mutex;
  Block blocks[kMaxBlocks];
  int count = 0;
  size_t bytes = 0;
};

// Never destroyed: a thread may still give a block back while the process ends.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

// Sizes come in steps of a quarter power of two, so that batches of similar size share blocks.
size_t round_size(size_t bytes) {
  if (bytes < kSmallestPooled) return (bytes + 63) / 64 * 64;
  const size_t step = std::bit_floor(bytes) / 4;
  return (bytes + step - 1) / step * step;
}

}  // namespace

void prefer_huge_pages(void* data, size_t bytes) {
#ifdef __linux__
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (bytes >= 2 * kHugePage && end > begin) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#else
  (void)data, (void)bytes;
#endif
}

void* take_scratch(size_t& bytes) {
  bytes = round_size(bytes);
  if (bytes >= kSmallestPooled) {
    Pool& p = pool();
    const std::lock_guard<std::mutex> lock(p.mutex);
    for (int i = 0; i < p.count; ++i) {
      if (p.blocks[i].bytes != bytes) continue;
      void* data = p.blocks[i].data;
      p.bytes -= bytes;
      p.blocks[i] = p.blocks[--p.count];
      return data;
    }
  }
  void* data = nullptr;
  if (posix_memalign(&data, bytes >= 2 * kHugePage ? kHugePage : 64, bytes) != 0) throw std::bad_alloc();
  prefer_huge_pages(data, bytes);
  return data;
}

void give_scratch(void* data, size_t bytes) noexcept {
  if (bytes >= kSmallestPooled) {
    Pool& p = pool();
    const std::lock_guard<std::mutex> lock(p.mutex);
    if (p.count < kMaxBlocks && p.bytes + bytes <= kPoolLimit) {
      p.blocks[p.count++] = {data, bytes};
      p.bytes += bytes;
      return;
    }
  }
  std::free(data);
}

size_t release_scratch() noexcept {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  const size_t bytes = p.bytes;
  while (p.count > 0) std::free(p.blocks[--p.count].data);
  p.bytes = 0;
  return bytes;
}

}  // namespace resemb
