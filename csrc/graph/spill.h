// Files that hold what memory does not: without a name, so that nothing is left behind however the process
// ends, or with one, so that another process can go on.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace resemb::graph {

// A file that another process left and that holds something else than it wrote.
struct DamagedFile : std::runtime_error {
  explicit DamagedFile(const std::string& path)
      : std::runtime_error(path + " is not what the build wrote; its work is dropped: build again") {}
};

class SpillFile {
 public:
  explicit SpillFile(const std::string& folder) : folder_(folder) {
#ifdef O_TMPFILE
    fd_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
#endif
    if (fd_ < 0) {  // a file system without unnamed files
      std::string path = folder + "/resemb-graph-XXXXXX";
      fd_ = ::mkstemp(path.data());
      if (fd_ < 0) fail();
      ::unlink(path.c_str());
    }
  }
  // With a name, made where it is not there yet. size: bytes of it that count; what follows is of no use.
  SpillFile(const std::string& folder, const std::string& name, int64_t size)
      : folder_(folder), name_(name), end_(size) {
    fd_ = ::open((folder + "/" + name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) fail();
  }
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;
  ~SpillFile() { ::close(fd_); }

  int64_t append(const void* data, int64_t size) {
    const int64_t at = end_.fetch_add(size);
    write(data, size, at);
    return at;
  }
  int64_t size() const { return end_; }
  void write(const void* data, int64_t size, int64_t at) {
    const char* from = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t done = ::pwrite(fd_, from, size, at);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail();
      from += done, at += done, size -= done;
    }
  }
  void read(void* data, int64_t size, int64_t at) const {
    char* to = static_cast<char*>(data);
    while (size > 0) {
      const ssize_t done = ::pread(fd_, to, size, at);
      if (done < 0 && errno == EINTR) continue;
      if (done == 0 && !name_.empty()) throw DamagedFile(folder_ + "/" + name_);
      if (done == 0) errno = EIO;
      if (done <= 0) fail();
      to += done, at += done, size -= done;
    }
  }

 private:
  [[noreturn]] void fail() const {
    throw std::system_error(errno, std::generic_category(), "spilling events into folder " + folder_);
  }
  const std::string folder_, name_;
  int fd_ = -1;
  std::atomic<int64_t> end_{0};
};

}  // namespace resemb::graph
