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

#include "graph/heaviest.h"
#include "graph/options.h"
#include "graph/sequence.h"
#include "graph/workers.h"

namespace resemb::graph {

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
  // start: an exact sum of numbers that are all smaller.
  double take(double start = 0) {
    double sum = start;
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
  // all weights before top_k. each(use) calls use(other, mass) for each of the item's pairs, `size` at most:
  // distinct, in any order, without the item itself.
  template <class Each>
  double append(Word item, int64_t size, const Each& each, std::vector<Neighbor>& neighbors,
                std::vector<float>& weights) {
    double sum;
    if (counts_) {
      sum = take_counts(size, each);
    } else if (tables_.categories.any()) {
      pairs_.clear();
      each([&](Word other, uint64_t mass) { pairs_.push_back({other, mass}); });
      add_with_categories(item);
      sum = sum_.take();
    } else {
      heaviest_.open(options_.top_k, size);
      each([&](Word other, uint64_t mass) {
        if (mass >= options_.min_mass) rank(other, weight(item, other, mass));
      });
      sum = sum_.take();
    }
    const Rank* ranks = heaviest_.close();
    const int64_t kept = heaviest_.size();
    float self = static_cast<float>(options_.self_weight);
    if (options_.largest_self_weight)
      self = kept == 0 ? 1.0f : weight_of(*std::max_element(ranks, ranks + kept));
    writer_.write(ranks, kept, item, self, neighbors, weights);
    return static_cast<double>(self) + sum;
  }

 private:
  // Weights are the counts themselves: their sum is one of integers. Only counts of 2^24 and more round.
  template <class Each>
  double take_counts(int64_t size, const Each& each) {
    heaviest_.open(options_.top_k, size);
    Heaviest heaviest = std::move(heaviest_);  // in registers
    const uint64_t least = options_.min_mass;
    uint64_t total = 0;
    each([&](Word other, uint64_t mass) {
      const float weight = static_cast<float>(static_cast<int64_t>(mass));
      if (mass < least) return;
      if (mass >> 24)
        sum_.add(std::bit_cast<uint32_t>(weight));
      else
        total += mass;
      heaviest.add(rank_of(weight, other));
    });
    heaviest_ = std::move(heaviest);
    return sum_.take(static_cast<double>(total));
  }

  // The bits of a positive float order as the float does. What rounds to 0 is no edge.
  void rank(Word other, double weight) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(weight));
    if (!(weight > 0) || bits == 0) return;
    sum_.add(bits);
    heaviest_.add(rank_of(static_cast<float>(weight), other));
  }

  double weight(Word item, Word other, uint64_t mass) const {
    const auto real = [](uint64_t value) { return static_cast<double>(value); };
    const double count = real(mass) / real(options_.unit);
    double weight = count;
    switch (options_.weighting) {
      case Weighting::count:
        break;
      case Weighting::cosine:
        weight = count / std::sqrt(real(tables_.occurrences[item]) * real(tables_.occurrences[other]));
        break;
      case Weighting::jaccard:
        weight = real(mass) / real(tables_.row_mass[item] + tables_.columns()[other] - mass);
        break;
      case Weighting::ppmi:
        weight = std::max(0.0, std::log(real(mass) * tables_.total_mass /
                                        (real(tables_.row_mass[item]) * real(tables_.columns()[other]))));
    }
    if (tables_.damp) weight *= tables_.damp[item] * tables_.damp[other];
    return weight;
  }

  // The pairs in pairs_ and the item's category edges.
  void add_with_categories(Word item) {
    std::vector<Pair>& pairs = pairs_;
    const auto by_id = [](const Pair& a, const Pair& b) { return a.other < b.other; };
    std::sort(pairs.begin(), pairs.end(), by_id);
    akin_.clear();
    tables_.categories.for_each(item, options_.directed, [&](Word other) { akin_.push_back(other); });
    std::sort(akin_.begin(), akin_.end());
    heaviest_.open(options_.top_k, static_cast<int64_t>(pairs.size() + akin_.size()));
    size_t p = 0, a = 0;
    while (p < pairs.size() || a < akin_.size()) {
      const bool paired = p < pairs.size() && (a == akin_.size() || pairs[p].other <= akin_[a]);
      const bool akin = a < akin_.size() && (p == pairs.size() || akin_[a] <= pairs[p].other);
      const Word other = paired ? pairs[p].other : akin_[a];
      double total = 0;
      if (paired && pairs[p].mass >= options_.min_mass) total = weight(item, other, pairs[p].mass);
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
  Heaviest heaviest_;
  RowWriter writer_;
  std::vector<Pair> pairs_;
  std::vector<Word> akin_;
};

// Keeps the masses of all pairs as they are, ascending by neighbour.
class CountRows {
 public:
  using Value = int64_t;

  CountRows(const Tables&, const RowOptions&) {}

  template <class Each>
  double append(Word, int64_t, const Each& each, std::vector<Neighbor>& neighbors,
                std::vector<int64_t>& masses) {
    pairs_.clear();
    each([&](Word other, uint64_t mass) { pairs_.push_back({other, mass}); });
    std::sort(pairs_.begin(), pairs_.end(), [](const Pair& a, const Pair& b) { return a.other < b.other; });
    for (const Pair& pair : pairs_) {
      neighbors.push_back(static_cast<Neighbor>(pair.other));
      masses.push_back(static_cast<int64_t>(pair.mass));
    }
    return 0;
  }

 private:
  std::vector<Pair> pairs_;
};

}  // namespace resemb::graph
