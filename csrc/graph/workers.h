// Worker threads for long builds: tasks are handed out one at a time while the calling thread polls.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace resemb::graph {

class Workers {
 public:
  // Called on the calling thread while workers run; it may throw to stop them.
  using Poll = std::function<void(int64_t done, int64_t total)>;

  Workers(int threads, int64_t total, Poll poll)
      : threads_(std::max(1, threads)), total_(total), poll_(std::move(poll)) {}

  int threads() const { return threads_; }
  void advance(int64_t amount) { done_.fetch_add(amount, std::memory_order_relaxed); }
  // Long loops ask this and return early; what they leave behind is thrown away.
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  // body(task, worker) for every task in [0, tasks). Returns when all workers have ended; the first
  // exception of a worker or of the poll is thrown here.
  template <class F>
  void run(int64_t tasks, const F& body) {
    if (tasks <= 0) return;
    const int workers = static_cast<int>(std::min<int64_t>(threads_, tasks));
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable ended;
    std::exception_ptr error;
    int running = workers;
    auto work = [&](int worker) {
      try {
        for (int64_t task; !stopped() && (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
          body(task, worker);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        stop_.store(true, std::memory_order_relaxed);
      }
      std::lock_guard lock(mutex);
      if (--running == 0) ended.notify_one();
    };
    {
      std::vector<std::jthread> pool;  // joins on every way out of this block
      try {
        pool.reserve(workers);
        for (int worker = 0; worker < workers; ++worker) pool.emplace_back(work, worker);
        while (!wait(mutex, ended, running)) poll_(done_.load(std::memory_order_relaxed), total_);
      } catch (...) {
        stop_.store(true, std::memory_order_relaxed);
        throw;
      }
    }
    if (error) std::rethrow_exception(error);
  }

  // body(begin, end) over [0, n) in pieces of `grain`.
  template <class F>
  void ranges(int64_t n, int64_t grain, const F& body) {
    run((n + grain - 1) / grain,
        [&](int64_t task, int) { body(task * grain, std::min(n, (task + 1) * grain)); });
  }

 private:
  static bool wait(std::mutex& mutex, std::condition_variable& ended, const int& running) {
    std::unique_lock lock(mutex);
    return ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; });
  }

  const int threads_;
  const int64_t total_;
  const Poll poll_;
  std::atomic<int64_t> done_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace resemb::graph
