// The items that a batch touches, as a bitmap over all items, and each one's rank among them.
//
// A bit an item stays in cache where a slot or a sort would not. What it costs follows what the batch
// touches: a summary, one bit a word, leads past the empty words, and only the others are cleared.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <utility>

#include "common/types.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"

namespace resemb {

class ItemSet {
 public:
  ItemSet(int64_t num_items, const Parallel& parallel)
      : words_((num_items + 63) / 64),
        summary_words_((words_ + 63) / 64),
        block_bytes_(static_cast<size_t>(words_ + summary_words_) * sizeof(uint64_t)),
        bits_(block_bytes_ > 0 ? static_cast<uint64_t*>(take_block(block_bytes_, /*zeroed=*/true)) : nullptr),
        summary_(bits_ + words_),
        before_(words_),
        parts_(parallel.threads_for(summary_words_, 16)),
        parallel_(parallel) {}
  ItemSet(const ItemSet&) = delete;
  ItemSet& operator=(const ItemSet&) = delete;
  ~ItemSet() {
    if (bits_ == nullptr) return;
    parallel_.tasks(parts_, [this](int64_t part) {
      for_words(part, [this](int64_t w) { bits_[w] = 0; });
      for (int64_t s = first(part); s < first(part + 1); ++s) summary_[s] = 0;
    });
    give_block(bits_, block_bytes_, /*zeroed=*/true);
  }

  // Any thread; 0 <= item < num_items.
  RESEMB_INLINE void add(uint64_t item) {
    if (set(bits_ + (item >> 6), item & 63)) set(summary_ + (item >> 12), item >> 6 & 63);
  }

  // The number of items, once all are added.
  int64_t count() {
    starts_ = Buffer<int64_t>(parts_ + 1);
    parallel_.tasks(parts_, [this](int64_t part) {
      int64_t n = 0;
      for_words(part, [&](int64_t w) { n += std::popcount(bits_[w]); });
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
      for_words(part, [&](int64_t w) {
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
  int64_t first(int64_t part) const { return summary_words_ * part / parts_; }

  // f(word) for the words of a part that are not zero.
  template <class F>
  void for_words(int64_t part, const F& f) const {
    for (int64_t s = first(part); s < first(part + 1); ++s) {
      for (uint64_t rest = summary_[s]; rest != 0; rest &= rest - 1) f(s * 64 + std::countr_zero(rest));
    }
  }

  // Whether the word was zero before. Most items of a batch repeat, so a plain read comes first.
  static RESEMB_INLINE bool set(uint64_t* word, uint64_t bit) {
    const std::atomic_ref<uint64_t> shared(*word);
    const uint64_t mask = uint64_t{1} << bit;
    return (shared.load(std::memory_order_relaxed) & mask) == 0 &&
           shared.fetch_or(mask, std::memory_order_relaxed) == 0;
  }

  int64_t words_, summary_words_;
  size_t block_bytes_;
  uint64_t* bits_;
  uint64_t* summary_;        // bit w % 64 of word w / 64: word w of bits_ is not zero
  Buffer<uint32_t> before_;  // set where a word is not zero
  int64_t parts_;
  Parallel parallel_;
  Buffer<int64_t> starts_;
};

}  // namespace resemb
