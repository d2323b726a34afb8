// Wall time of the operators' stages, counted while switched on: for benchmarks.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace resemb {

enum class Stage : int { dedupe, forward, reduce, edges, transpose, columns, update, count };

struct Profile {
  std::atomic<bool> on{false};
  std::atomic<int64_t> nanoseconds[static_cast<int>(Stage::count)] = {};
};
inline Profile profile;

// Counts the time from its making to its end.
class StageTimer {
  using Clock = std::chrono::steady_clock;

 public:
  explicit StageTimer(Stage stage) : stage_(stage), on_(profile.on.load(std::memory_order_relaxed)) {
    if (on_) start_ = Clock::now();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;
  ~StageTimer() {
    if (!on_) return;
    const auto spent = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_);
    profile.nanoseconds[static_cast<int>(stage_)] += spent.count();
  }

 private:
  Stage stage_;
  bool on_;
  Clock::time_point start_;
};

}  // namespace resemb
