// From masses of pairs to weights, and from an item's pairs to its row.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "graph/options.h"
#include "graph/sequence.h"
#include "graph/workers.h"

namespace resemb::graph {

// Orders candidates by (weight, -id): the bits of the weight in the upper half, the complement of the id in
// the lower.
using Rank = uint64_t;

struct Pair {
  Word other;
  uint64_t mass;
};

// Items by category, the most frequent first: its heads.
class Categories {
 public:
  Categories(const BuildOptions& options, const Word* occurrences) {
    if (!options.category || options.rows.category_edges == 0) return;
    category_ = options.category;
    heads_ = options.rows.category_edges;
    for (int64_t i = 0; i < options.num_items; ++i)
      if (category_[i] >= 0 && i != options.padding) order_.push_back(static_cast<Word>(i));
    std::sort(order_.begin(), order_.end(), [&](Word a, Word b) {
      if (category_[a] != category_[b]) return category_[a] < category_[b];
      return occurrences[a] != occurrences[b] ? occurrences[a] > occurrences[b] : a < b;
    });
    place_.resize(options.num_items);
    first_.resize(options.num_items);
    size_t first = 0;
    for (size_t at = 0; at < order_.size(); ++at) {
      if (category_[order_[at]] != category_[order_[first]]) first = at;
      place_[order_[at]] = static_cast<Word>(at - first);
      first_[order_[at]] = static_cast<Word>(first);
    }
  }

  bool any() const { return category_ != nullptr; }

  // Calls use(j) for every item that a category edge joins to `item` (not itself), each once.
  template <class Use>
  void for_each(Word item, bool directed, const Use& use) const {
    if (order_.empty() || category_[item] < 0) return;
    const size_t first = first_[item];
    if (first + place_[item] >= order_.size() || order_[first + place_[item]] != item) return;  // padding
    const bool all = !directed && static_cast<int64_t>(place_[item]) < heads_;
    for (size_t at = first; at < order_.size() && category_[order_[at]] == category_[item] &&
                            (all || static_cast<int64_t>(at - first) < heads_);
         ++at)
      if (order_[at] != item) use(order_[at]);
  }

 private:
  const int64_t* category_ = nullptr;
  int64_t heads_ = 0;
  std::vector<Word> order_;  // items with a category by (category, -events, id)
  std::vector<Word> place_;  // of an item within its category
  std::vector<Word> first_;  // where its category begins in order_
};

// What weights are made of besides the pair itself.
struct Tables {
  Tables(const BuildOptions& options, const Word* occurrences)
      : occurrences(occurrences), categories(options, occurrences) {
    if (options.rows.damping == 0) return;
    damp = std::make_unique_for_overwrite<double[]>(options.num_items);
    for (int64_t i = 0; i < options.num_items; ++i)
      damp[i] = std::pow(static_cast<double>(occurrences[i]), -options.rows.damping);
  }
  const Word* occurrences;  // events of each item
  std::unique_ptr<double[]> damp;
  Categories categories;
  // Mass of all pairs in an item's row and column (one array where pairs are symmetric), for jaccard
  // and ppmi; without the pairs of an item with itself.
  std::unique_ptr<uint64_t[]> row_mass, column_mass;
  double total_mass = 0;

  const uint64_t* columns() const { return column_mass ? column_mass.get() : row_mass.get(); }
};

inline bool needs_margins(Weighting weighting) {
  return weighting == Weighting::jaccard || weighting == Weighting::ppmi;
}

// The sum of float32 numbers >= 0 by their bits, whatever their order: integers by exponent.
class ExactSum {
 public:
  void add(uint32_t bits) {
    const uint32_t exponent = bits >> 23;
    bins_[exponent] += exponent ? (bits & 0x7fffff) | 0x800000 : (bits & 0x7fffff) << 1;
    low_ = std::min(low_, exponent);
    high_ = std::max(high_, exponent);
  }
  double take() {
    double sum = 0;
    for (uint32_t e = low_; e <= high_ && low_ < 256; ++e)
      if (const uint64_t bin = std::exchange(bins_[e], 0))
        sum += std::ldexp(static_cast<double>(bin), static_cast<int>(e) - 150);
    low_ = 256;
    high_ = 0;
    return sum;
  }

 private:
  uint64_t bins_[256] = {};
  uint32_t low_ = 256, high_ = 0;
};

// Makes rows of the graph, with their own entries, out of pairs.
class GraphRows {
 public:
  using Value = float;

  GraphRows(const Tables& tables, const RowOptions& options)
      : tables_(tables),
        options_(options),
        counts_(options.weighting == Weighting::count && options.unit == 1 && !tables.damp &&
                !tables.categories.any()) {}

