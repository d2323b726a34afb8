// Events -> one sequence of items, every user's events together in time order.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "graph/partition.h"
#include "graph/workers.h"

namespace resemb::graph {

struct Events {
  const int64_t* user;       // [count]
  const int64_t* item;       // [count]
  const int64_t* int_time;   // [count], or null
  const double* float_time;  // [count], or null; with neither time the input order counts
  int64_t count;

  // Time as an unsigned key of the same order; -0.0 equals 0.0.
  uint64_t time_key(int64_t i) const {
    constexpr uint64_t sign = uint64_t{1} << 63;
    if (int_time) return static_cast<uint64_t>(int_time[i]) ^ sign;
    if (!float_time) return 0;
    const uint64_t bits = std::bit_cast<uint64_t>(float_time[i] + 0.0);
    return bits & sign ? ~bits : bits | sign;
  }
};

// The first event that cannot be used.
class BadEvent : public std::exception {
 public:
  enum class Kind { item_range, padding_item, time_not_finite };
  BadEvent(Kind kind, int64_t index) : kind(kind), index(index) {}
  const char* what() const noexcept override { return "bad event"; }
  const Kind kind;
  const int64_t index;
};

// Collects the smallest bad index, so that the report does not depend on the threads.
class FirstBad {
 public:
  void report(int64_t index) {
    int64_t seen = index_.load(std::memory_order_relaxed);
    while (index < seen && !index_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }
  bool any() const { return index_.load() != none; }
  int64_t index() const { return index_.load(); }

 private:
  static constexpr int64_t none = INT64_MAX;
  std::atomic<int64_t> index_{none};
};

// Items in order; the highest bit marks the first event of a user.
template <class Id>
struct Sequence {
  static constexpr Id start = Id{1} << (8 * sizeof(Id) - 1);
  std::unique_ptr<Id[]> entries;
  int64_t count = 0;
};

namespace detail {

constexpr int64_t kEventGrain = 1 << 16;

inline void check_times(Workers& workers, const Events& events) {
  if (!events.float_time) return;
  FirstBad bad;
  workers.ranges(events.count, kEventGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (!std::isfinite(events.float_time[i])) return bad.report(i);
  });
  if (bad.any()) throw BadEvent(BadEvent::Kind::time_not_finite, bad.index());
}

inline bool is_sorted(Workers& workers, const Events& events) {
  std::atomic<bool> sorted{true};
  workers.ranges(events.count, kEventGrain, [&](int64_t begin, int64_t end) {
    if (!sorted.load(std::memory_order_relaxed)) return;
    for (int64_t i = std::max<int64_t>(begin, 1); i < end; ++i) {
      if (events.user[i] > events.user[i - 1]) continue;
      if (events.user[i] < events.user[i - 1] || events.time_key(i) < events.time_key(i - 1))
        return sorted.store(false, std::memory_order_relaxed);
    }
  });
  return sorted.load();
}

// Ascending users that cut the events into parts of about equal size; a part holds whole users.
inline std::vector<int64_t> user_splitters(const Events& events, int64_t parts) {
  const int64_t samples = std::min(events.count, parts * 32);
  std::vector<int64_t> sample(samples);
  for (int64_t s = 0; s < samples; ++s) sample[s] = events.user[events.count / samples * s];
  std::sort(sample.begin(), sample.end());
  std::vector<int64_t> splitters;
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t user = sample[samples * part / parts];
    if (splitters.empty() || splitters.back() < user) splitters.push_back(user);
  }
  return splitters;
}

}  // namespace detail

// The events' items sorted stably by (user, time). Every item is read once and checked against
// [0, num_items) and `padding` (-1: none) as it is read.
template <class Id>
Sequence<Id> make_sequence(Workers& workers, const Events& events, int64_t num_items, int64_t padding) {
  using namespace detail;
  const int64_t n = events.count;
  Sequence<Id> sequence{std::make_unique_for_overwrite<Id[]>(n), n};
  Id* entries = sequence.entries.get();
  FirstBad bad_range, bad_padding;
  const auto checked_item = [&](int64_t i) -> Id {
    const int64_t item = events.item[i];
    if (item < 0 || item >= num_items) {
      bad_range.report(i);
      return 0;
    }
    if (item == padding) bad_padding.report(i);
    return static_cast<Id>(item);
  };
  check_times(workers, events);
  if (is_sorted(workers, events)) {
    workers.ranges(n, kEventGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const bool first = i == 0 || events.user[i] != events.user[i - 1];
        entries[i] = checked_item(i) | (first ? Sequence<Id>::start : Id{0});
      }
      workers.advance(end - begin);
    });
  } else {
    const int64_t parts = std::clamp<int64_t>(n >> 14, 1, 1 << 15);
    const std::vector<int64_t> splitters = user_splitters(events, parts);
    auto part_of = std::make_unique_for_overwrite<uint16_t[]>(n);
    workers.ranges(n, kEventGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        part_of[i] = static_cast<uint16_t>(
            std::upper_bound(splitters.begin(), splitters.end(), events.user[i]) - splitters.begin());
    });
    auto order = std::make_unique_for_overwrite<Id[]>(n);
    const auto offsets = partition(
        workers, n, static_cast<int64_t>(splitters.size()) + 1, [&](int64_t i) { return part_of[i]; },
        order.get());
    part_of.reset();
    struct Record {
      int64_t user;
      uint64_t time;
      Id index;  // input position: makes the order total, hence stable
      Id item;
      bool operator<(const Record& other) const {
        return std::tie(user, time, index) < std::tie(other.user, other.time, other.index);
      }
    };
    std::vector<std::vector<Record>> scratch(workers.threads());
    workers.run(static_cast<int64_t>(offsets.size()) - 1, [&](int64_t part, int worker) {
      std::vector<Record>& records = scratch[worker];
      const int64_t begin = offsets[part], size = offsets[part + 1] - begin;
      records.resize(size);
      for (int64_t r = 0; r < size; ++r) {
        const int64_t i = order[begin + r];
        records[r] = {events.user[i], events.time_key(i), static_cast<Id>(i), checked_item(i)};
      }
      std::sort(records.begin(), records.end());
      for (int64_t r = 0; r < size; ++r) {
        const bool first = r == 0 || records[r].user != records[r - 1].user;
        entries[begin + r] = records[r].item | (first ? Sequence<Id>::start : Id{0});
      }
      workers.advance(size);
    });
  }
  if (bad_range.any()) throw BadEvent(BadEvent::Kind::item_range, bad_range.index());
  if (bad_padding.any()) throw BadEvent(BadEvent::Kind::padding_item, bad_padding.index());
  return sequence;
}

}  // namespace resemb::graph
