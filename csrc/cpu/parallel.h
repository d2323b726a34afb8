// Task parallelism for the CPU kernels; the operator layer supplies torch's thread pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace resemb::cpu {

class Parallel {
 public:
  // Runs body(context) once on each of `threads` threads.
  using Launch = void (*)(int threads, void (*body)(void*), void* context);

  Parallel(int threads, Launch launch) : threads_(threads < 1 ? 1 : threads), launch_(launch) {}

  int threads() const { return threads_; }

  // body(task) for task in [0, tasks), handed out one at a time; `body` must not throw.
  template <class F>
  void tasks(int64_t tasks, const F& body) const {
    by_worker(threads_, tasks, [&](int, int64_t task) { body(task); });
  }

  // body(worker, task) likewise, on at most `workers` threads; two calls of one worker never overlap.
  template <class F>
  void by_worker(int workers, int64_t tasks, const F& body) const {
    const int threads = static_cast<int>(std::min<int64_t>(std::min(threads_, workers), tasks));
    if (threads <= 1) {
      for (int64_t t = 0; t < tasks; ++t) body(0, t);
      return;
    }
    struct Context {
      const F& body;
      int64_t tasks;
      std::atomic<int64_t> next;
      std::atomic<int> worker;
    } context{body, tasks, {0}, {0}};
    launch_(
        threads,
        [](void* pointer) {
          auto& c = *static_cast<Context*>(pointer);
          const int worker = c.worker.fetch_add(1, std::memory_order_relaxed);
          for (int64_t t; (t = c.next.fetch_add(1, std::memory_order_relaxed)) < c.tasks;) c.body(worker, t);
        },
        &context);
  }

  // body(begin, end) over [0, n) in pieces of about `grain`.
  template <class F>
  void ranges(int64_t n, int64_t grain, const F& body) const {
    const int64_t pieces = (n + grain - 1) / grain;
    tasks(pieces, [&](int64_t t) { body(t * grain, std::min(n, (t + 1) * grain)); });
  }

  // Threads worth waking for n elements when each should get at least `grain`.
  int threads_for(int64_t n, int64_t grain) const {
    return static_cast<int>(std::clamp<int64_t>(n / grain, 1, threads_));
  }

 private:
  int threads_;
  Launch launch_;
};

}  // namespace resemb::cpu