  // Appends the row of `item`, ascending by neighbour, and returns its degree: self weight + the sum of
  // all weights before top_k. The pairs are distinct, in any order, without the item itself.
  double append(Word item, std::vector<Pair>& pairs, std::vector<Neighbor>& neighbors,
                std::vector<float>& weights) {
    double sum = 0;
    if (!counts_ || !take_counts(pairs, sum)) {
      ranked_.clear();
      if (tables_.categories.any()) {
        add_with_categories(item, pairs);
      } else {
        for (const Pair& pair : pairs)
          if (pair.mass >= options_.min_mass) rank(pair.other, weight(item, pair));
      }
      sum = sum_.take();
      keep_heaviest(ranked_, options_.top_k);
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
  static constexpr uint64_t kBins = 63;  // of counts; the last holds all from there on

  static Word key_of(Rank rank) { return static_cast<Word>(rank >> kBits); }
  static Word id_of(Rank rank) { return static_cast<Word>(~rank); }
  static float weight_of(Word key) { return std::bit_cast<float>(static_cast<uint32_t>(key)); }

  static void keep_heaviest(std::vector<Rank>& ranks, int64_t most) {
    if (static_cast<int64_t>(ranks.size()) <= most) return;
    std::nth_element(ranks.begin(), ranks.begin() + most, ranks.end(), std::greater<>());
    ranks.resize(most);
  }

  // The top_k of a row whose weights are its counts, and the sum of all, by a histogram: most pairs count
  // little, so that it decides over nearly all of them. False, and nothing done, where a count or the sum
  // is too large for float32 or float64 to hold exactly.
  bool take_counts(const std::vector<Pair>& pairs, double& sum) {
    const auto bin_of = [&](uint64_t mass) {
      return mass < options_.min_mass ? uint64_t{0} : std::min(mass, kBins);
    };
    int64_t bins[kBins + 1] = {};
    uint64_t total = 0, largest = 0;
    for (const Pair& pair : pairs) {
      ++bins[bin_of(pair.mass)];
      total += pair.mass < options_.min_mass ? 0 : pair.mass;
      largest = std::max(largest, pair.mass);
    }
    if (largest >> 24 || total >> 53) return false;
    sum = static_cast<double>(total);
    uint64_t level = kBins + 1;  // all bins from it on are kept, and `left` pairs of the one below
    int64_t left = options_.top_k;
    while (level > 1 && bins[level - 1] <= left) left -= bins[--level];
    if (level == 1) left = 0;
    ranked_.resize(pairs.size());
    ties_.resize(pairs.size());
    size_t above = 0, ties = 0;
    for (const Pair& pair : pairs) {
      const uint64_t bin = bin_of(pair.mass);
      const auto bits = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int64_t>(pair.mass)));
      const Rank rank = static_cast<Rank>(bits) << kBits | static_cast<Word>(~pair.other);
      ranked_[above] = ties_[ties] = rank;
      above += bin >= level;
      ties += bin + 1 == level;
    }
    ranked_.resize(above);
    ties_.resize(ties);
    keep_heaviest(ties_, left);
    ranked_.insert(ranked_.end(), ties_.begin(), ties_.end());
    return true;
  }

  // The bits of a positive float order as the float does. What rounds to 0 is no edge.
  void rank(Word other, double weight) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(weight));
    if (!(weight > 0) || bits == 0) return;
    sum_.add(bits);
    ranked_.push_back(static_cast<Rank>(bits) << kBits | static_cast<Word>(~other));
  }

  double weight(Word item, const Pair& pair) const {
    const auto real = [](uint64_t value) { return static_cast<double>(value); };
    const double count = real(pair.mass) / real(options_.unit);
    double weight = count;
    switch (options_.weighting) {
      case Weighting::count:
        break;
      case Weighting::cosine:
        weight = count / std::sqrt(real(tables_.occurrences[item]) * real(tables_.occurrences[pair.other]));
        break;
      case Weighting::jaccard:
        weight = real(pair.mass) / real(tables_.row_mass[item] + tables_.columns()[pair.other] - pair.mass);
        break;
      case Weighting::ppmi:
        weight =
            std::max(0.0, std::log(real(pair.mass) * tables_.total_mass /
                                   (real(tables_.row_mass[item]) * real(tables_.columns()[pair.other]))));
    }
    if (tables_.damp) weight *= tables_.damp[item] * tables_.damp[pair.other];
    return weight;
  }

  void add_with_categories(Word item, std::vector<Pair>& pairs) {
    const auto by_id = [](const Pair& a, const Pair& b) { return a.other < b.other; };
    std::sort(pairs.begin(), pairs.end(), by_id);
    akin_.clear();
    tables_.categories.for_each(item, options_.directed, [&](Word other) { akin_.push_back(other); });
    std::sort(akin_.begin(), akin_.end());
    size_t p = 0, a = 0;
    while (p < pairs.size() || a < akin_.size()) {
      const bool paired = p < pairs.size() && (a == akin_.size() || pairs[p].other <= akin_[a]);
      const bool akin = a < akin_.size() && (p == pairs.size() || akin_[a] <= pairs[p].other);
      const Word other = paired ? pairs[p].other : akin_[a];
      double total = 0;
      if (paired && pairs[p].mass >= options_.min_mass) total = weight(item, pairs[p]);
      if (akin) total += options_.category_weight;
      rank(other, total);
      p += paired;
      a += akin;
    }
  }

  const Tables& tables_;
  const RowOptions options_;
  const bool counts_;  // weights are counts
  ExactSum sum_;
  std::vector<Rank> ranked_, ties_;
  std::vector<Word> akin_;
};

// Keeps the masses of all pairs as they are, ascending by neighbour.
class CountRows {
 public:
  using Value = int64_t;

  CountRows(const Tables&, const RowOptions&) {}

  double append(Word, std::vector<Pair>& pairs, std::vector<Neighbor>& neighbors,
                std::vector<int64_t>& masses) {
    std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.other < b.other; });
    for (const Pair& pair : pairs) {
      neighbors.push_back(static_cast<Neighbor>(pair.other));
      masses.push_back(static_cast<int64_t>(pair.mass));
    }
    return 0;
  }
};

}  // namespace resemb::graph
