// The heaviest of candidates that come one at a time, and rows in order of their ids.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <vector>

#include "graph/options.h"

namespace resemb::graph {

// Orders candidates by (weight, -id): the bits of the weight in the upper half, the complement of the id in
// the lower.
using Rank = uint64_t;

inline Rank rank_of(float weight, Word id) {
  return static_cast<Rank>(std::bit_cast<uint32_t>(weight)) << 32 | static_cast<Word>(~id);
}
inline Word id_of(Rank rank) { return static_cast<Word>(~rank); }
inline float weight_of(Rank rank) { return std::bit_cast<float>(static_cast<uint32_t>(rank >> 32)); }

// Keeps the `most` largest ranks, which are distinct and not 0. What cannot be among them is dropped as it
// comes, by the smallest of those found at the last selection, so that few candidates are sorted at all.
class Heaviest {
 public:
  // Before the candidates of a row, `candidates` at most.
  void open(int64_t most, int64_t candidates) {
    most_ = most;
    room_ = std::min(candidates, 2 * most + 64);
    if (room_ + 1 > static_cast<int64_t>(ranks_.size())) ranks_.resize(room_ + 1);
    size_ = 0;
    least_ = 0;
  }
  void add(Rank rank) {
    ranks_[size_] = rank;
    size_ += rank > least_;
    if (size_ > room_) select();
  }
  // In no particular order; valid until the next open().
  const Rank* close() {
    if (size_ > most_) select();
    return ranks_.data();
  }
  int64_t size() const { return size_; }

 private:
  void select() {
    if (most_ == 0) {
      size_ = 0;
      return;
    }
    if (size_ <= most_) return;
    std::nth_element(ranks_.begin(), ranks_.begin() + (most_ - 1), ranks_.begin() + size_, std::greater<>());
    least_ = ranks_[most_ - 1];
    size_ = most_;
  }

  std::vector<Rank> ranks_;
  int64_t most_ = 0, room_ = 0, size_ = 0;
  Rank least_ = 0;
};

// Appends entries to a row in order of their ids, which are distinct.
class RowWriter {
 public:
  void write(const Rank* ranks, int64_t size, Word own, float self, std::vector<Neighbor>& neighbors,
             std::vector<float>& weights) {
    const int64_t all = size + 1, at = static_cast<int64_t>(neighbors.size());
    neighbors.resize(at + all);
    weights.resize(at + all);
    Neighbor* to_neighbors = neighbors.data() + at;
    float* to_weights = weights.data() + at;
    if (all > kShort) {
      by_id_.resize(size);
      for (int64_t k = 0; k < size; ++k)
        by_id_[k] = static_cast<uint64_t>(id_of(ranks[k])) << 32 | ranks[k] >> 32;
      std::sort(by_id_.begin(), by_id_.end());
      int64_t before = 0;
      while (before < size && by_id_[before] >> 32 < own) ++before;
      for (int64_t k = 0; k < size; ++k) {
        const int64_t place = k + (k >= before);
        to_neighbors[place] = static_cast<Neighbor>(by_id_[k] >> 32);
        to_weights[place] = weight_of(by_id_[k] << 32);
      }
      to_neighbors[before] = static_cast<Neighbor>(own);
      to_weights[before] = self;
      return;
    }
    // An id's place is the number of smaller ones: no branch, and the compiler makes vectors of it.
    Neighbor ids[kShort];
    for (int64_t k = 0; k < size; ++k) ids[k] = static_cast<Neighbor>(id_of(ranks[k]));
    ids[size] = static_cast<Neighbor>(own);
    for (int64_t k = 0; k < all; ++k) {
      const Neighbor id = ids[k];
      int32_t place = 0;
      for (int64_t other = 0; other < all; ++other) place += ids[other] < id;
      to_neighbors[place] = id;
      to_weights[place] = k < size ? weight_of(ranks[k]) : self;
    }
  }

 private:
  static constexpr int64_t kShort = 64;
  std::vector<uint64_t> by_id_;
};

}  // namespace resemb::graph
