// Large arrays: on huge pages where the system gives them, since most of their cost is page faults.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace resemb::graph {

constexpr int64_t kHugePage = int64_t{1} << 21;

// Asks for huge pages under memory that has not been touched yet.
inline void advise_huge([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~uintptr_t{kHugePage - 1};
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~uintptr_t{kHugePage - 1};
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Uninitialised.
template <class T>
std::unique_ptr<T[]> large_array(int64_t size) {
  auto data = std::make_unique_for_overwrite<T[]>(size);
  advise_huge(data.get(), size * static_cast<int64_t>(sizeof(T)));
  return data;
}

// Memory that has served its purpose: pages that were touched once cost no second fault.
class Spare {
 public:
  using Slab = std::pair<std::shared_ptr<std::byte[]>, int64_t>;  // with its bytes

  void add(std::unique_ptr<std::byte[]> slab, int64_t bytes) { slabs_.emplace_back(std::move(slab), bytes); }

  // A slab of at least so many bytes; null where there is none.
  Slab take(int64_t bytes) {
    std::lock_guard lock(mutex_);
    if (slabs_.empty() || slabs_.back().second < bytes) return {};
    Slab slab = std::move(slabs_.back());
    slabs_.pop_back();
    return slab;
  }

 private:
  std::mutex mutex_;
  std::vector<Slab> slabs_;
};

// Hands out small arrays from slabs, spare ones first; a slab is freed with the last array that came from it.
class Slabs {
 public:
  template <class T>
  std::shared_ptr<T[]> take(int64_t size, Spare& spare) {
    const int64_t bytes = (size * static_cast<int64_t>(sizeof(T)) + 63) & ~int64_t{63};
    if (!slab_ || used_ + bytes > size_) {
      std::tie(slab_, size_) = spare.take(bytes);
      if (!slab_) {
        size_ = std::max(4 * kHugePage, bytes);
        slab_ = large_array<std::byte>(size_);
      }
      used_ = 0;
    }
    std::byte* at = slab_.get() + std::exchange(used_, used_ + bytes);
    return std::shared_ptr<T[]>(slab_, reinterpret_cast<T*>(at));
  }

 private:
  std::shared_ptr<std::byte[]> slab_;
  int64_t size_ = 0, used_ = 0;
};

}  // namespace resemb::graph
