#include "cpu/buffer.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace resemb::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPoolLimit = size_t{1} << 30;  // what the pool keeps at most
constexpr int kMaxBlocks = 64;

struct Block {
  void* data;
  size_t bytes;
  bool zeroed;
};

// Free blocks, the longest unused first.
struct Pool {
  std::mutex mutex;
  Block blocks[kMaxBlocks];
  int count = 0;
  size_t bytes = 0;

  Block remove(int at) {
    const Block block = blocks[at];
    bytes -= block.bytes;
    std::copy(blocks + at + 1, blocks + count, blocks + at);
    --count;
    return block;
  }
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

bool advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) noexcept {
#ifdef __linux__
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + bytes;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t past = end / kHugePage * kHugePage;
  return first < past && madvise(reinterpret_cast<void*>(first), past - first, MADV_HUGEPAGE) == 0;
#else
  return false;
#endif
}

bool preload_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) noexcept {
#if defined(__linux__)
  constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, of Linux 5.14
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(data) / page * page;
  const uintptr_t past = (reinterpret_cast<uintptr_t>(data) + bytes + page - 1) / page * page;
  void* start = reinterpret_cast<void*>(first);
  madvise(start, past - first, MADV_NORMAL);  // else it is read page by page
  madvise(start, past - first, MADV_HUGEPAGE);
  return madvise(start, past - first, kPopulateRead) == 0;
#else
  return false;
#endif
}

void* take_block(size_t& bytes, bool zeroed) {
  bytes = round_size(bytes);
  if (bytes >= kSmallestPooled) {
    Pool& p = pool();
    const std::lock_guard<std::mutex> lock(p.mutex);
    for (int i = p.count - 1; i >= 0; --i) {
      const Block& b = p.blocks[i];
      if (b.zeroed != zeroed || b.bytes < bytes || b.bytes > bytes + bytes / 2) continue;
      const Block block = p.remove(i);
      bytes = block.bytes;
      return block.data;
    }
  }
  void* data = nullptr;
  if (posix_memalign(&data, bytes >= kHugePage ? kHugePage : 64, bytes) != 0) throw std::bad_alloc();
  advise_huge_pages(data, bytes);
  if (zeroed) std::memset(data, 0, bytes);
  return data;
}

void give_block(void* data, size_t bytes, bool zeroed) noexcept {
  if (bytes < kSmallestPooled || bytes > kPoolLimit) {
    std::free(data);
    return;
  }
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  while (p.count == kMaxBlocks || p.bytes + bytes > kPoolLimit) std::free(p.remove(0).data);
  p.blocks[p.count++] = {data, bytes, zeroed};
  p.bytes += bytes;
}

size_t release_blocks() noexcept {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  const size_t bytes = p.bytes;
  while (p.count > 0) std::free(p.remove(p.count - 1).data);
  return bytes;
}

}  // namespace resemb::cpu
