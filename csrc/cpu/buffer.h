// Uninitialised memory for scratch and outputs, kept between calls.
//
// A fresh allocation of this size costs more in page faults than the kernel that fills it, at every
// step anew, so freed blocks wait in a bounded process-wide pool for the next call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace resemb::cpu {

// A block of at least `bytes`, 64-byte aligned, from the pool or fresh; throws std::bad_alloc. `bytes`
// is raised to the block's size, which give_block wants back. A zeroed block is all zero, and is given
// back so. Any thread may call these.
void* take_block(size_t& bytes, bool zeroed = false);
void give_block(void* data, size_t bytes, bool zeroed = false) noexcept;

// Smallest block that is pooled; below it malloc serves as well.
constexpr size_t kSmallestPooled = size_t{64} << 10;

// Frees the pool's blocks; returns their bytes.
size_t release_blocks() noexcept;

// Asks for huge pages under what of [data, data + bytes) is not yet touched, since random rows of a
// large table cost a page walk each. Returns whether the system took the request.
bool advise_huge_pages(void* data, size_t bytes) noexcept;

// Brings the pages of a mapped file into memory, on huge ones where the system has them. Returns false, with
// nothing done, where it cannot.
bool preload_pages(void* data, size_t bytes) noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) : size_(n), bytes_(static_cast<size_t>(n) * sizeof(T)) {
    if (n > 0) data_ = static_cast<T*>(take_block(bytes_));
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) give_block(data_, bytes_);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(bytes_, other.bytes_);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
  size_t bytes_ = 0;
};

}  // namespace resemb::cpu
