// A bucket's events by user and time, without a sort where times come in order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "graph/hash.h"
#include "graph/options.h"

namespace resemb::graph {

// Groups events by user, the users in the order in which they come first, and sorts every user's events
// stably by time. An object serves one bucket after the other.
class Ordering {
 public:
  struct Event {
    uint64_t time;  // key
    Word item;
    Word user;  // index into users()
  };

  // spans(use) calls use(records, size) for all records in order of arrival, the same at both calls of it.
  // A record has a user, an item and, by time_of(record), a time's key.
  template <class Spans, class TimeOf>
  void order(int64_t count, const Spans& spans, const TimeOf& time_of) {
    users_.clear();
    sizes_.clear();
    slots_.assign(kSlots, kFree);
    group_.resize(count);
    int64_t at = 0;
    spans([&](const auto* records, int64_t size) {
      for (int64_t r = 0; r < size; ++r) {
        const Word group = group_of(static_cast<int64_t>(records[r].user));
        ++sizes_[group];
        group_[at++] = group;
      }
    });
    Word sum = 0;
    for (Word& size : sizes_) size = std::exchange(sum, sum + size);
    events_.resize(count);
    at = 0;
    spans([&](const auto* records, int64_t size) {
      for (int64_t r = 0; r < size; ++r) {
        const Word group = group_[at++];
        events_[sizes_[group]++] = {time_of(records[r]), records[r].item, group};
      }
    });
    Word begin = 0;
    for (const Word end : sizes_) {  // by now where each user's events end
      const auto first = events_.begin() + begin, last = events_.begin() + end;
      const auto earlier = [](const Event& a, const Event& b) { return a.time < b.time; };
      if (!std::is_sorted(first, last, earlier)) std::stable_sort(first, last, earlier);
      begin = end;
    }
  }

  const std::vector<Event>& events() const { return events_; }
  const std::vector<int64_t>& users() const { return users_; }

 private:
  static constexpr size_t kSlots = 4096;  // to begin with; a power of two
  static constexpr Word kFree = ~Word{0};

  Word group_of(int64_t user) {
    size_t slot = slot_of(user);
    while (slots_[slot] != kFree) {
      if (users_[slots_[slot]] == user) return slots_[slot];
      slot = (slot + 1) & (slots_.size() - 1);
    }
    const Word group = static_cast<Word>(users_.size());
    slots_[slot] = group;
    users_.push_back(user);
    sizes_.push_back(0);
    if (2 * users_.size() > slots_.size()) grow();
    return group;
  }

  size_t slot_of(int64_t user) const {
    return static_cast<size_t>(mix64(static_cast<uint64_t>(user))) & (slots_.size() - 1);
  }

  void grow() {
    slots_.assign(2 * slots_.size(), kFree);
    for (size_t group = 0; group < users_.size(); ++group) {
      size_t slot = slot_of(users_[group]);
      while (slots_[slot] != kFree) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<Word>(group);
    }
  }

  std::vector<Word> slots_;  // of users_, or kFree
  std::vector<int64_t> users_;
  std::vector<Word> sizes_;
  std::vector<Word> group_;  // of each event, in order of arrival
  std::vector<Event> events_;
};

}  // namespace resemb::graph
