// The items that a batch touches, as a bitmap over all items, and each one's rank among them.
//
// A bit an item stays in cache where a slot or a sort would not. What it costs follows what the batch
// touches: a summary, one bit a word, leads past the empty words, and only the others are cleared. Each
// worker adds to a bitmap of its own, since popular items would make threads wait for each other's lines.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "common/types.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace resemb::cpu {

class ItemSet {
 public:
  ItemSet(int64_t num_items, const Parallel& parallel)
      : parallel_(parallel),
        workers_(std::min(parallel.threads(), kMostWorkers)),
        words_(whole_lines((num_items + 63) / 64)),
        summary_words_(whole_lines((words_ + 63) / 64)),
        stride_(words_ + summary_words_),
        bytes_(static_cast<size_t>(stride_ * workers_) * sizeof(uint64_t)),
        bits_(bytes_ > 0 ? static_cast<uint64_t*>(take_block(bytes_, /*zeroed=*/true)) : nullptr),
        before_(words_),
        parts_(parallel.threads_for(summary_words_, 16)) {}
  ItemSet(const ItemSet&) = delete;
  ItemSet& operator=(const ItemSet&) = delete;
  ~ItemSet() {
    if (bits_ == nullptr) return;
    if (!merged_) merge();
    parallel_.tasks(parts_, [this](int64_t part) {
      for_words(0, part, [this](int64_t w) { bits_[w] = 0; });
      std::fill(summary(0) + first(part), summary(0) + first(part + 1), 0);
    });
    give_block(bits_, bytes_, /*zeroed=*/true);
  }

  // fill(add, begin, end) over [0, n) in pieces of about `grain`, where add(item) takes 0 <= item < H.
  template <class Fill>
  void collect(int64_t n, int64_t grain, const Fill& fill) {
    parallel_.by_worker(workers_, (n + grain - 1) / grain, [&](int worker, int64_t piece) {
      uint64_t* bits = bits_ + worker * stride_;
      uint64_t* marks = summary(worker);
      const auto add = [bits, marks](uint64_t item) {
        bits[item >> 6] |= uint64_t{1} << (item & 63);
        marks[item >> 12] |= uint64_t{1} << (item >> 6 & 63);
      };
      fill(add, piece * grain, std::min(n, (piece + 1) * grain));
    });
  }

  // The number of items, once all are collected.
  int64_t count() {
    merge();
    starts_ = Buffer<int64_t>(parts_ + 1);
    parallel_.tasks(parts_, [this](int64_t part) {
      int64_t n = 0;
      for_words(0, part, [&](int64_t w) { n += std::popcount(bits_[w]); });
      starts_[part] = n;
    });
    int64_t total = 0;
    for (int64_t part = 0; part < parts_; ++part) total += std::exchange(starts_[part], total);
    return total;
  }

  // Writes the items, ascending; after count(). From then on ranks are known.
  template <class Int>
  void list(Int* out) {
    parallel_.tasks(parts_, [this, out](int64_t part) {
      int64_t n = starts_[part];
      for_words(0, part, [&](int64_t w) {
        before_[w] = static_cast<uint32_t>(n);
        for (uint64_t rest = bits_[w]; rest != 0; rest &= rest - 1) {
          out[n++] = static_cast<Int>(w * 64 + std::countr_zero(rest));
        }
      });
    });
  }

  // rank(item) = before[item / 64] + the bits of word item / 64 below the item's.
  const uint64_t* bits() const { return bits_; }
  const uint32_t* before() const { return before_.data(); }

 private:
  static constexpr int kMostWorkers = 32;  // their bitmaps take 4 bytes an item

  static int64_t whole_lines(int64_t words) { return (words + 7) / 8 * 8; }
  int64_t first(int64_t part) const { return summary_words_ * part / parts_; }
  uint64_t* summary(int worker) const { return bits_ + worker * stride_ + words_; }

  // f(word) for the words of a part that are not zero.
  template <class F>
  void for_words(int worker, int64_t part, const F& f) const {
    for (int64_t s = first(part); s < first(part + 1); ++s) {
      for (uint64_t rest = summary(worker)[s]; rest != 0; rest &= rest - 1)
        f(s * 64 + std::countr_zero(rest));
    }
  }

  // Into the first worker's bitmap, leaving the others empty.
  void merge() {
    merged_ = true;
    if (workers_ == 1) return;
    parallel_.tasks(parts_, [this](int64_t part) {
      for (int worker = 1; worker < workers_; ++worker) {
        uint64_t* bits = bits_ + worker * stride_;
        for_words(worker, part, [this, bits](int64_t w) { bits_[w] |= std::exchange(bits[w], 0); });
        for (int64_t s = first(part); s < first(part + 1); ++s) {
          summary(0)[s] |= std::exchange(summary(worker)[s], 0);
        }
      }
    });
  }

  Parallel parallel_;
  int workers_;
  int64_t words_, summary_words_, stride_;
  size_t bytes_;
  uint64_t* bits_;           // of each worker: words, then their summary
  Buffer<uint32_t> before_;  // items before each word that is not zero
  int64_t parts_;            // ranges of summary words, each one task
  Buffer<int64_t> starts_;   // items before each part
  bool merged_ = false;
};

}  // namespace resemb::cpu
