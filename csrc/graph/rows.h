// One item's row: count the co-occurrences around its positions, weigh, keep the best.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "graph/sequence.h"

namespace resemb::graph {

enum class Weighting { count, cosine };

struct RowOptions {
  int64_t window;     // positions, >= 1
  int64_t top_k;      // other items kept in a row
  int64_t min_count;  // smallest pair count that makes an edge
  Weighting weighting;
  bool directed;             // count pairs in the row of the earlier item only
  bool largest_self_weight;  // self weight: the row's largest weight (1 in an empty row), else `self_weight`
  double self_weight;
};

// 32-bit ids, positions and counts where they suffice, else 64-bit. A Rank orders candidates by
// (weight, -id): the weight's key in the upper half, the complement of the id in the lower.
struct Narrow {
  using Word = uint32_t;
  using Rank = uint64_t;
  using Neighbor = int32_t;
};
struct Wide {
  using Word = uint64_t;
  __extension__ using Rank = unsigned __int128;
  using Neighbor = int64_t;
};

template <class Width>
class RowCounter {
 public:
  using Word = typename Width::Word;
  using Rank = typename Width::Rank;
  using Neighbor = typename Width::Neighbor;

  // occurrences: events of each item [num_items].
  RowCounter(const Sequence<Word>& sequence, const Word* occurrences, int64_t num_items,
             const RowOptions& options)
      : sequence_(sequence),
        occurrences_(occurrences),
        options_(options),
        counts_(static_cast<Word*>(std::calloc(std::max<int64_t>(num_items, 1), sizeof(Word)))) {
    if (!counts_) throw std::bad_alloc();
  }

  // Appends the row of `item`, ascending by neighbour and with the item's own entry, and returns its
  // degree: self weight + the sum of all weights before top_k. positions: where the item occurs.
  double append_row(Word item, const Word* positions, int64_t size, const Workers& workers,
                    std::vector<Neighbor>& neighbors, std::vector<float>& weights) {
    count(positions, size, workers);
    ranked_.clear();
    double sum = 0;
    for (int64_t t = 0; t < touched_size_; ++t) {
      const Word other = touched_[t];
      const Word pairs = std::exchange(counts_[other], Word{0});
      if (other == item || pairs < static_cast<uint64_t>(options_.min_count)) continue;
      const Word key = weight_key(item, other, pairs);
      sum += weight_of(key);
      ranked_.push_back(static_cast<Rank>(key) << kBits | static_cast<Word>(~other));
    }
    touched_size_ = 0;
    if (static_cast<int64_t>(ranked_.size()) > options_.top_k) {
      const auto last = ranked_.begin() + options_.top_k;
      std::nth_element(ranked_.begin(), last, ranked_.end(), std::greater<>());
      ranked_.erase(last, ranked_.end());
    }
    float self = static_cast<float>(options_.self_weight);
    if (options_.largest_self_weight)
      self = ranked_.empty() ? 1.0f : weight_of(key_of(*std::max_element(ranked_.begin(), ranked_.end())));
    // From here on the id leads: (id, weight key).
    for (Rank& rank : ranked_) rank = static_cast<Rank>(id_of(rank)) << kBits | key_of(rank);
    std::sort(ranked_.begin(), ranked_.end());
    bool self_written = false;
    const auto write = [&](Word id, float weight) {
      neighbors.push_back(static_cast<Neighbor>(id));
      weights.push_back(weight);
    };
    for (const Rank rank : ranked_) {
      const Word other = static_cast<Word>(rank >> kBits);
      if (!self_written && other > item) {
        write(item, self);
        self_written = true;
      }
      write(other, weight_of(static_cast<Word>(rank)));
    }
    if (!self_written) write(item, self);
    return static_cast<double>(self) + sum;
  }

 private:
  static constexpr int kBits = 8 * sizeof(Word);
  static constexpr Word kStart = Sequence<Word>::start;

  static Word key_of(Rank rank) { return static_cast<Word>(rank >> kBits); }
  static Word id_of(Rank rank) { return static_cast<Word>(~rank); }

  // Counts are their own key; the bits of a positive float order as the float does.
  Word weight_key(Word item, Word other, Word pairs) const {
    if (options_.weighting == Weighting::count) return pairs;
    const double norm =
        std::sqrt(static_cast<double>(occurrences_[item]) * static_cast<double>(occurrences_[other]));
    return std::bit_cast<uint32_t>(static_cast<float>(static_cast<double>(pairs) / norm));
  }
  float weight_of(Word key) const {
    if (options_.weighting == Weighting::count) return static_cast<float>(key);
    return std::bit_cast<float>(static_cast<uint32_t>(key));
  }

  void count(const Word* positions, int64_t size, const Workers& workers) {
    constexpr int64_t ahead = 12;  // positions to prefetch: an item's events lie far apart
    const Word* entries = sequence_.entries.get();
    const int64_t window = options_.window;
    int64_t steps = 0;
    for (int64_t k = 0; k < size; ++k) {
      if (k + ahead < size) __builtin_prefetch(entries + positions[k + ahead]);
      const int64_t position = positions[k];
      reserve_touched(2 * window);
      const int64_t last = std::min(sequence_.count - 1, position + window);
      for (int64_t at = position + 1; at <= last && !(entries[at] & kStart); ++at) add(entries[at]);
      if (!options_.directed) {
        const int64_t first = std::max<int64_t>(0, position - window);
        for (int64_t at = position; at > first && !(entries[at] & kStart);) {
          --at;
          add(entries[at] & ~kStart);
        }
      }
      steps += window;
      if (steps > 1 << 22) {
        if (workers.stopped()) return;
        steps = 0;
      }
    }
  }

  // Room for `more` first touches; each item is touched first once, so num_items bounds the need.
  void reserve_touched(int64_t more) {
    const int64_t need = touched_size_ + more + 1;
    if (need <= static_cast<int64_t>(touched_.size())) return;
    touched_.resize(std::max(need, 2 * static_cast<int64_t>(touched_.size())));
  }

  void add(Word other) {
    touched_[touched_size_] = other;
    touched_size_ += counts_[other]++ == 0;
  }

  struct Free {
    void operator()(Word* data) const { std::free(data); }
  };

  const Sequence<Word>& sequence_;
  const Word* occurrences_;
  const RowOptions options_;
  std::unique_ptr<Word[], Free> counts_;  // [num_items], zero between rows
  std::vector<Word> touched_;             // items with a count, in order of first touch
  int64_t touched_size_ = 0;
  std::vector<Rank> ranked_;
};

}  // namespace resemb::graph
