// One item's pairs: counts the co-occurrences around its positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "graph/sequence.h"
#include "graph/weigh.h"

namespace resemb::graph {

// Count: a word that holds the largest mass of a pair.
template <class Count>
class PairCounter {
 public:
  PairCounter(const Sequence& sequence, int64_t num_items, const RowOptions& options)
      : sequence_(sequence),
        options_(options),
        counts_(static_cast<Count*>(std::calloc(std::max<int64_t>(num_items, 1), sizeof(Count)))) {
    if (!counts_) throw std::bad_alloc();
  }

  // Counts the pairs of an item. positions: where the item occurs, and up to `readable` where those occur
  // that are counted next.
  void count(const Word* positions, int64_t size, int64_t readable, const Workers& workers) {
    const bool decay = !options_.mass.empty();
    if (sequence_.reach)
      decay ? scan<true, true>(positions, size, readable, workers)
            : scan<false, true>(positions, size, readable, workers);
    else
      decay ? scan<true, false>(positions, size, readable, workers)
            : scan<false, false>(positions, size, readable, workers);
  }

  // Items with a count.
  int64_t touched() const { return touched_size_; }

  // use(other, mass) for all pairs of `item` with other items, in order of first touch; forgets them.
  template <class Use>
  void take(Word item, const Use& use) {
    Count* counts = counts_.get();
    const Word* touched = touched_.data();
    const int64_t size = std::exchange(touched_size_, 0);
    for (int64_t t = 0; t < size; ++t) {
      const Word other = touched[t];
      const Count mass = std::exchange(counts[other], Count{0});
      if (other != item) use(other, static_cast<uint64_t>(mass));
    }
  }

 private:
  static constexpr Word kStart = Sequence::start;

  template <bool kDecay, bool kReach>
  void scan(const Word* positions, int64_t size, int64_t readable, const Workers& workers) {
    constexpr int64_t ahead = 16;  // positions to prefetch: an item's events lie far apart
    const Word* entries = sequence_.entries.get();
    const Word* reach = sequence_.reach.get();
    const int64_t window = options_.window, count = sequence_.count;
    const bool directed = options_.directed;
    const uint64_t* mass = options_.mass.data();
    Count* counts = counts_.get();
    Word* touched = nullptr;
    int64_t filled = touched_size_;
    const auto add = [&](Word other, int64_t distance) {
      const Count seen = counts[other];
      touched[filled] = other;
      filled += seen == 0;
      counts[other] = static_cast<Count>(seen + (kDecay ? mass[distance - 1] : 1));
    };
    const int64_t chunk = std::max<int64_t>(1, 2048 / window);
    for (int64_t begin = 0; begin < size && !workers.stopped(); begin += chunk) {
      const int64_t end = std::min(size, begin + chunk);
      touched = room_for(filled + (end - begin) * 2 * window);
      for (int64_t k = begin; k < end; ++k) {
        if (k + ahead < readable) {  // a window may cross a line of the cache
          const int64_t next = positions[k + ahead];
          __builtin_prefetch(entries + std::max<int64_t>(0, next - window));
          __builtin_prefetch(entries + std::min(count - 1, next + window));
        }
        const int64_t position = positions[k];
        const int64_t last = kReach ? position + static_cast<int64_t>(reach[position])
                                    : std::min(count - 1, position + window);
        for (int64_t at = position + 1; at <= last && !(entries[at] & kStart); ++at)
          add(entries[at], at - position);
        if (directed) continue;
        const int64_t first = std::max<int64_t>(0, position - window);
        for (int64_t at = position; at > first && !(entries[at] & kStart);) {
          --at;
          if (kReach && at + static_cast<int64_t>(reach[at]) < position) break;
          add(entries[at] & ~kStart, position - at);
        }
      }
    }
    touched_size_ = filled;
  }

  // Room for `need` first touches and one more write.
  Word* room_for(int64_t need) {
    if (need + 1 > static_cast<int64_t>(touched_.size()))
      touched_.resize(std::max(need + 1, 2 * static_cast<int64_t>(touched_.size())));
    return touched_.data();
  }

  struct Free {
    void operator()(Count* data) const { std::free(data); }
  };

  const Sequence& sequence_;
  const RowOptions& options_;
  std::unique_ptr<Count[], Free> counts_;  // [num_items], zero between rows
  std::vector<Word> touched_;              // items with a count, in order of first touch
  int64_t touched_size_ = 0;
};

}  // namespace resemb::graph
