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

#include "graph/options.h"
#include "graph/partition.h"
#include "graph/workers.h"

namespace resemb::graph {

// Time as an unsigned key of the same order; -0.0 equals 0.0.
constexpr uint64_t kSign = uint64_t{1} << 63;
inline uint64_t key_of_time(int64_t time) { return static_cast<uint64_t>(time) ^ kSign; }
inline uint64_t key_of_time(double time) {
  const uint64_t bits = std::bit_cast<uint64_t>(time + 0.0);
  return bits & kSign ? ~bits : bits | kSign;
}
inline double float_of_key(uint64_t key) { return std::bit_cast<double>(key & kSign ? key ^ kSign : ~key); }

struct Events {
  const int64_t* user;       // [count]
  const int64_t* item;       // [count]
  const int64_t* int_time;   // [count], or null
  const double* float_time;  // [count], or null; with neither time the input order counts
  int64_t count;

  Events from(int64_t first, int64_t size) const {
    return {user + first, item + first, int_time ? int_time + first : nullptr,
            float_time ? float_time + first : nullptr, size};
  }

  uint64_t time_key(int64_t i) const {
    if (int_time) return key_of_time(int_time[i]);
    return float_time ? key_of_time(float_time[i]) : 0;
  }
};

// Whether two times, later >= earlier, lie within a limit.
struct TimeLimit {
  bool floating;
  int64_t int_limit;
  double float_limit;
  bool holds(uint64_t earlier, uint64_t later) const {
    if (floating) return float_of_key(later) - float_of_key(earlier) <= float_limit;
    return later - earlier <= static_cast<uint64_t>(int_limit);
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

// Items in order; the highest bit marks the first event of a user or session.
struct Sequence {
  static constexpr Word start = Word{1} << 31;
  std::unique_ptr<Word[]> entries;
  // With a longest time in a pair: how many of the next events pair with this one; else null. As times
  // ascend, at + reach[at] never falls within a session.
  std::unique_ptr<Word[]> reach;
  int64_t count = 0;
};

// Marks the starts and reaches of events [begin, end) of a run that ends at `stop`.
// user_at(i), time_at(i) (a key) and item_at(i) describe event i; out and reach are indexed by i.
template <class UserAt, class TimeAt, class ItemAt>
void write_entries(int64_t begin, int64_t end, int64_t stop, const TimeLimits& limits, bool floating,
                   int64_t window, const UserAt& user_at, const TimeAt& time_at, const ItemAt& item_at,
                   Word* out, Word* reach) {
  const TimeLimit session{floating, limits.int_session, limits.float_session};
  const TimeLimit gap{floating, limits.int_gap, limits.float_gap};
  const auto starts = [&](int64_t i) {
    return i == 0 || user_at(i) != user_at(i - 1) ||
           (limits.session() && !session.holds(time_at(i - 1), time_at(i)));
  };
  for (int64_t i = begin; i < end; ++i) out[i] = item_at(i) | (starts(i) ? Sequence::start : Word{0});
  if (!limits.gap()) return;
  int64_t last = begin;
  for (int64_t i = begin; i < end; ++i) {
    last = std::max(last, i);
    while (last + 1 < stop && last < i + window && !starts(last + 1) &&
           gap.holds(time_at(i), time_at(last + 1)))
      ++last;
    reach[i] = static_cast<Word>(last - i);
  }
}

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
// [0, num_items) and the padding row as it is read.
inline Sequence make_sequence(Workers& workers, const Events& events, const BuildOptions& options) {
  using namespace detail;
  const int64_t n = events.count, num_items = options.num_items, padding = options.padding;
  const int64_t window = options.rows.window;
  const TimeLimits& limits = options.limits;
  const bool floating = events.float_time != nullptr;
  Sequence sequence;
  sequence.count = n;
  sequence.entries = std::make_unique_for_overwrite<Word[]>(n);
  if (limits.gap()) sequence.reach = std::make_unique_for_overwrite<Word[]>(n);
  Word* entries = sequence.entries.get();
  Word* reach = sequence.reach.get();
  FirstBad bad_range, bad_padding;
  const auto checked_item = [&](int64_t i) -> Word {
    const int64_t item = events.item[i];
    if (item < 0 || item >= num_items) {
      bad_range.report(i);
      return 0;
    }
    if (item == padding) bad_padding.report(i);
    return static_cast<Word>(item);
  };
  check_times(workers, events);
  if (is_sorted(workers, events)) {
    workers.ranges(n, kEventGrain, [&](int64_t begin, int64_t end) {
      write_entries(
          begin, end, n, limits, floating, window, [&](int64_t i) { return events.user[i]; },
          [&](int64_t i) { return events.time_key(i); }, checked_item, entries, reach);
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
    auto order = std::make_unique_for_overwrite<Word[]>(n);
    const auto offsets = partition(
        workers, n, static_cast<int64_t>(splitters.size()) + 1, [&](int64_t i) { return part_of[i]; },
        order.get());
    part_of.reset();
    struct Record {
      int64_t user;
      uint64_t time;
      Word index;  // input position: makes the order total, hence stable
      Word item;
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
        records[r] = {events.user[i], events.time_key(i), static_cast<Word>(i), checked_item(i)};
      }
      std::sort(records.begin(), records.end());
      write_entries(
          0, size, size, limits, floating, window, [&](int64_t r) { return records[r].user; },
          [&](int64_t r) { return records[r].time; }, [&](int64_t r) { return records[r].item; },
          entries + begin, reach ? reach + begin : nullptr);
      workers.advance(size);
    });
  }
  if (bad_range.any()) throw BadEvent(BadEvent::Kind::item_range, bad_range.index());
  if (bad_padding.any()) throw BadEvent(BadEvent::Kind::padding_item, bad_padding.index());
  return sequence;
}

}  // namespace resemb::graph
