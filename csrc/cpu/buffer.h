// Uninitialised scratch memory, kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace resemb {

// Asks for huge pages under a large fresh allocation: page faults on 4 KiB pages cost as much as the
// kernel that fills them. Where the system has none to give, this changes nothing.
void prefer_huge_pages(void* data, size_t bytes);

// A block of at least `bytes`, 64-byte aligned, from the process-wide pool of free blocks or fresh;
// throws std::bad_alloc. `bytes` is raised to the block's size, which give_scratch wants back.
void* take_scratch(size_t& bytes);
void give_scratch(void* data, size_t bytes) noexcept;

// Frees the pool's blocks; returns their bytes.
size_t release_scratch() noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) : size_(n), bytes_(static_cast<size_t>(n) * sizeof(T)) {
    if (n > 0) data_ = static_cast<T*>(take_scratch(bytes_));
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) give_scratch(data_, bytes_);
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

}  // namespace resemb
